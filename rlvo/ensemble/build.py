"""Build a study's ensembles from what their members predicted for their validation patients.

Completion records and stored validation predictions are all it takes: no images, no network, no GPU.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

import pandas as pd

from rlvo.config.model import Configuration, Modality
from rlvo.config.sections import EnsembleConfig
from rlvo.ensemble.calibration import fit_calibrator, margins_of_mean
from rlvo.ensemble.fitting import Validation, fit_fold, score_patients
from rlvo.ensemble.selection import (
    MODALITIES,
    IncompleteError,
    by_modality,
    folds_unseen_by_pruning,
    per_spec,
    rank_configurations,
    select_configurations,
)
from rlvo.ensemble.spec import TABLE, Contender, EnsembleSpec, Member, MemberSpec
from rlvo.errors import RlvoError
from rlvo.evaluation.performance import answer_metrics
from rlvo.training.records import CompletionRecord

STUDY_ENSEMBLE = "ensemble"
"""Name of the study's own ensemble among those it declares."""
NAMED = 3
"""An error names at most so many of the things that are missing."""


def study_ensembles(
    records: Sequence[CompletionRecord],
    predictions: pd.DataFrame,
    settings: EnsembleConfig,
    *,
    modalities: Collection[Modality] = (),
    missing: Sequence[str] = (),
    partial: bool = False,
) -> dict[str, EnsembleSpec]:
    """Build every ensemble a study declares, by name: those that one opening of the hold-out may evaluate.

    `ensemble` is selected as `settings` say; `NCCT`, `CTA` and `BOTH` are its networks of one modality; each model spec
    (`densenet121 daft`, …) serves all modalities. Baselines are members of `ensemble` alone.

    Args:
        records: of all the study's trials.
        predictions: stored predictions of the finished trials (columns of `rlvo.evaluation.predictions`), and of the
            baselines that may be members.
        modalities: those the study searched (`selection.searched_modalities`).
        missing: what is already known to be missing.
        partial: build even if trials or modalities are missing; the specs' notes name them.

    Raises:
        UnfinishedError: no configuration finished all its folds.
        IncompleteError: something is missing and not `partial`.
        RlvoError: the trials are of different splits or data; predictions do not fit together.
    """
    ranking = rank_configurations(records, modalities)
    missing = (*missing, *ranking.missing)
    if missing and not partial:
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        fix = "Let the search finish, or build without them (--partial)"
        raise IncompleteError("; ".join(missing[:NAMED]) + more, fix=fix)
    usable = {candidate.configuration for candidate in ranking.candidates}
    identities = [record.identity for record in records if record.configuration in usable]
    hashes, *others = {(identity.split_hash, identity.data_hash) for identity in identities}
    if others:
        raise RlvoError("the trials were trained on different splits or data", fix="Build from one study's trials")
    validation = Validation.of(predictions, settings)
    folds = sorted({identity.fold for identity in identities})
    chosen = select_configurations(settings.selection, ranking.candidates, validation, folds, settings.weighting)
    networks = [contender for contender in chosen if not isinstance(contender, str)]
    of_modality = {modality: [c for c in networks if c.model.modality == modality] for modality in MODALITIES}
    declared: dict[str, Sequence[Contender]] = {
        STUDY_ENSEMBLE: chosen,
        **{modality: own for modality, own in of_modality.items() if own},
        **per_spec(ranking.candidates, settings.choice),
    }
    notes, unseen = (*ranking.notes, *missing), calibration_folds(records, settings)
    return {
        name: fit_ensemble(own, folds, validation, settings, hashes, notes, calibrate_on=unseen)
        for name, own in declared.items()
    }


def calibration_folds(records: Sequence[CompletionRecord], settings: EnsembleConfig) -> list[int]:
    """The folds that calibrators are fitted to: those that pruning did not see; all (none is named) in old studies."""
    return folds_unseen_by_pruning(records) if settings.calibrated_to != "folds" else []


def fit_fallbacks(
    champion: EnsembleSpec,
    predictions: pd.DataFrame,
    settings: EnsembleConfig,
    *,
    calibrate_on: Collection[int] = (),
) -> dict[str, EnsembleSpec]:
    """Fit what answers if a volume is missing, by name, the best equipped first.

    Each consists of the champion's networks whose channels are all there; of those that were trained to do without the
    ones that are not, fitted to what they then say; of the table's model if the champion has it, and of its linear
    model of the volumes, which needs NCCT and CTA. Rates are their own, but thresholds and a calibrator are fitted to
    them together. A name is left out if no network remains, or the same members as for an earlier name. `settings`
    are those of the champion; `calibrate_on` is that of `fit_ensemble`.
    """
    available = {
        "without vessels": {"ncct", "cta"},
        "without CTA": {"ncct"},
        "without NCCT": {"cta", "vessels"},
        "without NCCT and vessels": {"cta"},
    }
    folds = [fold.fold for fold in champion.folds]
    validation = Validation.of(predictions, settings)
    absences = {c: {(), *c.answers_without} for c in champion.configurations}
    baselines = [contender for contender in champion.contenders if isinstance(contender, str)]
    served: set[tuple[object, ...]] = {(tuple((c, ()) for c in champion.configurations), tuple(baselines))}
    found = {}
    for name, channels in available.items():
        lacking = {c: tuple(each for each in c.model.channels if each not in channels) for c in absences}
        remaining = tuple((c, lacking[c]) for c in champion.configurations if lacking[c] in absences[c])
        others = tuple(each for each in baselines if each == TABLE or channels.issuperset({"ncct", "cta"}))
        if remaining and (remaining, others) not in served:
            served.add((remaining, others))
            hashes, absent = (champion.split_hash, champion.data_hash), {c: gone for c, gone in remaining if gone}
            seen = validation.without(absent)
            own: list[Contender] = [*(configuration for configuration, _ in remaining), *others]
            found[name] = _asked_without(
                fit_ensemble(own, folds, seen, settings, hashes, calibrate_on=calibrate_on), absent
            )
    return found


def _asked_without(spec: EnsembleSpec, absent: Mapping[Configuration, tuple[str, ...]]) -> EnsembleSpec:
    """The ensemble with members that say which channels they are asked without."""

    def of(member: Member) -> Member:
        if not isinstance(member, MemberSpec):
            return member
        return member.model_copy(update={"absent": absent.get(member.configuration, ())})

    folds = (fold.model_copy(update={"members": tuple(map(of, fold.members))}) for fold in spec.folds)
    return spec.model_copy(update={"folds": tuple(folds)}) if absent else spec


def fit_ensemble(
    contenders: Iterable[Contender],
    folds: Sequence[int],
    validation: Validation,
    settings: EnsembleConfig,
    hashes: tuple[str, str],
    notes: Sequence[str] = (),
    *,
    calibrate_on: Collection[int] = (),
) -> EnsembleSpec:
    """Fit weights, thresholds and calibrator of an ensemble; a contender that is listed twice counts twice.

    Args:
        hashes: of the split and of the data.
        calibrate_on: the folds whose patients the calibrator is fitted to (`folds_unseen_by_pruning`); all if empty.
    """
    chosen = by_modality(contenders)
    fitted = tuple(
        fit_fold(fold, [validation.fitted(fold, c) for c in chosen], validation.table(fold, chosen), settings.weighting)
        for fold in folds
    )
    absent = [m for m in MODALITIES if m not in {c.model.modality for c in chosen if not isinstance(c, str)}]
    spec = EnsembleSpec(
        folds=fitted,
        weighting=settings.weighting,
        tie=settings.tie,
        split_hash=hashes[0],
        data_hash=hashes[1],
        notes=(
            *notes,
            *(f"no {modality} members" for modality in absent),
            *(f"fold {f.fold}: no threshold is better than chance" for f in fitted if not f.better_than_chance),
            *(
                f"fold {f.fold}: {member.label} is no better than chance and abstains"
                for f in fitted
                for member in dict.fromkeys(f.members)
                if member.abstains
            ),
        ),
    )
    scored = score_out_of_fold(spec, validation)
    if calibrate_on:
        scored = scored[scored["fold"].isin(calibrate_on)]
    calibrator = fit_calibrator(scored["label"], scored["score"], settings.calibration)
    return spec.model_copy(update={"calibration": calibrator})


def calibrate_to_answers(
    spec: EnsembleSpec, predictions: pd.DataFrame, disagreement: float, *, calibrate_on: Collection[int] = ()
) -> EnsembleSpec:
    """The ensemble with a calibrator for the mean over its folds, of the same method.

    Args:
        predictions: stored predictions of the finished trials.
        disagreement: between the ensemble's folds (`calibration.disagreement`).
        calibrate_on: that of `fit_ensemble`.
    """
    assert spec.calibration is not None
    scored = score_out_of_fold(spec, Validation.of_members(spec, predictions))
    if calibrate_on:
        scored = scored[scored["fold"].isin(calibrate_on)]
    label = scored["label"]
    margins = margins_of_mean(scored["fold"], label, scored["score"], folds=len(spec.folds), disagreement=disagreement)
    return spec.model_copy(update={"calibration": fit_calibrator(label, margins, spec.calibration.method)})


def score_out_of_fold(spec: EnsembleSpec, validation: Validation) -> pd.DataFrame:
    """Score each development patient by its own fold: index `patient`; `fold`, `label`, `score` (the margin), `vote`.

    Optimistic: the fold's weights and thresholds were fitted to these same patients.
    """
    tables = [(fold, validation.table(fold.fold, spec.contenders)) for fold in spec.folds]
    return pd.concat([score_patients(fold, table, spec.weighting) for fold, table in tables])


def validation_metrics(spec: EnsembleSpec, predictions: pd.DataFrame) -> pd.DataFrame:
    """`answer_metrics` of `score_out_of_fold`, one row per fold. Just as optimistic: say so if you show it."""
    by_fold = score_out_of_fold(spec, Validation.of_members(spec, predictions)).groupby("fold")
    rows = {fold: answer_metrics(own["label"], own["score"], own["vote"]) for fold, own in by_fold}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("fold")

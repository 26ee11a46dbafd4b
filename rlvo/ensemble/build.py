"""An ensemble, frozen from what its members said of their validation patients.

Everything here follows from completion records and stored validation predictions: no images, no network, no GPU.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import pandas as pd

from rlvo.config.model import Configuration, Modality
from rlvo.config.study import EnsembleConfig
from rlvo.ensemble.calibration import fit_calibrator
from rlvo.ensemble.fitting import fit_fold, margins
from rlvo.ensemble.selection import MODALITIES, per_spec, rank, select
from rlvo.ensemble.spec import EnsembleSpec
from rlvo.ensemble.validation import Validation
from rlvo.errors import RlvoError
from rlvo.evaluation.metrics import classification_metrics
from rlvo.training.records import CompletionRecord

STUDY_ENSEMBLE = "ensemble"
"""Name of the study's own ensemble among those it declares."""
NAMED = 3
"""How many of what is missing an error names."""


def study_ensembles(
    records: Sequence[CompletionRecord],
    predictions: pd.DataFrame,
    settings: EnsembleConfig,
    *,
    modalities: Collection[Modality] = (),
    missing: Sequence[str] = (),
    partial: bool = False,
) -> dict[str, EnsembleSpec]:
    """Every ensemble a study declares, by name: what may be evaluated at one opening of the hold-out.

    `ensemble` as `settings` select it; its modalities alone (`NCCT`, `CTA`, `BOTH`); each model spec for all
    modalities (`densenet121 daft`, ...).

    Args:
        records: of all the study's trials.
        predictions: stored predictions of the finished trials (columns of `rlvo.evaluation.predictions`).
        modalities: that the study searched (`selection.searched_modalities`).
        missing: what is known to be missing already (`Trials.missing`).
        partial: go on without trials and modalities that are missing; the specs' notes name them.

    Raises:
        RlvoError: no configuration finished all its folds; trials on different splits or data; predictions that do
            not fit together; something is missing, unless `partial`.
    """
    ranking = rank(records, modalities)
    if not ranking.candidates:
        raise RlvoError("no configuration has finished all its folds", fix="Let 'rlvo search' finish first")
    missing = (*missing, *ranking.missing)
    if missing and not partial:
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        fix = "Let 'rlvo search' finish, or go on without: rlvo ensemble --partial"
        raise RlvoError("; ".join(missing[:NAMED]) + more, where="the study's trials", fix=fix)
    finished = [record for record in records if record.status == "finished"]
    validation = Validation.of(predictions)
    folds = _folds(finished, {candidate.configuration for candidate in ranking.candidates})
    chosen = select(settings.selection, ranking.candidates, validation, folds, settings.weighting)
    alone = {m: [c for c in chosen if c.model.modality == m] for m in MODALITIES}
    declared = {
        STUDY_ENSEMBLE: chosen,
        **{modality: of_modality for modality, of_modality in alone.items() if of_modality},
        **per_spec(ranking.candidates),
    }
    notes = (*ranking.notes, *missing)
    return {name: _build(of_name, finished, validation, settings, notes) for name, of_name in declared.items()}


def build_ensemble(
    configurations: Iterable[Configuration],
    records: Sequence[CompletionRecord],
    predictions: pd.DataFrame,
    settings: EnsembleConfig,
    notes: Sequence[str] = (),
) -> EnsembleSpec:
    """Fit the ensemble of `configurations` on validation predictions alone; one that stands twice counts twice."""
    return _build(configurations, records, Validation.of(predictions), settings, notes)


def fallbacks(champion: EnsembleSpec, predictions: pd.DataFrame) -> dict[str, EnsembleSpec]:
    """What answers where a volume is missing, by name, the best equipped first.

    The champion's members whose channels are all there, each with its own rates, and with thresholds and a calibrator
    fitted for them together. A name is left out where no member remains, or the same members as for one before.
    """
    available = {
        "without vessels": {"ncct", "cta"},
        "without CTA": {"ncct"},
        "without NCCT": {"cta", "vessels"},
        "without NCCT and vessels": {"cta"},
    }
    validation = Validation.of(predictions)
    folds = [fold.fold for fold in champion.folds]
    method = champion.calibration.method if champion.calibration else "platt"
    settings = EnsembleConfig(weighting=champion.weighting, tie=champion.tie, calibration=method)
    served, found = {champion.configurations}, {}
    for name, channels in available.items():
        remaining = tuple(c for c in champion.configurations if channels.issuperset(c.model.channels))
        if remaining and remaining not in served:
            served.add(remaining)
            found[name] = _fit(remaining, folds, validation, settings, champion.split_hash, champion.data_hash)
    return found


def out_of_fold(spec: EnsembleSpec, predictions: pd.DataFrame) -> pd.DataFrame:
    """Each development patient scored by its own fold: index `patient`; `fold`, `label`, `score` (the margin), `vote`.

    Optimistic: the fold's weights and thresholds were fitted on these same patients.
    """
    return _out_of_fold(spec, Validation.of(predictions))


def validation_metrics(spec: EnsembleSpec, predictions: pd.DataFrame) -> pd.DataFrame:
    """`classification_metrics` of `out_of_fold`, a row a fold. Optimistic as that is: say so wherever it is shown."""
    folds = out_of_fold(spec, predictions).groupby("fold")
    rows = {
        fold: {
            **classification_metrics(own["label"].to_numpy(), own["vote"].to_numpy(), 0.5),
            "auc": classification_metrics(own["label"].to_numpy(), own["score"].to_numpy(), 0.0)["auc"],
        }
        for fold, own in folds
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("fold")


def _build(
    configurations: Iterable[Configuration],
    records: Sequence[CompletionRecord],
    validation: Validation,
    settings: EnsembleConfig,
    notes: Sequence[str],
) -> EnsembleSpec:
    chosen = sorted(configurations, key=lambda c: MODALITIES.index(c.model.modality))
    hashes = {(r.identity.split_hash, r.identity.data_hash) for r in records if r.configuration in chosen}
    if len(hashes) != 1:
        raise RlvoError("the trials were trained on different splits or data", fix="Build from one study's trials")
    return _fit(chosen, _folds(records, chosen), validation, settings, *hashes.pop(), notes)


def _fit(
    chosen: Sequence[Configuration],
    folds: Sequence[int],
    validation: Validation,
    settings: EnsembleConfig,
    split_hash: str,
    data_hash: str,
    notes: Sequence[str] = (),
) -> EnsembleSpec:
    fitted = tuple(
        fit_fold(fold, [validation.fitted(fold, c) for c in chosen], validation.table(fold, chosen), settings.weighting)
        for fold in folds
    )
    absent = [m for m in MODALITIES if m not in {c.model.modality for c in chosen}]
    spec = EnsembleSpec(
        folds=fitted,
        weighting=settings.weighting,
        tie=settings.tie,
        split_hash=split_hash,
        data_hash=data_hash,
        notes=(
            *notes,
            *(f"no {modality} members" for modality in absent),
            *(f"fold {f.fold}: no threshold is better than chance" for f in fitted if not f.better_than_chance),
        ),
    )
    scored = _out_of_fold(spec, validation)
    calibrator = fit_calibrator(scored["label"], scored["score"], settings.calibration)
    return spec.model_copy(update={"calibration": calibrator})


def _out_of_fold(spec: EnsembleSpec, validation: Validation) -> pd.DataFrame:
    tables = [validation.table(fold.fold, spec.configurations) for fold in spec.folds]
    return pd.concat([margins(fold, table, spec.weighting) for fold, table in zip(spec.folds, tables, strict=True)])


def _folds(records: Iterable[CompletionRecord], configurations: Collection[Configuration]) -> list[int]:
    return sorted({record.identity.fold for record in records if record.configuration in configurations})

"""An ensemble, frozen from what its members said of their validation patients.

Everything here follows from completion records and stored validation predictions: no images, no network, no GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from rlvo.config.model import Configuration
from rlvo.config.study import EnsembleConfig
from rlvo.ensemble.member import MemberSpec, member_key
from rlvo.ensemble.selection import MODALITIES, best_per_modality, best_spec, candidates, per_spec
from rlvo.ensemble.spec import EnsembleSpec, FoldSpec
from rlvo.errors import RlvoError
from rlvo.evaluation.metrics import classification_metrics
from rlvo.evaluation.thresholds import better_than_chance, youden_threshold
from rlvo.training.records import CompletionRecord

STUDY_ENSEMBLE = "ensemble"
"""Name of the study's own ensemble among those it declares."""


def study_ensembles(
    records: Sequence[CompletionRecord], predictions: pd.DataFrame, settings: EnsembleConfig
) -> dict[str, EnsembleSpec]:
    """Every ensemble a study declares, by name: what may be evaluated at one opening of the hold-out.

    `ensemble` as `settings` select it; its modalities alone (`NCCT`, `CTA`, `BOTH`); each model spec for all
    modalities (`densenet121 daft`, ...). A trial or modality that is missing is named in the specs' notes.

    Args:
        records: of all the study's trials.
        predictions: stored predictions of the finished trials (columns of `rlvo.evaluation.predictions`).

    Raises:
        RlvoError: no configuration finished all its folds; trials on different splits or data; predictions that do
            not fit together.
    """
    ranked, notes = candidates(records)
    if not ranked:
        raise RlvoError("no configuration has finished all its folds", fix="Let 'rlvo search' finish first")
    groups = per_spec(ranked)
    chosen = best_per_modality(ranked) if settings.selection == "best_per_modality" else groups[best_spec(ranked)]
    declared = {STUDY_ENSEMBLE: chosen} | {c.model.modality: [c] for c in chosen} | groups
    finished = [record for record in records if record.status == "finished"]
    return {name: build_ensemble(of_name, finished, predictions, settings, notes) for name, of_name in declared.items()}


def build_ensemble(
    configurations: Iterable[Configuration],
    records: Sequence[CompletionRecord],
    predictions: pd.DataFrame,
    settings: EnsembleConfig,
    notes: Sequence[str] = (),
) -> EnsembleSpec:
    """Fit the ensemble of `configurations`, one a modality, on validation predictions alone."""
    chosen = sorted(configurations, key=lambda c: MODALITIES.index(c.model.modality))
    hashes = {(r.identity.split_hash, r.identity.data_hash) for r in records if r.configuration in chosen}
    if len(hashes) != 1:
        raise RlvoError("the trials were trained on different splits or data", fix="Build from one study's trials")
    ((split_hash, data_hash),) = hashes
    fold_numbers = sorted({record.identity.fold for record in records if record.configuration in chosen})
    folds = tuple(_fit_fold(fold, chosen, predictions, settings) for fold in fold_numbers)
    absent = [m for m in MODALITIES if m not in {c.model.modality for c in chosen}]
    return EnsembleSpec(
        folds=folds,
        weighting=settings.weighting,
        tie=settings.tie,
        split_hash=split_hash,
        data_hash=data_hash,
        notes=(
            *notes,
            *(f"no {modality} members" for modality in absent),
            *(f"fold {f.fold}: no threshold is better than chance" for f in folds if not f.better_than_chance),
        ),
    )


def out_of_fold(spec: EnsembleSpec, predictions: pd.DataFrame) -> pd.DataFrame:
    """Each development patient scored by its own fold: index `patient`; `fold`, `label`, `score` (the margin), `vote`.

    Optimistic: the fold's weights and thresholds were fitted on these same patients.
    """
    return pd.concat([_scored(fold, spec, predictions) for fold in spec.folds])


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


def _fit_fold(
    fold: int, chosen: Sequence[Configuration], predictions: pd.DataFrame, settings: EnsembleConfig
) -> FoldSpec:
    table = _validation(fold, [member_key(configuration, fold) for configuration in chosen], predictions)
    members = tuple(_fit_member(configuration, fold, table) for configuration in chosen)
    unfitted = FoldSpec(fold=fold, members=members, threshold=0.0, better_than_chance=False)
    label, score = table["label"].to_numpy(), unfitted.score(_columns(table), settings.weighting)
    threshold, informative = youden_threshold(label, score), better_than_chance(label, score)
    return FoldSpec(fold=fold, members=members, threshold=threshold, better_than_chance=informative)


def _fit_member(configuration: Configuration, fold: int, table: pd.DataFrame) -> MemberSpec:
    label, probability = table["label"].to_numpy(), table[member_key(configuration, fold)].to_numpy()
    threshold = youden_threshold(label, probability)
    positive = probability >= threshold
    return MemberSpec(
        configuration=configuration,
        fold=fold,
        threshold=threshold,
        tpr=float(positive[label == 1].mean()),
        tnr=float((~positive)[label == 0].mean()),
        better_than_chance=better_than_chance(label, probability),
    )


def _scored(fold: FoldSpec, spec: EnsembleSpec, predictions: pd.DataFrame) -> pd.DataFrame:
    table = _validation(fold.fold, [member.key for member in fold.members], predictions)
    score = fold.score(_columns(table), spec.weighting)
    return table[["label"]].assign(
        fold=fold.fold, score=score - fold.threshold, vote=(score >= fold.threshold).astype(int)
    )


def _validation(fold: int, members: Sequence[str], predictions: pd.DataFrame) -> pd.DataFrame:
    """A fold's validation patients, sorted: `label` and a column of probabilities a member.

    Raises RlvoError where the members do not cover the same patients once each, with the same labels.
    """
    rows = predictions[(predictions["split"] == "validation") & (predictions["fold"] == fold)]
    tables = {key: rows[rows["member"] == key].set_index("patient").sort_index() for key in members}
    label = tables[members[0]]["label"]
    for key, table in tables.items():
        where = f"member {key}"
        if table.empty:
            raise RlvoError("its validation predictions are missing", where=where, fix="Run the search again")
        if not table.index.is_unique or not table.index.equals(label.index):
            raise RlvoError("the members of a fold were not validated on the same patients", where=where)
        if not (table["label"] == label).all():
            raise RlvoError("the members of a fold disagree on its patients' labels", where=where)
    return pd.DataFrame({"label": label, **{key: table["probability"] for key, table in tables.items()}})


def _columns(table: pd.DataFrame) -> dict[str, np.ndarray]:
    return {key: table[key].to_numpy() for key in table.columns if key != "label"}

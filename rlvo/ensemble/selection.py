"""Which configurations serve an ensemble, by the validation of their best checkpoints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from rlvo.config.model import Configuration, Modality
from rlvo.training.records import CompletionRecord

MODALITIES: tuple[Modality, ...] = get_args(Modality)


@dataclass(frozen=True)
class Candidate:
    """A configuration whose every fold is finished."""

    configuration: Configuration
    auc: float
    """Mean over folds of `val/auc` at each fold's best checkpoint."""

    @property
    def modality(self) -> Modality:
        return self.configuration.model.modality

    @property
    def spec(self) -> str:
        """The model spec without its modality, e.g. `densenet169 +prior daft`."""
        model = self.configuration.model
        return " ".join(part for part in (model.backbone, "+prior" if model.prior else "", model.fusion) if part)


def candidates(records: Iterable[CompletionRecord]) -> tuple[list[Candidate], list[str]]:
    """The candidates, best first; and notes: how many were pruned, which others have a fold that is not finished."""
    trials: dict[Configuration, dict[int, CompletionRecord]] = defaultdict(dict)
    for record in records:
        trials[record.configuration][record.identity.fold] = record
    folds = {fold for of_configuration in trials.values() for fold in of_configuration}
    pruned = {c for c, of_fold in trials.items() if any(r.status == "pruned" for r in of_fold.values())}
    complete: list[Candidate] = []
    notes = [f"{len(pruned)} pruned configuration(s) are left out"] if pruned else []
    for configuration, of_fold in ((c, of_fold) for c, of_fold in trials.items() if c not in pruned):
        aucs = {fold: r.metrics.get("val/auc", np.nan) for fold, r in of_fold.items() if r.status == "finished"}
        if missing := sorted(folds - {fold for fold, auc in aucs.items() if np.isfinite(auc)}):
            which = ", ".join(map(str, missing))
            notes.append(f"{configuration.label} ({configuration.key}) is left out: no usable fold {which}")
        else:
            complete.append(Candidate(configuration, float(np.mean(list(aucs.values())))))
    # The key breaks ties, so that the order the records were read in decides nothing.
    return sorted(complete, key=lambda c: (-c.auc, c.configuration.key)), sorted(notes)


def best_per_modality(ranked: Sequence[Candidate]) -> list[Configuration]:
    """The best candidate of each modality that has one; `ranked` is best first."""
    best = {candidate.modality: candidate.configuration for candidate in reversed(ranked)}
    return [best[modality] for modality in MODALITIES if modality in best]


def per_spec(ranked: Sequence[Candidate]) -> dict[str, list[Configuration]]:
    """For every model spec its best candidate of each modality: the rows of the paper's Table 3."""
    specs = sorted({candidate.spec for candidate in ranked})
    return {spec: best_per_modality([c for c in ranked if c.spec == spec]) for spec in specs}


def best_spec(ranked: Sequence[Candidate]) -> str:
    """The model spec with the most modalities; among those, the highest mean AUC over its modalities."""
    auc = {candidate.configuration: candidate.auc for candidate in ranked}
    groups = per_spec(ranked)
    return max(groups, key=lambda spec: (len(groups[spec]), np.mean([auc[c] for c in groups[spec]])))

"""What a search leaves: how every configuration ended on every fold."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rlvo.config.model import Configuration
from rlvo.training.records import OBJECTIVE, CompletionRecord


@dataclass(frozen=True)
class ConfigurationResult:
    """A configuration's folds: finished, failed, pruned, or not (yet) run."""

    configuration: Configuration
    folds: int
    records: dict[int, CompletionRecord] = field(default_factory=dict)
    """By fold: the trials that finished."""
    failures: dict[int, str] = field(default_factory=dict)
    """By fold: why a trial failed."""
    prunings: dict[int, str] = field(default_factory=dict)
    """By fold that did not finish: why the configuration was pruned."""

    @property
    def state(self) -> Literal["finished", "failed", "pruned", "unfinished"]:
        if self.failures:
            return "failed"
        if self.prunings:
            return "pruned"
        return "finished" if len(self.records) == self.folds else "unfinished"

    @property
    def auc(self) -> float | None:
        """The objective: mean over all folds of `val/auc` at each fold's best checkpoint. None unless all finished."""
        if self.state != "finished":
            return None
        return math.fsum(record.metrics[OBJECTIVE] for record in self.records.values()) / self.folds


@dataclass(frozen=True)
class SearchResult:
    """All configurations in the order they were proposed, each once."""

    configurations: tuple[ConfigurationResult, ...]
    had_work: bool = True
    """Whether a trial was left to run."""

    @property
    def best(self) -> ConfigurationResult | None:
        """The finished configuration with the highest objective; the first of equals."""
        return best_result(self.configurations)

    @property
    def failed(self) -> tuple[ConfigurationResult, ...]:
        """The configurations with a fold that failed; their `failures` say why."""
        return tuple(result for result in self.configurations if result.state == "failed")


def best_result(results: Iterable[ConfigurationResult]) -> ConfigurationResult | None:
    """The result with the highest objective, the first of equals; None where none has finished."""
    objectives = [(result.auc, result) for result in results if result.auc is not None]
    return max(objectives, key=lambda pair: pair[0])[1] if objectives else None


def trial_folder(study_folder: Path, configuration: Configuration, fold: int) -> Path:
    """Where a trial's checkpoints, predictions and record lie."""
    return study_folder / "trials" / configuration.key / f"fold-{fold}"

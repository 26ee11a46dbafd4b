"""A planted problem: learning curves by formula in place of training, so that whole searches run in seconds.

The space is the paper's 24 model specs × 3 learning rates. A configuration has a ceiling (the sum of planted effects of
its parts), a speed (high learning rates are quick and end lower) and overfits in the end; a fold is hard or easy for
all, and every configuration has luck on every fold and epoch. Curves cross, so early ranks mislead.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from rlvo.config.base import content_hash
from rlvo.config.loading import parse_study
from rlvo.config.model import Configuration
from rlvo.config.study import StudyConfig
from rlvo.search.halving import Rung, objective_at
from rlvo.search.proposals import Proposals
from rlvo.search.searcher import FoldSearcher
from rlvo.study.folder import StudyFolder
from rlvo.study.state import StudyState
from rlvo.training.records import CompletionRecord, EpochMetrics, TrialIdentity

EPOCHS, FOLDS = 60, 4
SPACE = {
    "enumerate": {
        "model.backbone": ["densenet169", "efficientnet-b0"],
        "model.modality": ["NCCT", "CTA", "BOTH"],
        "model.prior": [False, True],
        "model.fusion": ["none", "daft"],
    },
    "sample": {"training.learning_rate": {"choices": [1e-5, 1e-4, 1e-3]}},
}
PRUNING = {"pruning": "halving", "min_epochs": 10, "reduction_factor": 2, "first_folds": 1}
LUCK_OF_FOLD, LUCK_OF_EPOCH, HARDNESS = 0.01, 0.005, 0.04
"""SDs of a configuration's luck on a fold and at an epoch, and of how hard folds are."""


def planted_study(space: dict[str, dict[str, Any]] = SPACE, **search: object) -> StudyConfig:
    """The planted space, all of it enumerated but for the learning rate, with search settings."""
    return parse_study(
        {
            "name": "planted",
            "space": space,
            "search": {"sampler": "grid", **search},
            "model": {"efficientnet": {"batch_norm_momentum": 0.01}},  # luck is drawn by the configuration's key
            "training": {"epochs": EPOCHS},
            "folds": {"folds": FOLDS},
        }
    )


@dataclass
class PlantedTrials:
    """Trials of one planted problem, as the searcher sees those on disk. Survives the searchers that use it."""

    seed: int
    history: dict[tuple[str, int], list[EpochMetrics]] = field(default_factory=dict)
    records: dict[tuple[str, int], CompletionRecord] = field(default_factory=dict)
    trained: int = 0
    """Epochs trained, over all trials."""
    finished: list[tuple[int, str]] = field(default_factory=list)
    """Of each finished trial, in order: epochs trained until then, over all trials, and its configuration's key."""

    def record(self, key: str, fold: int) -> CompletionRecord | None:
        return self.records.get((key, fold))

    def epochs(self, key: str, fold: int) -> Sequence[EpochMetrics]:
        return self.history.get((key, fold), [])

    def prune(self, key: str, fold: int, configuration: Configuration, reason: str) -> None:
        self.note_end(key, fold, configuration, "pruned", reason)

    def train(self, trial: Mapping[str, Any], until: int | None = None) -> None:
        """Continue a trial, as `FoldSearcher.suggest` gave it, to epoch `until`; None: as far as it asks."""
        key, fold, until = trial["key"], trial["fold"], trial["until"] if until is None else until
        history = self.history.setdefault((key, fold), [])
        assert (key, fold) not in self.records, "an ended trial is trained"
        self.trained += until - len(history)
        configuration = Configuration.model_validate_json(trial["configuration"])
        history += curve(configuration, key, fold, self.seed)[len(history) : until]
        if until == EPOCHS:
            self.note_end(key, fold, configuration, "finished")
            self.finished.append((self.trained, key))

    def note_end(
        self, key: str, fold: int, configuration: Configuration, status: str, reason: str | None = None
    ) -> None:
        """A record with the best of the epochs so far."""
        history = self.epochs(key, fold)
        identity = TrialIdentity(study="planted", configuration=key, fold=fold, split_hash="", data_hash="")
        best = min(history, key=lambda metrics: metrics["val/loss"], default=None)
        self.records[key, fold] = CompletionRecord.model_validate(
            {
                "identity": identity,
                "configuration": configuration,
                "status": status,
                "reason": reason,
                "best_epoch": None if best is None else history.index(best) + 1,
                "epochs": len(history),
                "metrics": best or {},
                "seconds": 0.0,
            }
        )


def curve(configuration: Configuration, key: str, fold: int, seed: int) -> list[EpochMetrics]:
    """The metrics of all epochs of the trial of a configuration, with its key, on a fold."""
    effects = np.random.default_rng([seed, 1]).normal(size=8)
    model, rate = configuration.model, math.log10(configuration.training.learning_rate)
    parts = [
        0.02 * effects[0] * (model.backbone == "densenet169"),
        0.03 * effects[1] * (model.modality == "NCCT") + 0.03 * effects[2] * (model.modality == "CTA"),
        0.02 * effects[3] * model.prior,
        0.03 * effects[4] * (model.fusion == "daft"),
        0.02 * effects[5] * (model.fusion == "daft" and model.modality != "NCCT"),
    ]
    optimum = -4 + 0.5 * effects[6]
    ceiling = 0.78 + sum(parts) - 0.03 * (rate - optimum) ** 2
    halfway, decay = 4 * 10 ** (-(rate + 4) / 2), 0.0005 * 10 ** ((rate + 4) / 2)
    luck = np.random.default_rng([seed, 2, fold, int(key, 16)])
    level = ceiling + LUCK_OF_FOLD * luck.normal() + HARDNESS * np.random.default_rng([seed, 3, fold]).normal()
    epoch = np.arange(1, EPOCHS + 1)
    rise = epoch / (epoch + halfway)
    auc = 0.5 + (level - 0.5) * rise - decay * epoch + LUCK_OF_EPOCH * luck.normal(size=EPOCHS)
    return [{"train/loss": 1 - value, "val/loss": 1 - value, "val/auc": value} for value in auc.clip(0, 1).tolist()]


def full_grid(seed: int) -> dict[str, float]:
    """Every configuration's objective, by key, after all epochs on all folds."""
    study = planted_study()
    objectives = {}
    for configuration in map(study.configuration, study.grid_points()):
        key = configuration.key
        curves = [curve(configuration, key, fold, seed) for fold in range(FOLDS)]
        objectives[key] = objective_at(Rung(FOLDS, EPOCHS), curves) or 0.0
    return objectives


def optuna_trials(study: StudyFolder, name: str) -> list[FrozenTrial]:
    """The trials in a study's journal, by Optuna's own account."""
    storage = JournalStorage(JournalFileBackend(str(study.journal)))
    return optuna.load_study(study_name=name, storage=storage).trials


def search(
    config: StudyConfig,
    trials: PlantedTrials,
    study: StudyFolder,
    *,
    workers: int = 1,
    order: int = 0,
    deaths: float = 0.0,
    searcher: type[FoldSearcher] = FoldSearcher,
) -> StudyState:
    """Run a search to its end.

    Args:
        config: from `planted_study`.
        trials: the planted problem; what was trained stays in it.
        study: where the journal is kept.
        workers: how many trials run at once; which ends next is drawn.
        order: seed of the draws.
        deaths: probability that the process dies after a trial has ended, and starts again.
        searcher: what is run.
    """
    draw = random.Random(content_hash([order, workers]))
    searching = searcher(config, Proposals(config, study), trials)
    running: dict[str, dict[str, Any]] = {}
    started = 0
    while True:
        while len(running) < workers and isinstance(trial := searching.suggest(str(started)), dict):
            running[str(started)] = trial
            searching.note_running(str(started), is_running=True)
            started += 1
        if not running:
            assert searching.finished
            return searching.state
        trial_id = draw.choice(sorted(running))
        trial = running[trial_id]
        if (trial["key"], trial["fold"]) not in trials.records:
            trials.train(trial)
            searching.on_trial_result(trial_id, {})
            if draw.random() < 0.5:
                continue  # Tune says later that it has ended
        del running[trial_id]
        searching.on_trial_complete(trial_id, {})
        if draw.random() < deaths:
            for lost in running.values():  # trials that were running have trained a little further
                so_far = len(trials.epochs(lost["key"], lost["fold"]))
                if so_far < lost["until"] - 1:
                    trials.train(lost, draw.randint(so_far, lost["until"] - 1))
            running, searching = {}, searcher(config, Proposals(config, study), trials)

"""What a search leaves, made up: records of trials and their stored predictions, on 4 folds."""

from collections.abc import Sequence
from itertools import product
from typing import Literal

import numpy as np
import pandas as pd

from rlvo.config.model import Configuration, FusionName, Modality, ModelConfig
from rlvo.config.sections import EnsembleConfig
from rlvo.ensemble.build import fit_ensemble
from rlvo.ensemble.fitting import Validation
from rlvo.ensemble.spec import TABLE, Baseline, EnsembleSpec, baseline_key
from rlvo.evaluation.metrics import classification_metrics
from rlvo.training.records import CompletionRecord, TrialIdentity

FOLDS = 4
MODALITIES: tuple[Modality, ...] = ("NCCT", "CTA", "BOTH")


def configuration(modality: Modality, fusion: FusionName = "daft", *, prior: bool = False) -> Configuration:
    return Configuration(model=ModelConfig(backbone="resnet18", modality=modality, fusion=fusion, prior=prior))


def record(
    config: Configuration, fold: int, auc: float, status: Literal["finished", "failed", "pruned"] = "finished"
) -> CompletionRecord:
    identity = TrialIdentity(study="s", configuration=config.key, fold=fold, split_hash="split", data_hash="data")
    return CompletionRecord(
        identity=identity, configuration=config, status=status, epochs=1, metrics={"val/auc": auc}, seconds=1.0
    )


THREE = [configuration(modality) for modality in MODALITIES]
RECORDS = [record(config, fold, 0.7) for config in THREE for fold in range(FOLDS)]


def stored(configurations: Sequence[Configuration], seed: int = 0) -> pd.DataFrame:
    """Validation predictions for 25 patients per fold, informative, with ties; and rows that must be ignored."""
    rng = np.random.default_rng(seed)
    label = rng.random((FOLDS, 25)) < 0.35
    label[:, :2] = [False, True]
    rows = []
    for config, fold in product(configurations, range(FOLDS)):
        logit = 1.5 * label[fold] + rng.normal(size=25) - 0.5
        probability = np.round(1 / (1 + np.exp(-logit)), 2)
        rows += [
            {"patient": f"p{fold}-{i:02d}", "member": f"{config.key}-f{fold}", "fold": fold, "split": split,
             "probability": probability[i] if split == "validation" else 0.5, "label": int(label[fold, i])}
            for i in range(25) for split in ("train", "validation")
        ]  # fmt: skip
    return pd.DataFrame(rows)


def with_table(predictions: pd.DataFrame, signal: float = 1.5, seed: int = 9) -> pd.DataFrame:
    """The same, and what a model of the table says; `signal`: how far it sets the classes apart, in log-odds."""
    return with_baseline(predictions, TABLE, signal, seed)


def with_baseline(predictions: pd.DataFrame, baseline: Baseline, signal: float = 1.5, seed: int = 9) -> pd.DataFrame:
    """The same for any baseline."""
    own = predictions[predictions["split"] == "validation"].drop_duplicates("patient")
    logit = signal * own["label"] + np.random.default_rng(seed).normal(size=len(own)) - 0.5
    member = [baseline_key(baseline, fold) for fold in own["fold"]]
    return pd.concat([predictions, own.assign(member=member, probability=1 / (1 + np.exp(-logit)))])


def noise(configurations: Sequence[Configuration], seed: int, patients: int = 100) -> pd.DataFrame:
    """Validation predictions that have nothing to do with the labels, a quarter of which are positive."""
    rng = np.random.default_rng(seed)
    label = (np.arange(patients) % 4 == 0).astype(int)
    return pd.concat(
        pd.DataFrame(
            {"patient": [f"p{fold}-{i:03d}" for i in range(patients)], "member": f"{config.key}-f{fold}",
             "fold": fold, "split": "validation", "probability": rng.random(patients), "label": label}
        )
        for config, fold in product(configurations, range(FOLDS))
    )  # fmt: skip


def records_of(predictions: pd.DataFrame, configurations: Sequence[Configuration]) -> list[CompletionRecord]:
    """Finished trials whose `val/auc` is that of their stored predictions."""
    validation = predictions[predictions["split"] == "validation"]
    by_member = {str(key): own for key, own in validation.groupby("member")}
    found = []
    for config, fold in product(configurations, range(FOLDS)):
        own = by_member[f"{config.key}-f{fold}"]
        found.append(record(config, fold, classification_metrics(own["label"], own["probability"], 0.5)["auc"]))
    return found


def fitted(
    configurations: Sequence[Configuration],
    predictions: pd.DataFrame,
    settings: EnsembleConfig | None = None,
    notes: Sequence[str] = (),
) -> EnsembleSpec:
    """The ensemble of exactly these configurations."""
    settings = settings or EnsembleConfig()
    validation, hashes = Validation.of(predictions, settings), ("split", "data")
    return fit_ensemble(configurations, range(FOLDS), validation, settings, hashes, notes)

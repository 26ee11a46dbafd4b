"""A study as a search leaves it, without volumes and networks: a cohort's table, and made-up validation predictions."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlvo.cohort.reading import read_cohort
from rlvo.cohort.splits import make_split, write_split
from rlvo.config.study import StudyConfig
from rlvo.evaluation.metrics import classification_metrics
from rlvo.evaluation.predictions import write_predictions
from rlvo.files import atomic_write, file_sha256
from rlvo.search.proposals import Proposals
from rlvo.study.folder import StudyFolder, write_configuration
from rlvo.training.records import PREDICTIONS, CompletionRecord, TrialIdentity, member_key, write_record

PREDICTORS = ("age", "sex", "nihss", "occlusion_side")


def write_table(folder: Path, patients: int, seed: int = 0) -> Path:
    """A cohort's table whose ids begin with PLANTED; its volumes are empty files."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    names = [f"PLANTED-{number:03d}" for number in range(patients)]
    volumes = {kind: [f"{name}-{kind}.nii.gz" for name in names] for kind in ("ncct", "cta")}
    for path in (*volumes["ncct"], *volumes["cta"]):
        (folder / path).touch()
    rlvo = np.arange(patients) % 3 == 0
    table = {
        "patient_id": names,
        **volumes,
        "age": rng.integers(40, 90, patients),
        "sex": rng.choice(["F", "M"], patients),
        "nihss": np.where(rng.random(patients) < 0.1, None, rng.integers(2, 20, patients) + 4 * rlvo),
        "occlusion_side": rng.choice(["left", "right"], patients),
        "center": rng.choice(["North", "South"], patients),
        "rlvo": rlvo.astype(int),
    }
    pd.DataFrame(table).to_csv(folder / "cohort.csv", index=False)
    return folder / "cohort.csv"


def write_study(
    work: Path,
    table: Path,
    space: Mapping[str, Sequence[object]] | list[dict[str, object]],
    *,
    name: str = "made-up",
    folds: int = 3,
    failed: Mapping[tuple[int, int], str] | None = None,
    missing: Sequence[tuple[int, int]] = (),
    signal: float = 1.5,
    **settings: Any,
) -> StudyConfig:
    """Write `studies/<name>/` of a work folder: all trials of the space have finished, but for some.

    Args:
        table: the cohort's.
        space: the enumerated axes, or the points.
        failed: why trials failed, by configuration's number and fold.
        missing: trials that have not started.
        signal: how far the classes lie apart, in log-odds.
    """
    content: dict[str, Any] = {"name": name, "cohort": {"table": str(table), "predictors": PREDICTORS}}
    content["space"] = {"points" if isinstance(space, list) else "enumerate": space}
    config = StudyConfig.model_validate(content | {"folds": {"folds": folds}} | settings)
    study, cohort = StudyFolder(work / "studies" / name), read_cohort(table, PREDICTORS)
    split = make_split(cohort.label, config.folds, cohort.included)
    write_split(split, study.split)
    hashes = {"data_hash": "d" * 64, "split_hash": split.hash}
    atomic_write(study.inputs, json.dumps(hashes))
    atomic_write(study.config, config.model_dump_json())
    rng, proposals = np.random.default_rng(0), Proposals(config, study)
    for number in range(config.configurations):
        proposal, objectives = proposals.propose(), []
        configuration, key = proposal.configuration, proposal.key
        for fold in range(folds):
            if (number, fold) in missing:
                continue
            trial, reason = study.trial(key, fold), (failed or {}).get((number, fold))
            trial.mkdir(parents=True)
            write_configuration(trial.parent, configuration)
            patients = split.validation(fold)
            label = cohort.label[list(patients)].to_numpy()
            probability = 1 / (1 + np.exp(-(signal * label + rng.normal(size=len(label)) - signal / 2)))
            rows = {"patient": patients, "member": member_key(configuration, fold), "fold": fold, "split": "validation"}
            write_predictions(pd.DataFrame(rows | {"probability": probability, "label": label}), trial / PREDICTIONS)
            found = classification_metrics(label, probability, 0.5)
            record = CompletionRecord(
                identity=TrialIdentity(study=name, configuration=key, fold=fold, **hashes),
                configuration=configuration,
                status="failed" if reason else "finished",
                reason=reason,
                best_epoch=1,
                epochs=2,
                metrics={"val/loss": 0.5, **{f"val/{metric}": value for metric, value in found.items()}},
                files={PREDICTIONS: file_sha256(trial / PREDICTIONS)},
                seconds=60.0,
            )
            write_record(trial, record)
            objectives.append(None if reason else found["auc"])
        is_whole = len(objectives) == folds and None not in objectives
        proposals.tell(proposal, float(np.mean([each for each in objectives if each])) if is_whole else None)
    return config

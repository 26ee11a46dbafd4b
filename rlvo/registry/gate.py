"""The gate: a version becomes the champion only if it reproduces what its members predicted in training."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlvo.cohort.variables import VOLUMES, source_columns
from rlvo.errors import RlvoError
from rlvo.inference.description import ModelDescription
from rlvo.registry.process import run_model

GATE_TAG = "rlvo.gate"
"""Tag of a version: what the gate found; begins with "passed" or "failed"."""
BFLOAT16_TAG = "rlvo.bfloat16"
"""Tag of a version: what reduced precision changed for the gate's patients, if that was asked for."""
TOLERANCE = 1e-5
"""How far a member's probability may be from the stored one."""
PATIENTS_PER_FOLD = 4


def gate_result(tags: Mapping[str, str]) -> str:
    """What the gate found about the version with these tags."""
    return tags.get(GATE_TAG, "it never ran")


def has_passed(result: str) -> bool:
    """Whether this is what the gate says of a version that passed."""
    return result.startswith("passed")


@dataclass(frozen=True)
class Evidence:
    """A study's stored predictions, and what they were made from."""

    predictions: pd.DataFrame
    """Those of its finished trials, columns of `rlvo.evaluation.predictions`."""
    table: pd.DataFrame
    """The development patients' rows of the cohort table, index patient id."""
    folder: Path
    """What volume paths are relative to."""
    store: Path
    """Prepared volumes."""
    check_bfloat16: bool = False
    """Whether to answer in reduced precision too, and report what that changes."""


@dataclass(frozen=True)
class Gate:
    """What the gate found about a version."""

    tags: Mapping[str, str]
    failure: str | None
    """Why the version does not pass, for the user's terminal only: it may name a patient; the tags name none."""


def check_version(root: Path, description: ModelDescription, evidence: Evidence) -> Gate:
    """Let the verified MLflow model in `root` answer in a fresh process, and compare with the stored predictions.

    It is asked about up to 4 development patients per fold. The members of each patient's own fold must reproduce their
    stored out-of-fold probability to 1e-5, and the answer must be finite. If a patient is scored by an ensemble with
    fewer inputs, that counts for its members.
    """
    try:
        return _compare(root, description, evidence)
    except RlvoError as error:
        return _failed("it does not load or answer", str(error))


def _compare(root: Path, description: ModelDescription, evidence: Evidence) -> Gate:
    own = evidence.predictions[evidence.predictions["split"] == "validation"]
    stored = dict(zip(zip(own["member"], own["patient"], strict=True), own["probability"], strict=True))
    patients = [
        patient for fold in description.spec.folds for patient in choose_patients(fold.fold, description, evidence)
    ]
    seen: set[str] = set()
    largest, moved, changed = 0.0, 0.0, 0
    with run_model(root) as process:
        for patient, row in zip(patients, _cells(patients, description, evidence), strict=True):
            given = {"folder": str(evidence.folder), "store": str(evidence.store)}
            answer = process.answer(row, members=True, **given)
            if not _is_scored(answer):
                return _failed("a development patient is not answered for", f"patient {patient}: {answer['warnings']}")
            for member, probability in _probabilities(answer).items():
                if (member, patient) in stored:
                    seen.add(member)
                    largest = max(largest, abs(probability - stored[member, patient]))
            if evidence.check_bfloat16:
                reduced = process.answer(row, precision="bfloat16", **given)
                changed += reduced["rlvo"] != answer["rlvo"]
                moved = max(moved, abs(reduced["score"] - answer["score"]) if _is_scored(reduced) else np.inf)
    if unseen := [member.key for member in description.spec.members if member.key not in seen]:
        return _failed("there is no stored prediction to compare a member with", f"member {unseen[0]}")
    if largest > TOLERANCE:
        return _failed(f"a member does not reproduce its stored probability (difference {largest:.1e})")
    tags = {GATE_TAG: f"passed: {len(patients)} patients, largest difference {largest:.1e}"}
    if evidence.check_bfloat16:
        same = len(patients) - changed
        tags[BFLOAT16_TAG] = f"{same} of {len(patients)} decisions the same, largest difference {moved:.1e}"
    return Gate(tags, None)


def _failed(why: str, detail: str | None = None) -> Gate:
    return Gate({GATE_TAG: f"failed: {why}"}, f"{why} ({detail})" if detail else why)


def choose_patients(fold: int, description: ModelDescription, evidence: Evidence) -> list[str]:
    """Validation patients of a fold, half of them positive if there are enough, those with complete rows first."""
    rows = evidence.predictions
    own = rows[(rows["split"] == "validation") & (rows["fold"] == fold)].drop_duplicates("patient")
    needed = evidence.table.reindex(columns=source_columns(description.predictors))
    complete = needed.notna().all(axis=1).reindex(own["patient"], fill_value=False).to_numpy()
    own = own.assign(complete=complete).sort_values(["complete", "patient"], ascending=[False, True])
    half = own.groupby("label").head(PATIENTS_PER_FOLD // 2)["patient"]
    return list(dict.fromkeys([*half, *own["patient"]]))[:PATIENTS_PER_FOLD]


def _cells(patients: Sequence[str], description: ModelDescription, evidence: Evidence) -> list[dict[str, Any]]:
    """The patients' rows of a cohort table, as JSON holds them."""
    columns = ["patient_id", *VOLUMES, *source_columns(description.predictors)]
    table = evidence.table.loc[list(patients)].reset_index(names="patient_id")
    table = table[[column for column in columns if column in table]]
    return list(json.loads(table.to_json(orient="records", double_precision=15)))


def _is_scored(answer: Mapping[str, Any]) -> bool:
    return answer["rlvo"] is not None and answer["score"] is not None  # JSON has no NaN


def _probabilities(answer: Mapping[str, Any]) -> dict[str, float]:
    """Probabilities by member key, of the members that answered."""
    return {name.removeprefix("p_"): value for name, value in answer.items() if name[:2] == "p_" and value is not None}

"""Recalibration: a registered model's probabilities fitted to a hospital's own patients, as a new version."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from rlvo.about import __version__
from rlvo.config.commands import command_line
from rlvo.config.workdir import Workdir
from rlvo.ensemble.calibration import CALIBRATOR, Isotonic, Platt, fit_update, update_calibrator
from rlvo.errors import RlvoError
from rlvo.evaluation.calibration import Calibration, measure_calibration
from rlvo.files import atomic_write, parse_json
from rlvo.inference.description import DESCRIPTION
from rlvo.progress import ShowProgress, no_progress
from rlvo.registry.card import ADDED, CARD
from rlvo.registry.client import PatientTable, answer_table
from rlvo.registry.gate import GATE_TAG, TOLERANCE, Gate
from rlvo.registry.location import ARTIFACT_PATH, find_version
from rlvo.registry.register import code_provenance, register_ensemble
from rlvo.workflows.external import FITTED_TO, note_fitted_patients, open_external
from rlvo.workflows.study import tracking_of

LEAST = 10
"""A new intercept needs so many patients with rLVO, and so many without."""
LEAST_FOR_SLOPE = 50
"""With so many of either the slope is fitted too; with fewer it would rather follow chance."""
COMPARED = 8
"""The gate: so many patients must get the answers that the old version gave, but for the probability."""


@dataclass(frozen=True)
class Recalibration:
    """A new version, which differs from the old one in `probability` alone."""

    model: str
    old: str
    """Number of the version whose probabilities were fitted."""
    new: str
    patients: int
    positives: int
    intercept: float
    """New log-odds = intercept + slope × old log-odds."""
    slope: float
    """1 if there were too few patients to fit it."""
    notes: tuple[str, ...]
    """What had to be decided to read the table."""
    before: Calibration
    """Of the old version on these patients. That of the new one would be optimistic: it was fitted to them."""


def recalibrate(
    model: str,
    table: Path,
    work: Workdir,
    *,
    columns: Mapping[str, str] | None = None,
    progress: ShowProgress = no_progress,
) -> Recalibration:
    """Fit the intercept, and with enough patients the slope, of a model's log-odds to a cohort (Cox 1958).

    Members, weights, thresholds, scores and decisions stay as they are; only `probability` changes, by one function
    for every variant of the ensemble. The result is a version of its own, which is not made the champion. Which
    patients it was fitted to is noted in the work folder, where it is not evaluated on them.

    Args:
        model: a registered version, e.g. `rlvo-ensemble@champion`.
        table: a cohort table with outcomes.
        columns: our column name to the table's, if it has another.

    Raises:
        RlvoError: as `open_external`; the model is a folder or gives no probability; there are too few patients.
        MachineError: the registry does not answer, or the new version's answers are not those they should be.
    """
    question = open_external((model,), table, work, columns=columns, progress=progress)
    (admitted,), external = question.models, question.external
    tracking = tracking_of(work)
    version = find_version(admitted.name, tracking)
    answers = question.ask(0, progress, "patients")
    answered = answers["probability"].dropna()
    label = external.cohort.label.loc[answered.index].to_numpy(int)
    positives = int(label.sum())
    rarer = min(positives, len(label) - positives)
    if rarer < LEAST:
        raise RlvoError(
            f"of {len(label)} patients with a probability {positives} have rLVO: too few of either to fit to",
            where=table,
            fix=f"Add patients, until {LEAST} have it and {LEAST} don't, or use the model as it is",
        )
    intercept, slope = fit_update(label, answered, with_slope=rarer >= LEAST_FOR_SLOPE)
    if slope == 0:
        what = "the model's probabilities do not rise with the share of rLVO in these patients"
        show = command_line("evaluate", admitted.name, table, workdir=work.path)
        raise RlvoError(what, where=table, fix=f"`{show}` shows how it does on them")
    what = (
        f"recalibrated from version {version.version} on {len(label)} patients, {positives} with rLVO: "
        f"log-odds {intercept:+.3g} {slope:+.3g} × the old ones"
    )

    def check(new: Path) -> Gate:
        some = _first(external.patients, list(answered.index[:COMPARED]))
        return _compare(answers.loc[answered.index[:COMPARED]], answer_table(new, some), updated)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(shutil.copytree(admitted.folder / ARTIFACT_PATH, Path(temporary) / "model"))
        key = note_fitted_patients(external.cohort.included.loc[answered.index], work)
        updated = _update(folder / DESCRIPTION, intercept, slope, what, key)
        number = register_ensemble(
            folder,
            tracking,
            run_id=version.run_id or "",
            name=version.name,
            check=check,
            card=_card(admitted.folder, version.description or "", what),
            tags={"rlvo.recalibrated": what},
            champion=False,
        )
    before = measure_calibration(label, answered)
    numbers = version.name, str(version.version), number, len(label), positives, intercept, slope
    return Recalibration(*numbers, external.cohort.notes, before)


def _card(model: Path, description: str, what: str) -> str:
    """The old version's card under a paragraph that says what was done, and with which code the new one is packed."""
    whole = model / CARD
    card = whole.read_text() if whole.is_file() else description.split(ADDED)[0]
    packed = f"packed with the code of rlvo {__version__} ({code_provenance()['code_hash'][:12]})"
    return f"**{what[0].upper()}{what[1:]}; {packed}; below stands what it was made from.**\n\n{card}"


def _update(description: Path, intercept: float, slope: float, what: str, key: str) -> list[Platt | Isotonic]:
    """Update every variant's calibrator in a model's description, and whence it comes; return the calibrators.

    Args:
        what: was done, in words.
        key: of the patients, as noted in the work folder.
    """
    calibrators = []
    content = parse_json(description.read_bytes())
    for spec in (variant["spec"] for variant in content["variants"]):
        if spec["calibration"] is not None:
            updated = update_calibrator(CALIBRATOR.validate_python(spec["calibration"]), intercept, slope)
            spec["calibration"] = updated.model_dump(mode="json")
            calibrators.append(updated)
    old, code = content["provenance"], code_provenance()
    old.pop("commit", None)  # of the code that is not packed again
    keys = [*old.get(FITTED_TO, "").split(), key]
    content["provenance"] = old | code | {"recalibrated": what, FITTED_TO: " ".join(dict.fromkeys(keys))}
    content["rlvo_version"] = __version__
    atomic_write(description, json.dumps(content, indent=1))
    return calibrators


def _first(patients: PatientTable, ids: list[str]) -> PatientTable:
    """Some of the patients of a table."""
    cells = patients.raw.cells
    is_one = patients.typed.index.isin(ids)
    return replace(patients, raw=replace(patients.raw, cells=cells[is_one]), typed=patients.typed[is_one])


def _compare(old: pd.DataFrame, new: pd.DataFrame, calibrators: Sequence[Platt | Isotonic]) -> Gate:
    """Whether a new version answers as the old one did, with a probability that one of its calibrators gives."""
    new = new.set_index("patient_id").loc[old.index]
    score, probability = (new[name].to_numpy(float) for name in ("score", "probability"))
    wanted = np.stack([calibrator.probability(score) for calibrator in calibrators])
    far = max(np.abs(score - old["score"]).max(), np.abs(wanted - probability).min(axis=0).max())
    if not far <= TOLERANCE or (new["rlvo"] != old["rlvo"]).any():
        why = "its answers are not those of the version it was made from"
        return Gate({GATE_TAG: f"failed: {why}"}, why)
    return Gate({GATE_TAG: f"passed: {len(old)} patients, largest difference {far:.1e}"}, None)

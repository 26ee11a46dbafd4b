"""Asking a registered model about the patients of a table, one by one; answers it has already given are kept."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import Model

from rlvo.cohort.cells import DECIMAL_COMMA
from rlvo.cohort.reading import examine_table
from rlvo.cohort.tables import RawTable
from rlvo.cohort.variables import VOLUMES, did_you_mean, known_variables
from rlvo.config.predictors import OwnPredictor
from rlvo.errors import RlvoError
from rlvo.files import atomic_write, file_sha256, parse_json, private
from rlvo.imaging.reading.source import split_series
from rlvo.inference import training_cohort
from rlvo.inference.description import DESCRIPTION, read_description
from rlvo.inference.explanation import Explanation
from rlvo.inference.patients import check_rows
from rlvo.progress import Advance
from rlvo.registry.location import ARTIFACT_PATH
from rlvo.registry.model import MANIFEST
from rlvo.registry.process import plain_path, run_model


@dataclass(frozen=True, eq=False)
class PatientTable:
    """The patients a model is asked about."""

    raw: RawTable
    """Their rows as they were written."""
    typed: pd.DataFrame
    """The same rows, typed (`rlvo.cohort.reading.examine_table`)."""
    folder: Path
    """What relative volume paths are relative to."""


def input_columns(model: Path) -> tuple[str, ...]:
    """The columns a model looks at, according to its signature."""
    with plain_path(model) as path:
        signature = Model.load(str(path)).signature
    return tuple(signature.inputs.input_names()) if signature is not None else ()


def own_predictors(model: Path) -> tuple[OwnPredictor, ...]:
    """The declarations of predictors that rlvo does not know, as the model's description has them.

    It is read as it is, whichever version of rlvo wrote it; one that is written otherwise has none.
    """
    try:
        description = parse_json((model / ARTIFACT_PATH / DESCRIPTION).read_bytes())
        encoder = next(iter(description["variants"][0]["encoders"].values()))
        return tuple(OwnPredictor.model_validate(each) for each in encoder.get("own", ()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration):
        return ()


def check_patients(model: Path, raw: RawTable, folder: Path) -> PatientTable:
    """Type the columns that the model looks at, and check what only the whole table shows.

    Raises:
        CohortError: if patient ids are missing or occur twice, or a column's cells can be read in two ways.
    """
    cells = raw.cells[[name for name in input_columns(model) if name in raw.cells]]
    typed, findings = examine_table(cells, own_predictors(model), decimal_comma=raw.decimal_comma)
    check_rows(findings)
    return PatientTable(raw, typed, folder)


def shift_warnings(model: Path, patients: PatientTable) -> list[str]:
    """How the patients differ from those the model was trained on: one line per difference, mostly none."""
    try:
        summary = read_description(model / ARTIFACT_PATH).cohort
    except RlvoError:
        return [
            "another version of rlvo made the model; whether these patients are like its training patients is unknown"
        ]
    return training_cohort.shift_warnings(summary, patients.typed) if summary is not None else []


def answer_table(
    model: Path,
    patients: PatientTable,
    *,
    caution: str | None = None,
    kept: Path | None = None,
    progress: Advance | None = None,
    **params: Any,
) -> pd.DataFrame:
    """Ask the model about every patient, in a process of its own.

    Args:
        model: a verified MLflow model folder.
        patients: columns that the model does not look at are not passed on.
        caution: what the warnings of every answer begin with.
        kept: a file that answers are added to as they come. An answer is taken from it if model, parameters, row and
            volume files (names, sizes, times) are unchanged. A patient who could not be scored is asked about again.
        progress: called with (patients done, patients in all).
        params: of the model's `predict`.

    Returns:
        The model's answers, one row per patient in the table's order.

    Raises:
        MachineError: if the model failed; the answers it gave before are kept.
    """
    rows, folder = rows_as_sent(model, patients), patients.folder
    keys = [_key(model, row, folder, params) for row in rows]
    answers = _read_kept(kept) if kept is not None else {}
    waiting = [position for position, key in enumerate(keys) if key not in answers]
    if progress is not None:
        progress(len(rows) - len(waiting), len(rows))
    if waiting:
        with run_model(model) as process:
            for done, position in enumerate(waiting, len(rows) - len(waiting) + 1):
                answer = answers[keys[position]] = process.answer(rows[position], folder=str(folder), **params)
                if kept is not None and answer["rlvo"] is not None:
                    with private(kept).open("a") as file:
                        file.write(json.dumps({"key": keys[position], "answer": answer}) + "\n")
                if progress is not None:
                    progress(done, len(rows))
    found = pd.DataFrame([answers[key] for key in keys]).astype(dict.fromkeys(("rlvo", "votes", "folds"), "Int64"))
    if caution is not None:
        found["warnings"] = ["; ".join(filter(None, (caution, warnings))) for warnings in found["warnings"]]
    return found


def explain_answer(
    model: Path, patients: PatientTable, patient: str, *, progress: Advance | None = None, **options: Any
) -> Explanation:
    """Ask the model about one patient of a table and why it answers so, in a process of its own.

    Args:
        model: a verified MLflow model folder.
        progress: called with how far it is.
        options: of `rlvo.inference.explanation.explain_answer`: `check`, `seed`.

    Raises:
        RlvoError: there is no such patient, or the patient cannot be scored; the model was registered before models
            could explain.
        MachineError: the model failed.
    """
    places = [place for place, name in enumerate(patients.typed.index) if str(name) == patient]
    if not places:
        hint = did_you_mean(patient, [str(name) for name in patients.typed.index])
        raise RlvoError(f"the table has no patient '{patient}'{hint}", fix="Name one by its patient_id")
    row = rows_as_sent(model, patients)[places[0]]
    with tempfile.TemporaryDirectory(prefix="rlvo-explanation-") as into:
        with run_model(model) as process:
            process.explain(row, folder=str(patients.folder), into=into, progress=progress, **options)
        return Explanation.read(Path(into))


def rows_as_sent(model: Path, patients: PatientTable) -> list[dict[str, Any]]:
    """The rows of the columns that the model looks at."""
    raw = patients.raw
    cells = raw.cells[[name for name in input_columns(model) if name in raw.cells]]
    variables = known_variables(own_predictors(model))
    known = [variables[str(name)] for name in cells if name in variables]
    numbers = {each.name for each in known if raw.decimal_comma and each.kind == "continuous"}
    return [
        {str(name): _as_sent(cell, may_be_number=name in numbers) for name, cell in row.items()}
        for row in cells.to_dict("records")
    ]


def _as_sent(cell: Any, *, may_be_number: bool) -> Any:
    """A cell as the model gets it: with a decimal point, because one row does not show what a comma means."""
    if pd.isna(cell):
        return None
    is_text = may_be_number and isinstance(cell, str)
    return cell.strip().replace(",", ".") if is_text and DECIMAL_COMMA.fullmatch(cell.strip()) else cell


def _key(model: Path, row: Mapping[str, Any], folder: Path, params: Mapping[str, Any]) -> str:
    """A hash of everything the answer depends on."""
    given = {name: str(cell) for name, cell in row.items() if cell is not None}
    volumes = [_state(folder / cell.strip()) for name, cell in given.items() if name in VOLUMES]
    content = [file_sha256(model / MANIFEST), {**dict.fromkeys(row), **given}, volumes, dict(params)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _state(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of every file that a path refers to; empty if there is none."""
    place, _ = split_series(path)
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]


def _read_kept(kept: Path) -> dict[str, dict[str, Any]]:
    """Answers by key. A last line that was cut short when the process died is dropped from the file."""
    if not kept.exists():
        return {}
    *lines, torn = kept.read_text().split("\n")
    if torn:
        atomic_write(kept, "".join(f"{line}\n" for line in lines))
    try:
        return {line["key"]: line["answer"] for line in map(parse_json, lines)}
    except (ValueError, KeyError, TypeError):
        fix = "Delete the file: the patients are asked about again"
        raise RlvoError("not answers that rlvo kept", where=kept, fix=fix) from None

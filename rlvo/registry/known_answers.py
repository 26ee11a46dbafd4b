"""Made-up patients with a model's answers: where the model is carried to, it must answer the same."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from rlvo.cohort.variables import VOLUMES
from rlvo.config.commands import command_line
from rlvo.errors import RlvoError
from rlvo.progress import Advance
from rlvo.registry.client import PatientTable, rows_as_sent
from rlvo.registry.gate import TOLERANCE
from rlvo.registry.process import run_model
from rlvo.synthetic.cohort import has_synthetic

Kind = TypeVar("Kind")
KNOWN = "known-answers"
"""Their folder in an archive."""
MOST = 3
"""Of a table, so many patients are asked about at most: their volumes make the archive larger."""


@dataclass(frozen=True)
class _Pair:
    row: dict[str, Any]
    answer: dict[str, Any]


def read_checked(path: Path, kind: type[Kind]) -> Kind:
    """What a JSON file of an archive holds. Raises RlvoError if it is not of that kind."""
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise RlvoError("the file is missing, damaged, or of another version of rlvo", where=path.name) from None


@dataclass(frozen=True)
class KnownAnswers:
    """Rows of patients and a model's answers to them."""

    folder: Path
    """What the rows' volume paths are relative to."""
    rows: Sequence[dict[str, Any]]
    answers: Sequence[dict[str, Any]]

    def as_json(self) -> str:
        """What `read` takes, beside the volumes."""
        return json.dumps([{"row": row, "answer": answer} for row, answer in zip(self.rows, self.answers, strict=True)])

    def volumes(self) -> dict[str, Path]:
        """The volumes' files by their path below the folder."""
        names = sorted({row[name] for row in self.rows for name in VOLUMES if row.get(name)})
        return {PurePosixPath(name).as_posix(): self.folder / name for name in names}

    @classmethod
    def read(cls, folder: Path) -> "KnownAnswers":
        """Read them where they were unpacked."""
        pairs = read_checked(folder / "answers.json", list[_Pair])
        return cls(folder, [pair.row for pair in pairs], [pair.answer for pair in pairs])


def ask_known(model: Path, patients: PatientTable, *, progress: Advance | None = None) -> KnownAnswers:
    """Ask a model about the first patients of `rlvo synth`, whose volumes may be given away.

    Args:
        model: a verified MLflow model folder.

    Raises:
        RlvoError: a patient is not made up or cannot be scored, or volumes are not files beside the table.
        MachineError: the model failed.
    """
    rows = rows_as_sent(model, patients)[:MOST]
    for row in rows:
        if not has_synthetic([str(row["patient_id"])]):
            what = "a patient who is not made up: volumes travel with the archive"
            fix = f"Draw some: `{command_line('synth', 'made-up', '--patients', 10)}`"
            raise RlvoError(what, where="patients", fix=fix)
        for name in VOLUMES:
            place = row.get(name)
            inside = place and not PurePosixPath(place).is_absolute() and ".." not in PurePosixPath(place).parts
            if place and not (inside and (patients.folder / place).is_file()):
                fix = "Give a table of made-up patients as it was written"
                raise RlvoError("a volume that is no file beside the table", where=f"patients, {name}", fix=fix)
    known = KnownAnswers(patients.folder, rows, _ask(model, rows, patients.folder, progress))
    for answer in known.answers:
        if answer["rlvo"] is None:
            raise RlvoError(f"{answer['warnings']}", where=f"patient {answer['patient_id']}")
    return known


def check_known(model: Path, known: KnownAnswers, *, progress: Advance | None = None) -> tuple[str | None, str]:
    """Ask a model again: what is wrong with its answers (None: nothing), and what was found.

    Decisions and votes must be the same, and every number must be to `TOLERANCE`.

    Raises MachineError if the model failed.
    """
    again = _ask(model, known.rows, known.folder, progress)
    largest = 0.0
    for before, now in zip(known.answers, again, strict=True):
        for name, value in before.items():
            if not isinstance(value, float) or not isinstance(now.get(name), float):
                if name != "warnings" and now.get(name) != value:
                    wrong = f"{name} is {now.get(name)} instead of {value} for made-up patient {before['patient_id']}"
                    return wrong, wrong
            else:
                largest = max(largest, abs(now[name] - value))
    found = f"{len(again)} made-up patients, largest difference {largest:.1e}"
    return (f"it does not answer as it did where it was packed ({found})" if largest > TOLERANCE else None), found


def _ask(model: Path, rows: Sequence[dict[str, Any]], folder: Path, progress: Advance | None) -> list[dict[str, Any]]:
    answers = []
    with run_model(model) as process:
        for done, row in enumerate(rows, 1):
            answers.append(process.answer(row, folder=str(folder), members=True))
            if progress is not None:
                progress(done, len(rows))
    return answers

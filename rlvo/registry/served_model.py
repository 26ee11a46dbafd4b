"""The model behind `rlvo serve`: which requests it takes, what every answer says, what is recorded of it.

It is loaded along with `server` into a process in which the rest of rlvo is the model's own, whichever version that is:
it imports only what every version has.
"""

import hashlib
import hmac
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Self, cast

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel, scoring_server
from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, ValidationError, model_validator
from starlette.exceptions import HTTPException

from rlvo.cohort.pseudonym import cohort_key, pseudonym
from rlvo.errors import RlvoError

CONCEALED = ("patient_id", "warnings", "notice")
"""Columns of an answer that the audit leaves out: ids, text that may name files, and the constant notice."""

MAX_COLUMNS = 1000
"""Of a table; also the keys of anything else in a request."""
MAX_BRACKETS = 10_000
"""In a request's text, beside those of its rows; 1 MB of nothing else takes half a second to read."""
MAX_COMMAS = 10_000
"""In a request that is read at once, which takes some milliseconds then; every cell but a row's last has one after it.
A table of 100 rows and 30 columns has 3,000."""


def _few(value: Any) -> Any:
    """Refuse what is too long before its parts are looked at: each that is wrong would be an error of its own."""
    if isinstance(value, dict | list) and len(value) > MAX_COLUMNS:
        raise ValueError(f"it has more than {MAX_COLUMNS} columns or keys")
    return value


Cell = str | float | int | bool | None
Row = Annotated[dict[str, Cell], BeforeValidator(_few)]


class Split(BaseModel):
    """A table as pandas writes it with `orient="split"`."""

    columns: Annotated[list[str], FailFast(), BeforeValidator(_few)]
    data: Annotated[list[Annotated[list[Cell], FailFast(), BeforeValidator(_few)]], FailFast()]
    index: list[int | str] | None = Field(None, fail_fast=True)

    @model_validator(mode="after")
    def _rectangular(self) -> Self:
        if any(len(row) != len(self.columns) for row in self.data):
            raise ValueError("a row has more or fewer cells than there are columns")
        return self


class Params(BaseModel):
    """The parameters of the model's `predict` that a request may set."""

    model_config = ConfigDict(extra="forbid")

    folder: str = "."
    """A folder below the data root that volume paths are relative to."""
    members: bool = False
    precision: str = "float32"


class Question(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="forbid")

    dataframe_records: list[Row] | None = Field(None, fail_fast=True)
    dataframe_split: Split | None = None
    params: Annotated[Params, BeforeValidator(_few)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _few_keys(cls, given: Any) -> Any:
        return _few(given)

    @model_validator(mode="after")
    def _one_table(self) -> Self:
        if (self.dataframe_records is None) == (self.dataframe_split is None):
            raise ValueError("give one of dataframe_records and dataframe_split")
        columns = set[str]()
        for row in self.dataframe_records or ():
            columns.update(row)
            if len(columns) > MAX_COLUMNS:
                raise ValueError(f"the table has more than {MAX_COLUMNS} columns")
        return self

    def ids(self) -> list[Cell]:
        """The id of each row; None if it has none."""
        if self.dataframe_records is not None:
            return [row.get("patient_id") for row in self.dataframe_records]
        assert self.dataframe_split is not None
        columns = self.dataframe_split.columns
        at = columns.index("patient_id") if "patient_id" in columns else None
        return [None if at is None else row[at] for row in self.dataframe_split.data]


@dataclass(frozen=True)
class Audit:
    """An append-only file of JSON lines (mode 0600). It names patients by pseudonym, and holds no path and no word of
    the caller's."""

    path: Path
    version: Mapping[str, str]
    """Name and manifest digest of the model that answers."""
    columns: frozenset[str]
    """Those that the model looks at; others are not named."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def record(self, asked: pd.DataFrame, answers: pd.DataFrame) -> None:
        """Append one line per patient: which cells were given, a keyed hash of the row, and the answer."""
        key = cohort_key(self.path.parent)
        shown = answers.drop(columns=[name for name in CONCEALED if name in answers]).astype(object)
        lines = []
        for row, (_, answer) in enumerate(shown.where(shown.notna(), None).iterrows()):
            cells = {str(name): None if pd.isna(cell) else str(cell) for name, cell in asked.iloc[row].items()}
            line = {
                "patient": pseudonym(str(answers["patient_id"].iloc[row]), key),
                "given": sorted(name for name, cell in cells.items() if cell is not None and name in self.columns),
                "row": hmac.new(key, json.dumps(cells, sort_keys=True).encode(), hashlib.sha256).hexdigest(),
                "answer": answer.to_dict(),
                "warned": bool(answers["warnings"].iloc[row]),
            }
            lines.append(line)
        self.write(*lines)

    def is_writable(self) -> bool:
        """Whether a line could be appended; one that was moved away is begun again."""
        return os.access(self.path if self.path.exists() else self.path.parent, os.W_OK)

    def write(self, *lines: Mapping[str, Any]) -> None:
        """Append lines, each with the time and the model: all of them or none."""
        about = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **self.version}
        text = "".join(f"{json.dumps({**about, **line})}\n" for line in lines)
        with self._lock:
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(handle, "wb", buffering=0) as file:  # two processes append: each at once
                file.write(text.encode())


@dataclass(frozen=True)
class ServedModel:
    """A loaded model whose answers say what they must, and are recorded before they are given."""

    model: PyFuncModel
    caution: str | None
    """What the warnings of every answer begin with."""
    audit: Audit | None
    max_rows: int

    def rows(self, body: bytes) -> int:
        """How many rows the table in the body of a request has; if that takes long to read, how many it may have.

        Raises HTTPException (4xx): the table cannot be asked about.
        """
        if body.count(b",") <= MAX_COMMAS:
            return self.read(body)[1]
        return min(self._brackets(body), self.max_rows)  # each row has one

    def _brackets(self, body: bytes) -> int:
        if (brackets := body.count(b"[") + body.count(b"{")) > MAX_BRACKETS + 2 * self.max_rows:
            raise HTTPException(413, f"the request has more lists and objects than a table of {self.max_rows} rows")
        return brackets

    def read(self, body: bytes) -> tuple[dict[str, Any] | None, int]:
        """The parameters in the body of a request, and how many rows its table has.

        Raises HTTPException (4xx): the table cannot be asked about.
        """
        self._brackets(body)
        try:
            question = Question.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where, what = ".".join(map(str, first["loc"][:3])), first["msg"].removeprefix("Value error, ")
            raise HTTPException(400, f"{where}: {what}" if where else what) from None
        if len(ids := question.ids()) > self.max_rows:
            raise HTTPException(413, f"the table has {len(ids)} rows; at most {self.max_rows} are answered at once")
        _check_ids(ids)
        return None if question.params is None else question.params.model_dump(), len(ids)

    def answer(self, body: bytes, is_abandoned: Callable[[], bool]) -> pd.DataFrame:
        """Answer as the model does; one that can stops before the next patient once the request `is_abandoned`.

        Raises HTTPException: the table is at fault (4xx), or the model or the audit failed (500).
        """
        model: Any = self.model
        params, _ = self.read(body)
        service = getattr(model.unwrap_python_model(), "service", None)
        if service is not None:
            service.is_abandoned = is_abandoned
        table = self._table(body)
        try:
            answers = model.predict(table, params=params)
        except MlflowException as error:
            raise _refusal(error) from None
        except OverflowError:
            raise HTTPException(400, "a number is too large") from None
        except Exception as error:  # noqa: BLE001
            if not is_abandoned():
                _log(error)
            raise HTTPException(500, "the model failed; the server's log says where") from None
        assert isinstance(answers, pd.DataFrame)
        if self.caution is not None:
            answers["warnings"] = ["; ".join(filter(None, (self.caution, each))) for each in answers["warnings"]]
        try:
            if self.audit is not None:
                self.audit.record(table, answers)
        except (OSError, RlvoError):
            raise HTTPException(500, "the audit cannot be written") from None
        return answers

    def _table(self, body: bytes) -> pd.DataFrame:
        """The table in the body of a request, typed by the model's signature."""
        given = {name: value for name, value in json.loads(body).items() if name != "params"}
        metadata: Any = self.model.metadata
        try:
            return cast(pd.DataFrame, scoring_server.infer_and_parse_data(given, metadata.get_input_schema()))
        except MlflowException as error:
            raise _refusal(error) from None
        except Exception:  # noqa: BLE001
            raise HTTPException(400, "the table cannot be read") from None


def _check_ids(ids: Sequence[Cell]) -> None:
    """Raise HTTPException if an id occurs twice: the model would name it, which no message over the network may."""
    seen: dict[str, int] = {}
    for row, cell in enumerate(ids, 1):
        name = str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell).strip()
        if cell is not None and name in seen:
            raise HTTPException(400, f"patient_id, row {row}: it is the id of row {seen[name]}, too")
        seen[name] = row


def _refusal(error: Any) -> HTTPException:
    """An MLflow exception in one line, without its echo of the request and its stack trace."""
    return HTTPException(error.get_http_status_code(), " ".join(error.message.rpartition("Error: ")[2].split()))


def _log(error: Exception) -> None:
    """Say where the model failed; what the error says could name a patient."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    print(f"error: the model failed: {type(error).__name__} in {frame.name}, line {frame.lineno}", file=sys.stderr)

"""How the registered model answers where several may ask at once, and which files a served one may open."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE, PERMISSION_DENIED

from rlvo.cohort.cells import MISSING
from rlvo.errors import MachineError, RlvoError
from rlvo.imaging.dicom_headers import MAX_FILES
from rlvo.imaging.reading import split_series
from rlvo.imaging.store import VolumeStore
from rlvo.registry.inference import EnsemblePredictor
from rlvo.registry.patients import VOLUMES

DATA_ROOT = "RLVO_DATA_ROOT"
"""Environment variable: the folder that a served model may read below. Unset: a served model opens no file."""
SERVED = ("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "__pyfunc_model_path__")
"""What MLflow's scoring server sets in its environment."""


class ForbiddenPathError(RlvoError):
    """A request names a path it may not name."""


class Service:
    """A predictor that answers one table after the other, and when served opens nothing outside the data root."""

    def __init__(self, predictor: EnsemblePredictor) -> None:
        self._predictor = predictor
        self._lock = threading.Lock()
        # Each thread that computes gets a pool of threads from torch, so a server's many threads share one that does.
        self._worker = ThreadPoolExecutor(1)

    def predict(self, table: pd.DataFrame, folder: str, store: str, **options: Any) -> pd.DataFrame:
        """`EnsemblePredictor.predict`, to which `options` go.

        Raises:
            RlvoError: the table is at fault.
            MlflowException: the same where served, in one line, for MLflow's server to give it the right status.
        """
        answer: Callable[..., pd.DataFrame] = partial(self._predictor.predict, table, **options)
        if not any(name in os.environ for name in SERVED):
            with self._lock:
                return answer(Path(folder), store=VolumeStore(Path(store)) if store else None)
        try:
            answers = self._worker.submit(answer, allowed(table, folder, store)).result()
            return answers.astype(object).where(answers.notna(), None)  # JSON has no NaN
        except RlvoError as error:
            raise MlflowException(" ".join(str(error).split()), error_code=_code(error)) from None


def allowed(table: pd.DataFrame, folder: str, store: str) -> Path:
    """Check every path of a served request against the data root.

    Returns:
        What the table's paths are relative to.

    Raises:
        RlvoError: a cell is no single value.
        ForbiddenPathError: a path leads, also through a link, outside the data root; there is no data root; a store.
    """
    if not table.columns.is_unique:
        raise RlvoError("two columns have the same name")
    if unfit := [str(name) for name in table if not table[name].map(pd.api.types.is_scalar).all()]:
        raise RlvoError("holds a list or an object", where=unfit[0], fix="Give one value a cell")
    if store:
        raise ForbiddenPathError("a served model reads no store", where="store", fix="Leave the parameter out")
    volumes = [
        (f"{name}, row {row}", str(cell).strip())
        for name in VOLUMES
        if name in table
        for row, cell in enumerate(table[name], 1)
        if not pd.isna(cell) and str(cell).strip().lower() not in MISSING
    ]
    if not (root := os.environ.get(DATA_ROOT)):
        if volumes or folder not in ("", "."):
            raise ForbiddenPathError("this server reads no files", fix=f"Start it with {DATA_ROOT}, or 'rlvo serve'")
        return Path()
    top = Path(root).resolve()
    base = top / folder
    for where, path in [("folder", base), *((where, base / cell) for where, cell in volumes)]:
        if not _is_below(path, top):
            raise ForbiddenPathError("the path leads outside the data root", where=where)
    for where, cell in volumes:
        if any(not _is_below(link, top) for link in _links(split_series(base / cell)[0])):
            raise ForbiddenPathError("a file of the folder leads outside the data root", where=where)
    return base


def _is_below(path: Path, top: Path) -> bool:
    return "\0" not in str(path) and Path(os.path.realpath(split_series(path)[0])).is_relative_to(top)


def _links(folder: Path) -> Iterator[Path]:
    """The files in a folder that are links; of folders that are links nothing is read."""
    looked_at = 0
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names if Path(parent, name).is_symlink())
        looked_at += len(names)
        if looked_at > MAX_FILES:  # reading refuses it
            return


def _code(error: RlvoError) -> int:
    if isinstance(error, ForbiddenPathError):
        return PERMISSION_DENIED
    return INTERNAL_ERROR if isinstance(error, MachineError) else INVALID_PARAMETER_VALUE

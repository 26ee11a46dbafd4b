"""How a registered model answers when several callers ask at once, and which files it may open while it is served."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from rlvo.cohort.cells import MISSING
from rlvo.cohort.variables import VOLUMES
from rlvo.errors import RlvoError
from rlvo.imaging.reading.dicom_headers import MAX_FILES
from rlvo.imaging.reading.source import split_series
from rlvo.imaging.store import VolumeStore
from rlvo.inference.predictor import EnsemblePredictor

DATA_ROOT = "RLVO_DATA_ROOT"
"""Environment variable: a served model reads files below this folder only, and none at all if it is not set."""
SERVED = ("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "__pyfunc_model_path__")
"""Environment variables that MLflow's scoring server sets."""


class ForbiddenPathError(RlvoError):
    """A request names a path that it is not allowed to."""


class AbandonedError(RlvoError):
    """Nobody waits for an answer any more."""


def is_served() -> bool:
    """Whether this process is MLflow's scoring server."""
    return any(name in os.environ for name in SERVED)


class Service:
    """Answers one table at a time, and opens no file outside the data root while it is served."""

    def __init__(self, predictor: EnsemblePredictor) -> None:
        self._predictor = predictor
        self._lock = threading.Lock()
        # torch gives each thread that computes its own pool of threads, so one thread computes for all of a server's.
        self._worker = ThreadPoolExecutor(1)
        self.is_abandoned: Callable[[], bool] = lambda: False
        """Whether nobody waits for the present answer; `rlvo serve` sets it, whichever version it is of."""
        predictor.members.before_each = self._check

    def predict(self, table: pd.DataFrame, folder: str, store: str, **options: Any) -> pd.DataFrame:
        """As `EnsemblePredictor.predict`, which `options` are passed on to; None instead of NaN while served.

        Raises:
            RlvoError: if the table is at fault. ForbiddenPathError if a served request names a forbidden path.
                AbandonedError if nobody waits for the answer any more.
            MachineError: if the machine is at fault.
        """

        def progress(done: int, total: int) -> None:
            self._check()

        answer: Callable[..., pd.DataFrame] = partial(self._predictor.predict, table, progress=progress, **options)
        if not is_served():
            with self._lock:
                return answer(Path(folder), store=VolumeStore(Path(store)) if store else None)
        answers = self._worker.submit(answer, allowed_folder(table, folder, store)).result()
        return answers.astype(object).where(answers.notna(), None)  # JSON has no NaN

    def _check(self) -> None:
        if self.is_abandoned():
            raise AbandonedError("nobody waits for the answer")


def allowed_folder(table: pd.DataFrame, folder: str, store: str) -> Path:
    """Check every path in a served request against the data root.

    Returns:
        The folder that the table's paths are relative to.

    Raises:
        RlvoError: if a cell is not a single value, or two columns have the same name.
        ForbiddenPathError: if a path leads outside the data root, directly or through a link; if there is a path but no
            data root; if a store is named.
    """
    if not table.columns.is_unique:
        raise RlvoError("two columns have the same name")
    if unfit := [str(name) for name in table if not table[name].map(pd.api.types.is_scalar).all()]:
        raise RlvoError("a cell holds a list or an object", where=unfit[0], fix="Give one value per cell")
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
            raise ForbiddenPathError("this server reads no files", fix=f"Set {DATA_ROOT} to the folder of the volumes")
        return Path()
    top = Path(root).resolve()
    base = top / folder
    for where, path in [("folder", base), *((where, base / cell) for where, cell in volumes)]:
        if not _is_below(path, top):
            raise ForbiddenPathError("the path leads outside the data root", where=where)
    for where, cell in volumes:
        if any(not _is_below(link, top) for link in _links(split_series(base / cell)[0])):
            raise ForbiddenPathError("a file in the folder leads outside the data root", where=where)
    return base


def _is_below(path: Path, top: Path) -> bool:
    return "\0" not in str(path) and Path(os.path.realpath(split_series(path)[0])).is_relative_to(top)


def _links(folder: Path) -> Iterator[Path]:
    """The files in a folder that are links. Links to folders are not followed, here or when a series is read."""
    seen = 0
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names if Path(parent, name).is_symlink())
        seen += len(names)
        if seen > MAX_FILES:  # such a folder is refused when it is read
            return

"""Files that are written whole or not at all."""

import csv
import errno
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rlvo.errors import DiskFullError, RlvoError, StorageError
from rlvo.text import escape_controls, escape_formula, unescape_formula

if TYPE_CHECKING:
    import pandas as pd

FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EFBIG: "file size limit"}
REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)
"""What storage says that was made read-only, was taken away or has broken in the meantime."""

SMALL = 1 << 16
"""Bytes that are read at once."""


def atomic_write(path: Path, data: bytes | str, *, durable: bool = True) -> None:
    """Write `data` to `path` so that a reader sees either the old content or the new, even after a crash.

    Args:
        durable: even after a crash of the machine; waiting for the disk takes about .01 s.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)  # it exists only if the write failed


def private(path: Path) -> Path:
    """`path`, as a file that only its owner may read, made if there is none: patients' ids or scans go there."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    path.chmod(0o600)  # one that an earlier version made
    return path


def parse_json(text: bytes | str) -> Any:
    """What a file's JSON says. Raises ValueError if it is damaged, also if it is nested thousands of levels deep."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def csv_text(table: "pd.DataFrame", *, separator: str = ",") -> str:
    """A table as CSV, without its index. No spreadsheet takes text in it for a formula, no terminal obeys it.

    Numbers stay numbers, and every float reads back as itself. `read_csv` and `rlvo.cohort.tables.read_table` read text
    back as it was, but control characters stay escaped.
    """
    columns = (table.iloc[:, number] for number in range(table.shape[1]))
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator, lineterminator="\n")
    writer.writerow(map(_shown, table.columns))
    writer.writerows(zip(*map(_csv_cells, columns), strict=True))
    return file.getvalue()


def _csv_cells(column: "pd.Series[Any]") -> list[object]:
    """As pandas' `to_csv` writes them, which takes milliseconds for the smallest table."""
    column = column.infer_objects()
    if getattr(column.dtype, "kind", "") == "f":
        cells = column.to_numpy().astype(str).tolist()
    else:
        cells = [_shown(cell) for cell in column.tolist()]
    return ["" if lacks else cell for cell, lacks in zip(cells, column.isna().tolist(), strict=True)]


def _shown(cell: object) -> object:
    return escape_formula(escape_controls(cell)) if isinstance(cell, str) else cell


def read_csv(path: Path | IO[bytes], dtype: dict[str, str]) -> "pd.DataFrame":
    """Read what `csv_text` wrote, a file or its content.

    Columns of text are named in `dtype`, and only cells without any text are missing.
    """
    import pandas as pd

    options: dict[str, Any] = {"keep_default_na": False, "na_values": [""], "float_precision": "round_trip"}
    table: pd.DataFrame = pd.read_csv(path, dtype=dtype, **options).rename(columns=unescape_formula)
    for name in map(str, table.select_dtypes("str")):
        plain = {text: unescape_formula(text) for text in table[name].dropna().unique()}
        if any(text != known for known, text in plain.items()):
            table[name] = table[name].map(plain, na_action="ignore")
    return table


def check_writable(path: Path, *, folder: bool = False) -> None:
    """Raise RlvoError if there is no writing to a file, or to a folder and into it, at `path`; nothing is made.

    Folders on the way that are missing are made by whoever writes.
    """
    path = path.expanduser().absolute()
    start = path if folder else path.parent
    nearest = next(place for place in (start, *start.parents) if os.path.lexists(place))
    if not folder and path.is_dir():
        reason = errno.EISDIR
    elif not nearest.is_dir():
        reason = errno.ENOTDIR
    elif os.statvfs(nearest).f_flag & os.ST_RDONLY:
        reason = errno.EROFS
    elif not os.access(nearest, os.W_OK | os.X_OK):
        reason = errno.EACCES
    else:
        return
    raise RlvoError(f"cannot be written ({os.strerror(reason)})", where=path, fix="Name another place")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise RlvoError, naming `path`, if it cannot be written."""
    try:
        yield
    except OSError as error:
        raise RlvoError(f"cannot be written ({error.strerror})", where=path, fix="Name another place") from None


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Raise StorageError if the disk takes no more of what the context writes to `folder`; if full, DiskFullError."""
    then = "then start the search again: it continues from the last checkpoints"
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskFullError(FULL[error.errno], where=folder, fix=f"Free some space, {then}") from None
        if error.errno in REFUSED:
            what = f"there is no writing or reading here any more ({os.strerror(error.errno)})"
            raise StorageError(what, where=error.filename or folder, fix=f"Restore access, {then}") from None
        raise


def read_if_there(path: Path | str) -> bytes | None:
    """A small file's content; None if there is none. Cheap, because thousands are looked at."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        content = os.read(file, SMALL)
        while more := os.read(file, SMALL):
            content += more
        return content
    finally:
        os.close(file)


def read_end(path: Path | str, length: int) -> bytes:
    """The last bytes of a file, so many at most. Raises FileNotFoundError."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(file, length, max(os.lseek(file, 0, os.SEEK_END) - length, 0))
    finally:
        os.close(file)


def file_version(path: Path | str) -> tuple[int, int] | None:
    """When a file was written and how large it is: what differs once it is written anew; None if there is none."""
    try:
        file = os.stat(path)
    except FileNotFoundError:
        return None
    return file.st_mtime_ns, file.st_size


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def on_one_disk(*places: Path) -> bool:
    """Whether what is written to these places, which need not exist, takes room on the same disk."""
    existing = (next(folder for folder in (place, *place.parents) if folder.exists()) for place in places)
    return len({folder.stat().st_dev for folder in existing}) == 1

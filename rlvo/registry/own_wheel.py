"""The rlvo that is running, as a wheel: an archive for a machine without a network has to bring it along."""

import base64
import hashlib
import io
import zipfile
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

from rlvo.about import COMMIT, SHIPPED, SHIPPED_FILES, SOURCES, source_commit, tracked
from rlvo.errors import RlvoError

OF_ONE_INSTALLATION = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
"""Files of an installation's metadata that its wheel does not have."""
EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The time of every file in it, so that the same sources give the same bytes."""


def own_wheel() -> tuple[str, bytes]:
    """Name and content of the wheel. Of a checkout it holds what `make dist` would pack: only what git tracks.

    Raises:
        RlvoError: rlvo is not installed, so that nothing says what it needs.
    """
    # What building leaves in a checkout (rlvo.egg-info) is not an installation.
    installed = next((each for each in distributions(name="rlvo") if each.read_text("WHEEL")), None)
    if installed is None:
        what = "rlvo runs from a folder of sources and is not installed, so nothing says which packages it needs"
        raise RlvoError(what, where=SOURCES, fix="Install it (`make`, or pip install), then make the archive")
    about = [Path(str(file)) for file in installed.files or () if file.parts[0].endswith(".dist-info")]
    metadata = f"rlvo-{installed.version}.dist-info"
    files = {name: path.read_bytes() for name, path in _sources()}
    if SHIPPED != SOURCES / "shipped" and (commit := source_commit(SOURCES)):
        files[f"rlvo/shipped/{COMMIT}"] = f"{commit}\n".encode()
    executable = {name for name, path in _sources() if path.stat().st_mode & 0o100}
    for file in sorted(about):
        if file.name not in OF_ONE_INSTALLATION:
            name = "/".join((metadata, *file.parts[1:]))
            files[name] = Path(str(installed.locate_file(str(file)))).read_bytes()
    lines = [f"{name},sha256={_record_hash(data)},{len(data)}" for name, data in files.items()]
    files[f"{metadata}/RECORD"] = "".join(f"{line}\n" for line in [*lines, f"{metadata}/RECORD,,"]).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, EARLIEST)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if name in executable else 0o100644) << 16
            wheel.writestr(entry, data)
    return f"rlvo-{installed.version}-py3-none-any.whl", packed.getvalue()


def _sources() -> Iterator[tuple[str, Path]]:
    """Every file of the package by its path in the wheel, in order."""
    root = SOURCES.parent
    found = sorted(path for path in SOURCES.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    if SHIPPED == SOURCES / "shipped":
        yield from ((path.relative_to(root).as_posix(), path) for path in found)
        return
    for name in tracked((path.relative_to(root).as_posix() for path in found), root):
        yield name, root / name
    shipped = sorted(path for pattern in SHIPPED_FILES for path in root.glob(pattern) if path.is_file())
    for name in tracked((path.relative_to(root).as_posix() for path in shipped), root):
        yield f"rlvo/shipped/{name}", root / name


def _record_hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")

"""The manifest of a registered model: what every one of its files was when it was registered."""

from __future__ import annotations

import json
from pathlib import Path

from rlvo.errors import RlvoError
from rlvo.files import atomic_write, file_sha256
from rlvo.registry.model import MANIFEST, AlteredModelError, check_files

WRITTEN_ON_LOADING = ("registered_model_meta",)
"""What MLflow itself writes beside the model."""


def write_manifest(root: Path) -> str:
    """Write the manifest of the MLflow model in `root`; its SHA-256 is returned."""
    files = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
    digests = {name: file_sha256(path) for name, path in files.items() if name not in (MANIFEST, *WRITTEN_ON_LOADING)}
    atomic_write(root / MANIFEST, json.dumps(digests, indent=1))
    return file_sha256(root / MANIFEST)


def verify(root: Path, digest: str | None = None) -> None:
    """Check every file of the MLflow model in `root` before anything of it is imported.

    Args:
        digest: of the manifest, as the registry's version tag has it; None: the manifest is taken at its word.

    Raises:
        RlvoError: a file is missing, altered or was added, or the manifest is not the registered one.
    """
    fix = "Fetch the model again, or register the ensemble again; do not use this one"
    try:
        check_files(root)
    except AlteredModelError as error:
        raise RlvoError(str(error), where=root, fix=fix) from None
    if digest is not None and file_sha256(root / MANIFEST) != digest:
        raise RlvoError(f"{MANIFEST} is not the one that was registered", where=root, fix=fix)

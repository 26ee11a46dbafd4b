"""The manifest of a registered model: what every one of its files was when it was registered."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from rlvo.errors import RlvoError
from rlvo.files import atomic_write, file_sha256
from rlvo.registry.model import MANIFEST, AlteredModelError, check_files, model_files

DIGEST_TAG = "rlvo.manifest"
"""Of a version: SHA-256 of its manifest."""


def write_manifest(root: Path) -> str:
    """Write the manifest of the MLflow model in `root`; its SHA-256 is returned."""
    digests = {name: file_sha256(root / name) for name in sorted(model_files(root))}
    atomic_write(root / MANIFEST, json.dumps(digests, indent=1))
    return file_sha256(root / MANIFEST)


def verify(root: Path, digest: str | None = None) -> None:
    """Check every file of the MLflow model in `root` before anything of it is imported.

    Compiled files that an earlier loading left beside the entry file are deleted: Python would run them in its place.

    Args:
        digest: of the manifest, as the registry's version tag has it; None: the manifest is taken at its word.

    Raises:
        RlvoError: a file is missing, altered or was added, or the manifest is not the registered one.
    """
    fix = "Fetch the model again, or register the ensemble again; do not use this one"
    if digest is not None and (not (root / MANIFEST).is_file() or file_sha256(root / MANIFEST) != digest):
        raise RlvoError(f"{MANIFEST} is not the one that was registered", where=root, fix=fix)
    try:
        check_files(root)
    except AlteredModelError as error:
        raise RlvoError(str(error), where=root, fix=fix) from None
    compiled = root / "__pycache__"
    shutil.rmtree(compiled, ignore_errors=True)
    if compiled.exists():
        raise RlvoError("holds compiled files that cannot be deleted", where=compiled, fix="Delete the folder")

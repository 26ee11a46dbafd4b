"""Where an ensemble comes from: the study's settings, the sources and the packages it was made with."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import rlvo
from rlvo.config.base import content_hash
from rlvo.config.study import StudyConfig
from rlvo.files import file_sha256

PACKAGES = ("mlflow", "monai", "numpy", "SimpleITK", "torch")


def provenance(study: StudyConfig) -> dict[str, str]:
    """For `ModelDescription.provenance`; hashes of split and data are the ensemble's own. Holds no path.

    Args:
        study: as it was frozen. Where files and MLflow lie and what a trial may use is left out of its hash.
    """
    packages = {package.lower(): version(package) for package in PACKAGES}
    settings = study.model_dump(
        mode="json", exclude={"cohort": {"table"}, "atlas": True, "resources": True, "mlflow": True}
    )
    sources = Path(rlvo.__file__).parent
    hashes = {"study_hash": content_hash(settings), "code_hash": code_hash(sources)}
    commit = {} if (found := source_commit(sources)) is None else {"commit": found}
    return {"study": study.name, **hashes, **commit, "python": platform.python_version(), **packages}


def code_hash(sources: Path) -> str:
    """SHA-256 over a package's modules, by name and content."""
    modules = sorted(sources.rglob("*.py"))
    return content_hash({path.relative_to(sources).as_posix(): file_sha256(path) for path in modules})


def source_commit(package: Path) -> str | None:
    """Commit of the checkout that tracks the sources, "… (altered)" where they differ; None without a checkout."""
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit, altered = _git(package, "rev-parse", "HEAD"), _git(package, "status", "--porcelain", "--", ".")
    return f"{commit} (altered)" if commit and altered else commit


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None

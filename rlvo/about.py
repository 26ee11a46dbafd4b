"""What every part of rlvo may say about itself: its version, where its sources are, and the intended-use sentence."""

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

__version__ = "0.1.0"

SOURCES = Path(__file__).parent
"""The folder of the package that is running: the installed one, or a registered model's own."""

SHIPPED = installed if (installed := SOURCES / "shipped").is_dir() else SOURCES.parent
"""Where `tune_configs/`, `ray_cluster/`, `mlflow/`, `docker/` and `constraints.txt` lie: in an installed package, or in
a checkout beside it."""

NOTICE = (
    "Research alert: expect a difficult recanalisation. Not a medical device and never an indication "
    "for a treatment; decide case by case."
)
"""The intended-use sentence that accompanies every output (paper, sections 4 and 5)."""


COMMIT = "commit.txt"
"""In a distribution: the commit it was made from."""
SHIPPED_FILES = ("tune_configs/*", "ray_cluster/*", "mlflow/*", "docker/*", "constraints.txt")
"""What a distribution takes from a checkout besides the package."""


def tracked(files: Iterable[str], checkout: Path) -> list[str]:
    """Those of the files, relative to the checkout, that git tracks; all of them if it is none, or there is no git.

    Tables, settings and keys that a user keeps in a checkout are nobody else's.
    """
    if not (checkout / ".git").exists() or shutil.which("git") is None:
        return list(files)
    command = ["git", "-c", f"safe.directory={checkout}", "ls-files", "-z"]  # whoever owns the checkout
    listed = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout.split("\0")
    known = set(listed)
    return [file for file in files if file in known]


def source_commit(package: Path) -> str | None:
    """Commit of the checkout that tracks the sources, "… (altered)" if they differ; else what their distribution notes.

    None if neither is there.
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        notes = (package / "shipped" / COMMIT, package.parent / COMMIT)
        return next((note.read_text().strip() for note in notes if note.is_file()), None)
    commit, altered = _git(package, "rev-parse", "HEAD"), _git(package, "status", "--porcelain", "--", ".")
    return f"{commit} (altered)" if commit and altered else commit


def code_version() -> str:
    """Version of the code that is running, with its commit if a checkout tracks it."""
    commit = source_commit(SOURCES)
    return f"rlvo {__version__}, commit {commit}" if commit else f"rlvo {__version__}"


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None if it fails or is not installed."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None

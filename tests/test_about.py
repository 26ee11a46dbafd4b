"""What rlvo says about itself."""

import shutil
import subprocess
from pathlib import Path

from rlvo.about import COMMIT, source_commit


def test_the_commit_is_that_of_the_checkout_the_sources_lie_in(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert source_commit(package) is None
    (tmp_path / COMMIT).write_text("of the sources\n")  # as in a source distribution
    assert source_commit(package) == "of the sources"
    (package / "shipped").mkdir()
    (package / "shipped" / COMMIT).write_text("of the wheel\n")
    assert source_commit(package) == "of the wheel"
    shutil.rmtree(package / "shipped")
    (tmp_path / COMMIT).unlink()
    git("init", "-q")
    assert source_commit(package) is None  # in somebody else's checkout, as an installed package may be
    git("add", ".")
    git("commit", "-q", "-m", "first")
    assert source_commit(package) == git("rev-parse", "HEAD")
    (package / "__init__.py").write_text("1\n")
    assert source_commit(package) == git("rev-parse", "HEAD") + " (altered)"

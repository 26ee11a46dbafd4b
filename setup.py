"""What a distribution holds besides the package: files that lie beside it in a checkout, and the commit.

An installed rlvo has them in `rlvo/shipped/` (`rlvo.about.SHIPPED`). All else is in pyproject.toml. Of a checkout, only
what git tracks is taken.
"""

import runpy
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).parent
about = runpy.run_path(str(HERE / "rlvo" / "about.py"))


class BuildWithShippedFiles(build_py):
    """The package, with the shipped files in it."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib) / "rlvo" / "shipped"
        found = (str(file.relative_to(HERE)) for pattern in about["SHIPPED_FILES"] for file in HERE.glob(pattern))
        for file in sorted(about["tracked"](found, HERE)):
            self.mkpath(str((folder / file).parent))
            self.copy_file(str(HERE / file), str(folder / file), preserve_mode=True)
        write_commit(folder)


class SourcesWithCommit(sdist):
    """The sources, with the commit, so that what is built from them knows it too."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(
            base_dir, [*about["tracked"](files, HERE), *(file for file in files if ".egg-info/" in file)]
        )
        write_commit(Path(base_dir))


def write_commit(folder: Path) -> None:
    """Note the commit of the sources in a folder, if it is known."""
    if commit := about["source_commit"](HERE / "rlvo"):
        (folder / about["COMMIT"]).write_text(f"{commit}\n")


setup(cmdclass={"build_py": BuildWithShippedFiles, "sdist": SourcesWithCommit})

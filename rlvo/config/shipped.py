"""The studies that come with rlvo, by name."""

from pathlib import Path

from rlvo.about import SHIPPED
from rlvo.config.base import did_you_mean
from rlvo.errors import RlvoError


def shipped_studies() -> dict[str, Path]:
    """Files of the studies that come with rlvo, by name."""
    return {file.stem: file for file in sorted((SHIPPED / "tune_configs").glob("*.yaml"))}


def study_file(given: Path) -> Path:
    """The file that is meant: `given`, or if there is no such file, the shipped study of this name.

    Raises:
        RlvoError: neither; it names the shipped studies and the one that is closest.
    """
    if given.is_file():
        return given
    shipped = shipped_studies()
    if (file := shipped.get(str(given))) is not None:
        return file
    what = f"there is no such file, and no shipped study of this name{did_you_mean(given.stem, [*shipped])}"
    raise RlvoError(what, where=given, fix=f"Give a YAML file, or one of {', '.join(shipped)}")

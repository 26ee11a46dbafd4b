"""The folder of a report holds what the report shows, and what others put there."""

import json
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from rlvo.report.exhibit import WRITTEN, Exhibit, Section, Standing, write_exhibits


def section(*names: str, figure: Figure | None = None) -> Section:
    return Section("a", "A", exhibits=[Exhibit(name, name, pd.DataFrame({"x": [1]}), figure=figure) for name in names])


def shown(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != WRITTEN}


def test_what_an_earlier_report_wrote_goes_and_what_others_put_there_stays(tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text("mine")
    written = write_exhibits([section("roc", "votes", figure=Figure())], tmp_path)
    assert {path.name for path in written} | {"notes.csv"} == shown(tmp_path)
    assert len(written) == 6
    (tmp_path / "votes.txt").write_text("mine too")
    write_exhibits([section("roc")], tmp_path)
    assert shown(tmp_path) == {"roc.csv", "notes.csv", "votes.txt"}


def test_a_report_that_was_cut_short_leaves_nothing_behind(tmp_path: Path) -> None:
    class Broken(Figure):
        def savefig(self, *args: object, **options: object) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_exhibits([section("a"), section("b", figure=Broken())], tmp_path)
    assert shown(tmp_path) == {"a.csv", "b.csv"}
    write_exhibits([section("c")], tmp_path)
    assert shown(tmp_path) == {"c.csv"}


@pytest.mark.parametrize("listed", ['["../outside.csv"]', "[1, null]", "{", '{"roc.csv": 1}'])
def test_only_files_of_the_folder_are_ever_removed(listed: str, tmp_path: Path) -> None:
    (tmp_path / "outside.csv").write_text("mine")
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / WRITTEN).write_text(listed)
    write_exhibits([section("a")], folder)
    assert (tmp_path / "outside.csv").exists()
    assert json.loads((folder / WRITTEN).read_text()) == ["a.csv"]


@pytest.mark.parametrize(("standing", "words"), [("hold-out", "Hold-out"), ("optimistic", "Optimistic"), (None, "")])
def test_a_picture_itself_says_what_its_figures_are_about(standing: Standing | None, words: str) -> None:
    figure = Figure()
    Exhibit("roc", "ROC", pd.DataFrame(), standing=standing, figure=figure)
    assert figure.get_suptitle().startswith(words)
    assert bool(figure.get_suptitle()) == bool(words)

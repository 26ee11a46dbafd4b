"""A section that was kept is shown as it was made, for what it is about and nothing else."""

import math
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from rlvo.report.exhibit import Exhibit, Section, write_exhibits
from rlvo.report.kept_section import SECTION, keep_section, kept_section
from rlvo.report.style import svg


@pytest.fixture
def made() -> Section:
    figure = Figure()
    figure.subplots().plot([0, 1], [1, 0])
    table = pd.DataFrame(
        {"name": ["a", "001", "-0.5", "="], "count": [1, 2, 3, 4], "x": [0.1 + 0.2, math.nan, 1e-300, 1]}
    )
    shown = pd.DataFrame({"": ["a"], "x": ["0.3"]})
    plain = Exhibit("plain", "Plain", table, "A caption.", "nested", shown, frozenset({(0, "x")}), is_narrow=True)
    return Section(
        "some", "Some", ["Text."], [plain, Exhibit("drawn", "Drawn", table, figure=figure, small=Figure((1, 1)))]
    )


def test_a_kept_section_gives_the_same_files_and_words(made: Section, tmp_path: Path) -> None:
    keep_section(made, tmp_path / "kept", "model")
    kept = kept_section(tmp_path / "kept", "model")
    assert kept is not None
    assert (kept.anchor, kept.title, kept.text) == (made.anchor, made.title, made.text)
    for old, new in zip(made.exhibits, kept.exhibits, strict=True):
        pd.testing.assert_frame_equal(old.table, new.table)
        for name in ("name", "title", "caption", "standing", "best", "is_narrow"):
            assert getattr(old, name) == getattr(new, name)
    assert made.exhibits[0].shown is not None
    assert made.exhibits[0].shown.equals(kept.exhibits[0].shown)
    small, kept_small = made.exhibits[1].small, kept.exhibits[1].small
    assert small is not None
    assert kept_small is not None
    assert svg(small) == svg(kept_small)
    assert kept.exhibits[0].small is None
    files = [write_exhibits([each], tmp_path / name) for name, each in (("first", made), ("second", kept))]
    assert len(files[0]) == 4
    for old_file, new_file in zip(*files, strict=True):
        assert old_file.read_bytes() == new_file.read_bytes(), new_file.name


@pytest.mark.parametrize("damage", [None, "{", "[]", '{"subject": "model"}', '{"subject": "model", "exhibits": [{}]}'])
def test_what_is_about_something_else_or_damaged_is_not_shown(
    damage: str | None, made: Section, tmp_path: Path
) -> None:
    assert kept_section(tmp_path, "model") is None
    keep_section(made, tmp_path, "model")
    assert kept_section(tmp_path, "another model") is None
    assert kept_section(tmp_path, "model") is not None
    if damage is None:
        (tmp_path / "drawn.svg").unlink()
    else:
        (tmp_path / SECTION).write_text(damage)
    assert kept_section(tmp_path, "model") is None

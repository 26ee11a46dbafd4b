"""Options that commands share."""

from pathlib import Path

import pytest
from support.commands import refused

CASES = [
    *((command, "cohort.csv") for command in ("validate", "baseline", "init", "prepare")),
    *((command, "model", "cohort.csv") for command in ("predict", "evaluate", "recalibrate")),
    ("explain", "model", "cohort.csv", "--patient", "a"),
    ("models", "compare", "1", "2", "cohort.csv"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_whatever_reads_a_table_takes_its_own_column_names(
    case: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in them is told before anything else is read."""
    monkeypatch.chdir(tmp_path)
    more = ("-o", "out.csv") if case[0] == "predict" else ()
    (tmp_path / "names.yaml").write_text("age: [Edad]")
    assert "names.yaml: not a mapping of names to names" in refused(*case, *more, "--columns", "names.yaml")


def test_column_names_go_with_a_table(tmp_path: Path) -> None:
    (tmp_path / "names.yaml").write_text("age: Edad")
    names = ("--columns", tmp_path / "names.yaml")
    assert "--columns goes with COHORT" in refused("evaluate", "demo", *names)
    (tmp_path / "MLmodel").touch()
    assert "has no columns to rename" in refused("predict", tmp_path, tmp_path, *names, "--json")

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from rlvo.cli.cohort import baseline, validate
from rlvo.errors import CohortError, RlvoError

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(validate)
app.command()(baseline)


@pytest.fixture
def table() -> pd.DataFrame:
    """120 patients whose rLVO depends on the NIHSS."""
    random = np.random.default_rng(0)
    n = 120
    nihss = random.integers(0, 30, n)
    binaries = (
        "hypertension",
        "dyslipidemia",
        "diabetes",
        "smoking",
        "atrial_fibrillation",
        "ivt",
        "unwitnessed_onset",
    )
    tmax6 = random.uniform(20, 200, n).round(1)
    return pd.DataFrame(
        {
            "patient_id": [f"{i:03d}" for i in range(n)],
            "age": random.integers(40, 95, n),
            "sex": random.choice(["F", "M"], n),
            **{name: random.integers(0, 2, n) for name in binaries},
            "nihss": nihss,
            "occlusion_side": random.choice(["left", "right"], n),
            "occlusion_site": random.choice(["TICA", "M1", "M2"], n),
            "cbf_lt30_ml": random.uniform(0, 40, n).round(1),
            "tmax_gt4_ml": (2 * tmax6).round(1),
            "tmax_gt6_ml": tmax6,
            "tmax_gt10_ml": (tmax6 / 4).round(1),
            "aspects": random.integers(5, 11, n),
            "rlvo": (random.random(n) < 1 / (1 + np.exp(-(nihss - 18) / 2))).astype(int),
        }
    )


def write(table: pd.DataFrame, folder: Path) -> str:
    table.to_csv(folder / "cohort.csv", index=False)
    return str(folder / "cohort.csv")


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_validate_counts_what_it_finds(tmp_path: Path, table: pd.DataFrame) -> None:
    rlvo = int(table["rlvo"][2:].sum())
    table = table.assign(synchronous_occlusions=(table.index < 2).astype(int), favourite_colour="blue")
    table.loc[5:7, "age"] = np.nan
    summary = json.loads(run("validate", write(table, tmp_path), "--json"))
    assert summary == {
        "sound": True,
        "patients": 120,
        "volumes": False,
        "excluded": {"synchronous occlusions": ["000", "001"], "more than 3 CTP variables missing": []},
        "included": 118,
        "rlvo": rlvo,
        "split": {"test": 24, "folds": [24, 24, 23, 23]},
        "missing": {"age": 3},
        "ignored_columns": ["favourite_colour"],
    }
    text = run("validate", write(table, tmp_path))
    for expected in ("patients", "120", "synchronous occlusions", "118", "age 3", "favourite_colour", "tabular cohort"):
        assert expected in text


def test_validate_takes_other_predictors(tmp_path: Path, table: pd.DataFrame) -> None:
    small = table[["patient_id", "age", "nihss", "rlvo"]]
    assert json.loads(run("validate", write(small, tmp_path), "--predictors", "age, nihss", "--json"))["excluded"] == {}
    with pytest.raises(CohortError, match="sex: the column is missing"):
        run("validate", write(small, tmp_path))
    with pytest.raises(RlvoError, match="etici is an outcome"):
        run("validate", write(small, tmp_path), "--predictors", "age,etici")


def test_findings_come_as_json_too(tmp_path: Path, table: pd.DataFrame) -> None:
    table.loc[3, "age"] = 200
    result = CliRunner().invoke(app, ["validate", write(table.drop(columns="ivt"), tmp_path), "--json"])
    assert isinstance(result.exception, CohortError)
    assert result.exception.exit_code == 2
    found = json.loads(result.stdout)
    assert found["sound"] is False
    assert {(f["patient"], f["field"]) for f in found["findings"]} == {("003", "age"), (None, "ivt")}


def test_baseline_finds_the_signal_where_it_is(tmp_path: Path, table: pd.DataFrame) -> None:
    path = write(table, tmp_path)
    found = json.loads(run("baseline", path, "--json"))["validation"]
    assert list(found) == ["NIHSS", "ASPECTS", "NIHSS + ASPECTS", "all clinical"]
    assert found["NIHSS"]["auc"]["mean"] > 0.8 > 0.7 > found["ASPECTS"]["auc"]["mean"]
    text = run("baseline", path)
    assert "optimistic" in text
    assert f"{found['NIHSS']['auc']['mean']:.2f}±{found['NIHSS']['auc']['sd']:.2f}" in text


def test_baseline_goes_without_aspects_and_says_so(tmp_path: Path, table: pd.DataFrame) -> None:
    path = write(table.drop(columns="aspects"), tmp_path)
    assert list(json.loads(run("baseline", path, "--json"))["validation"]) == ["NIHSS", "all clinical"]
    assert "no column aspects" in run("baseline", path)


@pytest.mark.parametrize("command", ["validate", "baseline"])
def test_help_has_an_example(command: str) -> None:
    assert f"Example: rlvo {command} cohort.csv" in run(command, "--help")


def test_importing_the_commands_loads_nothing_heavy() -> None:
    code = "import sys, rlvo.cli.cohort; print([m for m in ('pandas', 'sklearn', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

"""`rlvo demo` on a tiny study: every part is real, only small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from rlvo.cli.demo import _ceiling
from rlvo.cli.main import app
from rlvo.config.loading import parse_study
from rlvo.ensemble.spec import EnsembleSpec, FoldSpec, MemberSpec
from rlvo.errors import RlvoError

STUDY = """
name: tiny
grid: focus
model: {backbone: densenet121, densenet: {init_features: 4, growth_rate: 4, block_config: [2, 2], stem_kernel: 3}}
training: {epochs: 1, batch_size: 8}
folds: {folds: 2}
space: {enumerate: {model.modality: [NCCT, CTA], model.fusion: [none, daft]}}
"""


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_from_nothing_to_a_registered_model_and_again(tmp_path: Path) -> None:
    config, work = tmp_path / "tiny.yaml", tmp_path / "work"
    config.write_text(STUDY)
    arguments = ["demo", "--workdir", str(work), "--patients", "60", "--config", str(config), "--json"]

    first = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert first.exit_code == 0, first.output
    result = json.loads(first.stdout)
    baselines = {"NIHSS", "ASPECTS", "NIHSS + ASPECTS", "all clinical", "all clinical, boosted"}
    assert set(result["holdout"]) == baselines | {"NCCT", "CTA", "densenet121 none", "densenet121 daft", "ensemble"}
    assert all(model["patients"] == 12 for model in result["holdout"].values())
    assert Path(result["picture"]).read_bytes().startswith(b"\x89PNG")
    assert "optimistic" in first.stderr.lower()
    assert "Traceback" not in first.stderr
    assert "Warning" not in first.stderr

    client = MlflowClient(f"sqlite:///{work / 'mlflow.db'}")
    champion = client.get_model_version_by_alias("rlvo-ensemble", "champion")
    assert str(champion.version) == result["version"]
    records = {path: path.stat().st_mtime_ns for path in work.glob("studies/tiny/trials/*/*/record.json")}
    assert len(records) == 8

    again = CliRunner().invoke(app, arguments, catch_exceptions=False)
    repeated = json.loads(again.stdout)
    assert repeated["holdout"] == result["holdout"]
    assert (repeated["opening"], repeated["version"]) == (1, result["version"])
    assert "nothing was trained, registered or opened again" in again.stderr
    assert len((work / "openings.jsonl").read_text().splitlines()) == 1

    evaluate = ["evaluate", "tiny", "--workdir", str(work), "--json"]
    with pytest.raises(RlvoError, match="opened before: opening 1"):
        CliRunner().invoke(app, evaluate, catch_exceptions=False)
    once_more = CliRunner().invoke(app, [*evaluate, "--again", "--reason", "a test"], catch_exceptions=False)
    assert json.loads(once_more.stdout)["opening"] == 2
    log = work / "openings.jsonl"
    log.write_text(log.read_text().splitlines(keepends=True)[0])  # the last line is cut off
    with pytest.raises(RlvoError, match="altered or lost"):
        CliRunner().invoke(app, [*evaluate, "--again", "--reason", "a test"], catch_exceptions=False)
    assert {path: path.stat().st_mtime_ns for path in records} == records

    with pytest.raises(RlvoError, match="another cohort"):
        CliRunner().invoke(app, [*arguments, "--profile", "null"], catch_exceptions=False)


def test_a_cohort_of_ones_own_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "cohort").mkdir()
    table = tmp_path / "cohort" / "cohort.csv"
    table.write_text("patient_id\n7\n")
    with pytest.raises(RlvoError, match="another --workdir"):
        CliRunner().invoke(app, ["demo", "--workdir", str(tmp_path)], catch_exceptions=False)
    assert table.read_text() == "patient_id\n7\n"


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ([("NCCT", "none")], "ncct"),
        ([("CTA", "daft")], "cta_clinical"),
        ([("BOTH", "none")], "both"),
        ([("NCCT", "none"), ("CTA", "none")], "both"),
        ([("NCCT", "daft"), ("BOTH", "none")], "bayes"),
    ],
)
def test_the_ceiling_is_that_of_what_the_members_see(models: list[tuple[str, str]], expected: str) -> None:
    study = parse_study({"name": "s"})
    members = tuple(
        MemberSpec(
            configuration=study.configuration({"model.modality": modality, "model.fusion": fusion}),
            fold=0,
            threshold=0.5,
            tpr=1.0,
            tnr=1.0,
            better_than_chance=True,
        )
        for modality, fusion in models
    )
    fold = FoldSpec(fold=0, members=members, threshold=0.5, better_than_chance=True)
    spec = EnsembleSpec(folds=(fold,), weighting="mean", tie="negative", split_hash="", data_hash="")
    names = ("ncct", "cta", "both", "ncct_clinical", "cta_clinical", "bayes")
    ceilings = {name: float(number) for number, name in enumerate(names)}
    assert _ceiling(spec, ceilings) == ceilings[expected]

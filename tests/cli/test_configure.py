"""`rlvo init` and `rlvo schema`."""

import json
from pathlib import Path

from support.commands import refused, run
from support.tiny_study import TinyStudy

from rlvo.cohort.variables import PERFUSION_VOLUMES
from rlvo.config.reference import SCHEMA_FILE, reference_page, schema_text


def test_what_init_writes_is_planned_as_printed(study: TinyStudy, tmp_path: Path) -> None:
    raw = study.raw.drop(columns=list(PERFUSION_VOLUMES))
    for name in ("ncct", "cta", "vessels"):
        raw[name] = [str(study.cohort.parent / place) for place in raw[name]]
    raw.to_csv(tmp_path / "cohort.csv", index=False)
    out = tmp_path / "my study.yaml"
    printed = run("init", tmp_path / "cohort.csv", "-o", out).output
    assert "left out: CT perfusion" in printed
    assert f"next: rlvo plan '{out}'" in printed.replace("\n", "")
    assert (tmp_path / SCHEMA_FILE).read_text() == schema_text()
    planned = json.loads(run("plan", out, "--json").stdout)
    assert (planned["study"], planned["patients"]) == ("my-study", len(raw))
    assert planned["holdout"]["patients"] > 0
    assert "--force" in refused("init", tmp_path / "cohort.csv", "-o", out)
    told = json.loads(run("init", tmp_path / "cohort.csv", "-o", out, "--force", "--json").stdout)
    assert told["study"] == "my-study"
    assert len(told["next"]) == 2


def test_init_says_if_it_cannot_write(study: TinyStudy, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written" in refused("init", study.cohort, "-o", tmp_path / "file" / "study.yaml")


def test_the_schema_goes_to_standard_output_or_a_file(tmp_path: Path) -> None:
    assert json.loads(run("schema").stdout) == json.loads(schema_text())
    run("schema", "-o", tmp_path / "s.json")
    run("schema", "-o", tmp_path / "s.md")
    assert (tmp_path / "s.json").read_text() == schema_text()
    assert (tmp_path / "s.md").read_text() == reference_page()

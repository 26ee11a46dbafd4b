"""`rlvo models import`: the way back in for what `rlvo bundle` packed."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient
from support.commands import call, refused, run
from support.registered_study import Registered
from support.tiny_study import TinyStudy

from rlvo.files import file_sha256
from rlvo.registry.gate import GATE_TAG

pytestmark = pytest.mark.slow
NAME = "rlvo-ensemble"
Alter = Callable[[dict[str, bytes]], None]


@pytest.fixture(scope="module")
def made_up(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table as `rlvo synth` names patients, with the tiny study's volumes."""
    folder = tmp_path_factory.mktemp("made-up")
    rows = study.raw.head(4).drop(columns="rlvo")
    for name in ("ncct", "cta", "vessels"):
        places = rows[name].str.replace("PLANTED", "made-up")
        for place, source in zip(places, rows[name], strict=True):
            (folder / place).parent.mkdir(exist_ok=True)
            (folder / place).write_bytes((study.cohort.parent / source).read_bytes())
        rows[name] = places
    rows["patient_id"] = [f"synth-{number:05d}" for number in range(4)]
    rows.to_csv(folder / "cohort.csv", index=False)
    return folder / "cohort.csv"


@pytest.fixture(scope="module")
def packed(registered: Registered, made_up: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    archive = tmp_path_factory.mktemp("packed") / "model.tar.gz"
    options = ("--patients", made_up, "--workdir", registered.study.workdir.path, "--json")
    shown = json.loads(run("bundle", NAME, "-o", archive, *options).stdout)
    return archive, shown["sha256"]


def altered(archive: Path, into: Path, alter: Alter) -> tuple[Path, str]:
    """The archive as somebody else packs it who can compute digests; and its digest."""
    with tarfile.open(archive) as tar:
        files = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
    alter(files)
    with gzip.open(into, "wb") as raw, tarfile.open(fileobj=raw, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return into, file_sha256(into)


def test_a_version_comes_back_as_it_was_without_an_alias(
    registered: Registered, packed: tuple[Path, str], tmp_path: Path
) -> None:
    work = tmp_path / "work"
    said = run("models", "import", *packed, "--workdir", work).stderr
    assert "registered rlvo-ensemble version 1, gate passed" in said
    assert "3 made-up patients, largest difference 0.0e+00" in said
    before = MlflowClient(registered.study.workdir.tracking_uri()).get_model_version(NAME, "1")
    client = MlflowClient(f"sqlite:///{work / 'mlflow.db'}")
    after = client.get_model_version(NAME, "1")
    assert (after.description, after.aliases) == (before.description, [])
    added = {"rlvo.archive": packed[1], "rlvo.imported_from": f"{NAME}/1"}
    own = {key: value for key, value in before.tags.items() if key.startswith("rlvo.") and key != GATE_TAG}
    assert {key: value for key, value in after.tags.items() if key != GATE_TAG} == own | added
    assert after.tags[GATE_TAG].startswith(before.tags[GATE_TAG])
    metrics = [MlflowClient(each).get_run(version.run_id).data.metrics for each, version in (
        (registered.study.workdir.tracking_uri(), before), (f"sqlite:///{work / 'mlflow.db'}", after)
    )]  # fmt: skip
    assert metrics[0] == metrics[1] != {}

    assert "is this model already" in run("models", "import", *packed, "--workdir", work).stderr
    [shown] = json.loads(run("models", "--workdir", work, "--json").stdout)["versions"]
    assert shown["gate"].startswith("passed")
    run("models", "promote", "1", "--workdir", work)
    table = registered.study.cohort.parent / "one.csv"
    registered.study.raw.head(1).to_csv(table, index=False)
    [answer] = json.loads(run("predict", f"{NAME}@champion", table, "--workdir", work, "--json").stdout)
    assert answer["rlvo"] in (0, 1)
    other = json.loads(run("models", "import", *packed, "--workdir", work, "--model", "theirs", "--json").stdout)
    assert (other["name"], other["number"], other["is_new"]) == ("theirs", "1", True)


def test_nothing_names_a_patient_or_a_path(registered: Registered, packed: tuple[Path, str]) -> None:
    with tarfile.open(packed[0]) as tar:
        said = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
    content = b"".join([*(name.encode() for name in said), *said.values()])
    assert b"made-up-000/ncct.nii.gz" in content
    assert b"PLANTED" not in content
    assert str(registered.study.workdir.path).encode() not in content


@pytest.mark.parametrize("digest", ["0" * 64, "abc", ""])
def test_another_digest_is_refused(packed: tuple[Path, str], tmp_path: Path, digest: str) -> None:
    assert str(packed[0]) in refused("models", "import", packed[0], digest, "--workdir", tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_the_digest_is_required(packed: tuple[Path, str]) -> None:
    ended = call("models", "import", packed[0])
    assert (ended.exit_code, "Missing argument 'digest'" in ended.stderr) == (2, True)


def test_an_archive_that_was_changed_on_its_way_is_refused(packed: tuple[Path, str], tmp_path: Path) -> None:
    """Whatever a replaced verify.py says."""

    def replace(files: dict[str, bytes]) -> None:
        files["rlvo-model/verify.py"] = b"print('every file is as it was packed')\n"

    archive, digest = altered(packed[0], tmp_path / "other.tar.gz", replace)
    assert digest != packed[1]
    said = refused("models", "import", archive, packed[1], "--workdir", tmp_path / "work")
    assert "not the archive that this digest belongs to" in said


def break_model(files: dict[str, bytes]) -> None:
    files["rlvo-model/model/card.md"] += b" "


def break_manifest(files: dict[str, bytes]) -> None:
    files["rlvo-model/model/manifest.json"] += b" "


def fail_gate(files: dict[str, bytes]) -> None:
    files["rlvo-model/gate.txt"] = b"failed: on trial\n"


def lose_gate(files: dict[str, bytes]) -> None:
    del files["rlvo-model/gate.txt"]


def damage_registration(files: dict[str, bytes]) -> None:
    files["rlvo-model/registration.json"] = b"[" * 100_000


def answer_otherwise(files: dict[str, bytes]) -> None:
    pairs: list[Any] = json.loads(files["rlvo-model/known-answers/answers.json"])
    pairs[1]["answer"]["score"] += 2e-5
    files["rlvo-model/known-answers/answers.json"] = json.dumps(pairs).encode()


def decide_otherwise(files: dict[str, bytes]) -> None:
    pairs: list[Any] = json.loads(files["rlvo-model/known-answers/answers.json"])
    pairs[1]["answer"]["rlvo"] = 1 - pairs[1]["answer"]["rlvo"]
    files["rlvo-model/known-answers/answers.json"] = json.dumps(pairs).encode()


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        (break_model, "card.md is missing, or was altered"),
        (break_manifest, "manifest.json is not the one that was registered"),
        (fail_gate, "did not pass its gate (failed: on trial)"),
        (lose_gate, "whether it passed its gate is unknown"),
        (damage_registration, "registration.json: the file is missing, damaged"),
        (answer_otherwise, "does not answer as it did where it was packed"),
        (decide_otherwise, "for made-up patient synth-00001"),
    ],
)
def test_what_must_not_be_registered_is_refused(
    packed: tuple[Path, str], tmp_path: Path, alter: Alter, said: str
) -> None:
    assert said in refused("models", "import", *altered(packed[0], tmp_path / "a.tar.gz", alter), "--workdir", tmp_path)
    assert not (tmp_path / "mlflow.db").exists()


def test_on_demand_it_is_registered_and_says_what_was_found(packed: tuple[Path, str], tmp_path: Path) -> None:
    archive = altered(packed[0], tmp_path / "a.tar.gz", answer_otherwise)
    run("models", "import", *archive, "--ungated", "--workdir", tmp_path)
    [version] = json.loads(run("models", "--workdir", tmp_path, "--json").stdout)["versions"]
    assert version["gate"].startswith("failed: it does not answer as it did where it was packed")
    assert "did not pass its gate" in refused("models", "promote", "1", "--workdir", tmp_path)


def test_only_made_up_patients_travel(registered: Registered, made_up: Path, tmp_path: Path) -> None:
    study, output = registered.study, tmp_path / "model.tar.gz"
    options = ("-o", output, "--workdir", study.workdir.path, "--patients")
    real = study.cohort.parent / "real.csv"
    study.raw.head(1).drop(columns="rlvo").to_csv(real, index=False)
    said = refused("bundle", NAME, *options, real)
    assert "a patient who is not made up" in said
    assert "PLANTED" not in said
    table = pd.read_csv(made_up)
    (escaping := made_up.parent / "escaping.csv").write_text(
        table.head(1).assign(ncct=f"../{made_up.parent.name}/{table['ncct'][0]}").to_csv(index=False)
    )
    assert "no file beside the table" in refused("bundle", NAME, *options, escaping)
    assert not output.exists()

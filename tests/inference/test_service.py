from pathlib import Path

import pandas as pd
import pytest
from support.tiny_study import TinyStudy

from rlvo.errors import RlvoError
from rlvo.inference.predictor import EnsemblePredictor
from rlvo.inference.service import DATA_ROOT, AbandonedError, ForbiddenPathError, Service, allowed_folder


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with links that lead out of it, and what they lead to."""
    root = tmp_path / "root"
    (tmp_path / "root-secret").mkdir()
    (tmp_path / "root-secret" / "scan.nii.gz").write_bytes(b"secret")
    (root / "p1" / "series").mkdir(parents=True)
    (root / "p1" / "scan.nii.gz").write_bytes(b"scan")
    (root / "p1" / "series" / "1.dcm").write_bytes(b"slice")
    (root / "inside").symlink_to(root / "p1")
    (root / "linked.nii.gz").symlink_to(tmp_path / "root-secret" / "scan.nii.gz")
    (root / "out").symlink_to(tmp_path / "root-secret")
    (root / "tainted" / "deep").mkdir(parents=True)
    (root / "tainted" / "deep" / "2.dcm").symlink_to(tmp_path / "root-secret" / "scan.nii.gz")
    monkeypatch.setenv(DATA_ROOT, str(root))
    return root


def ask(path: object, folder: str = ".", store: str = "") -> Path:
    return allowed_folder(pd.DataFrame([{"patient_id": "a", "cta": path, "age": 70}]), folder, store)


def test_paths_below_the_data_root_are_allowed(data: Path) -> None:
    for path in ("p1/scan.nii.gz", "p1/../p1/scan.nii.gz", str(data / "p1"), "p1/series", "p1/series#1.2.3", "inside"):
        assert ask(path) == data
    assert ask("scan.nii.gz", folder="p1") == data / "p1"
    for nothing in (None, "", " ", "NA", float("nan"), "p1/not-there.nii.gz"):
        assert ask(nothing) == data


@pytest.mark.parametrize(
    ("path", "folder", "store", "where"),
    [
        ("/etc/passwd", ".", "", "cta, row 1"),
        ("../root-secret/scan.nii.gz", ".", "", "cta, row 1"),
        (" ../root-secret/scan.nii.gz", ".", "", "cta, row 1"),
        ("p1/../../root-secret/scan.nii.gz", ".", "", "cta, row 1"),
        ("linked.nii.gz", ".", "", "cta, row 1"),
        ("out/scan.nii.gz", ".", "", "cta, row 1"),
        ("out#1.2.3", ".", "", "cta, row 1"),
        ("tainted", ".", "", "cta, row 1"),
        ("p1/scan\0.nii.gz", ".", "", "cta, row 1"),
        ("scan.nii.gz", "..", "", "folder"),
        ("scan.nii.gz", "out", "", "folder"),
        ("p1/scan.nii.gz", ".", "p1", "store"),
    ],
)
def test_paths_that_lead_outside_are_forbidden(data: Path, path: str, folder: str, store: str, where: str) -> None:
    with pytest.raises(ForbiddenPathError) as refused:
        ask(path, folder, store)
    assert refused.value.where == where
    assert "secret" not in str(refused.value)


def test_without_a_data_root_every_path_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_ROOT, raising=False)
    assert ask(None) == Path()
    for given in ({"path": "scan.nii.gz"}, {"path": None, "folder": "/"}, {"path": None, "store": "x"}):
        with pytest.raises(ForbiddenPathError):
            ask(**given)


def test_cells_must_be_single_values(data: Path) -> None:
    for cell in ([1], {"a": 1}):
        with pytest.raises(RlvoError, match="list or an object"):
            allowed_folder(pd.DataFrame([{"patient_id": "a", "age": cell}]), ".", "")
    with pytest.raises(RlvoError, match="same name"):
        allowed_folder(pd.DataFrame([["a", 1, 2]], columns=["patient_id", "age", "age"]), ".", "")


@pytest.mark.parametrize("served", [True, False])
def test_an_answer_that_nobody_waits_for_ends_with_the_member_at_hand(
    study: TinyStudy, predictor: EnsemblePredictor, monkeypatch: pytest.MonkeyPatch, served: bool
) -> None:
    monkeypatch.setenv(DATA_ROOT, str(study.cohort.parent))
    if served:
        monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
    service, looks = Service(predictor), iter([False, False, True])
    service.is_abandoned = lambda: next(looks)
    with pytest.raises(AbandonedError):
        service.predict(study.raw.head(5), "." if served else str(study.cohort.parent), "")
    assert next(looks, None) is None
    service.is_abandoned = lambda: False
    assert len(service.predict(study.raw.head(1), "." if served else str(study.cohort.parent), "")) == 1

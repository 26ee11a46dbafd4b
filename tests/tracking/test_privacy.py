"""What a study knows of patients and of this machine must not be found anywhere in MLflow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlvo.cohort.pseudonym import pseudonym
from rlvo.config.model import Configuration
from rlvo.tracking.privacy import without_identities
from rlvo.tracking.summary_run import log_summary_run


def test_no_id_path_user_or_password_in_database_or_artifacts(
    new_study: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME", "MLFLOW_TRACKING_USERNAME"):
        monkeypatch.setenv(name, "planted-user")
    table = "/planted-cohort/planted-table.csv"
    on_disk = new_study(
        cohort={"table": table}, mlflow={"tracking_uri": "http://planted-user:planted-password@planted-host"}
    )
    configuration = Configuration()
    on_disk.end(configuration, 0, on_disk.epochs(0))
    on_disk.end(configuration, 1, [], reason=f"patient {on_disk.patients[8]}: {table}: truncated")
    assert on_disk.mirror().close() is None
    log_summary_run(
        on_disk.study, on_disk.folder, on_disk.tracking_uri, on_disk.artifacts,
        kind="ensemble", key="0" * 12, name="ensemble", params={"tie": "negative"}, metrics={"auc": 0.7},
    )  # fmt: skip

    written = list(on_disk.workdir.glob("mlflow.db*"))
    written += [path for path in on_disk.artifacts.rglob("*") if path.is_file()]
    assert {path.name for path in written} == {
        "mlflow.db", "model.safetensors", "validation_predictions.csv", "study.json"
    }  # fmt: skip
    content = b"\n".join(path.read_bytes() for path in written)
    assert pseudonym(on_disk.split.validation(0)[0], b"k" * 32).encode() in content
    assert b"planted" not in content.lower()  # ids, cohort path, user, host and password all hold it
    this_file = Path(__file__).name.encode()
    assert this_file not in content


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the loss is not finite in epoch 3", "the loss is not finite in epoch 3"),
        ("patient 12: broken", "patient <12>: broken"),
        ("patients 12, 12-b and 120", "patients <12>, <12-b> and 120"),
        ("cannot read /data/My Patients/12.nii: truncated", "cannot read …"),
        (r"cannot read C:\scans\12.nii", "cannot read …"),
        ("cannot read ncct/12.nii", "cannot read …"),
    ],
)
def test_text_loses_ids_and_paths(text: str, expected: str) -> None:
    assert without_identities(text, ["12", "12-b"], lambda patient: f"<{patient}>") == expected

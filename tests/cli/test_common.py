"""What the commands share."""

import json
from pathlib import Path

import pytest

from rlvo.cli.common import emit_json


def test_json_is_json_whatever_cannot_be_estimated(capsys: pytest.CaptureFixture[str]) -> None:
    emit_json({"auc": float("nan"), "low": [float("-inf"), 0.5], "name": "Größe", "path": Path("a/b")})
    printed = capsys.readouterr().out
    found = json.loads(printed, parse_constant=pytest.fail)
    assert found == {"auc": None, "low": [None, 0.5], "name": "Größe", "path": "a/b"}

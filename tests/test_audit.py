"""`make audit` never says that all is well of packages that nobody was asked about."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from support.distribution import ROOT

SCRIPT = ROOT / ".ci" / "audit.py"
judge = runpy.run_path(str(SCRIPT))["judge"]
SOUND = {"name": "a", "version": "1", "vulns": []}
SKIPPED = {"name": "b", "skip_reason": "Dependency not found on PyPI and could not be audited: b (1)"}
WEAK = {
    "name": "c",
    "version": "1",
    "vulns": [{"id": "CVE-1", "fix_versions": ["2"], "aliases": [], "description": ""}],
}


def test_only_answers_about_every_package_are_good_news() -> None:
    assert judge([SOUND, SOUND]) == (0, ["2 packages, no known vulnerability"])
    assert judge([SOUND, WEAK]) == (1, ["c 1: CVE-1, fixed in 2"])
    assert judge([SOUND, SKIPPED]) == (2, ["the service did not answer about 1 of 2 packages: b"])
    assert judge([WEAK, SKIPPED])[0] == 1
    assert judge([])[0] == 2
    assert judge(None) == (2, ["the service that knows of vulnerabilities cannot be reached: NOTHING was audited"])


@pytest.mark.slow
def test_it_says_that_the_service_cannot_be_reached(tmp_path: Path) -> None:
    (pinned := tmp_path / "constraints.txt").write_text("packaging==26.3\n")
    nowhere = dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"), "http://127.0.0.1:9")
    environment = {**os.environ, **nowhere, "NO_PROXY": "", "no_proxy": "", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, SCRIPT, pinned], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "NOTHING was audited" in done.stdout

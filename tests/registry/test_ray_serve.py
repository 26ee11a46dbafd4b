"""The example of Ray Serve answers requests that come at once as the model does, and opens no file outside its root."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.documents import ROOT
from support.processes import free_port, listens, wait_until
from support.tiny_study import TinyStudy

from rlvo.inference.predictor import EnsemblePredictor

EXAMPLE = ROOT / "docs" / "examples" / "ray_serve.py"


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment that has this one's packages and those of `ray[serve]`, which would change `rlvo serve`."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (packages / "these.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    python = folder / "bin" / "python"
    install = ["-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", "ray[serve]"]
    subprocess.run([python, *install], check=True)
    return python


@pytest.fixture(scope="module")
def address(
    study: TinyStudy, package: Path, interpreter: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    port, log = free_port(), tmp_path_factory.mktemp("serve") / "log"
    command = [
        str(interpreter),
        str(EXAMPLE),
        str(package),
        "--data-root",
        str(study.cohort.parent),
        "--port",
        str(port),
    ]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        wait_until(lambda: listens(port) and "ready" in log.read_text(), process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def ask(address: str, body: object) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(address, json.dumps(body).encode(), timeout=120) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.slow
def test_requests_at_once_are_answered_as_the_model_does(
    address: str, study: TinyStudy, predictor: EnsemblePredictor
) -> None:
    table = study.raw.head(4)
    rows = [{name: cell for name, cell in row.items() if cell == cell} for row in table.to_dict("records")]
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda row: ask(address, {"dataframe_records": [row]}), rows))
    assert [status for status, _ in replies] == [200] * 4
    expected = predictor.predict(table, study.cohort.parent)
    assert [answer["patient_id"] for _, [answer] in replies] == expected["patient_id"].tolist()
    assert [answer["score"] for _, [answer] in replies] == pytest.approx(expected["score"].tolist(), abs=1e-6)

    status, reply = ask(address, {"dataframe_records": [rows[0] | {"cta": "/etc/passwd"}]})
    assert (status, "outside the data root" in reply["error"]) == (400, True)
    assert ask(address, [1])[0] == 400

"""`rlvo serve` where it cannot start; how it answers is in tests/registry/test_serving.py."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest


def serve(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rlvo.cli.main", "serve", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def error(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.slow
def test_what_is_at_fault_is_said_in_one_line(package: Path, tmp_path: Path) -> None:
    assert "no such folder" in error(serve(package, "--data-root", tmp_path / "none"))
    audit = tmp_path / "none" / "audit.jsonl"
    assert "cannot be written" in error(serve(package, "--data-root", tmp_path, "--audit", audit))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}: Address already in use" in error(
            serve(package, "--data-root", tmp_path, "--port", port)
        )

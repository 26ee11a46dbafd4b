"""A terminal shows that a command works, and results on standard output stay what they are."""

import json
import os
import pty
import subprocess
import sys

from rlvo.config.reference import schema_text


def test_a_terminal_shows_that_a_command_works_and_its_result_is_apart() -> None:
    shown, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "rlvo", "schema"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=terminal, env=environment, check=True)
    os.close(terminal)
    moving = os.read(shown, 65536).decode()
    os.close(shown)
    assert json.loads(done.stdout) == json.loads(schema_text())
    assert b"\x1b" not in done.stdout
    assert "rlvo schema" in moving
    assert moving.rstrip("\r\n").endswith(("\x1b[?25h", "\x1b[2K")), "the cursor is not shown again"

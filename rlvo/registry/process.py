"""A registered model in a process of its own: it brings its own copy of rlvo, the code that it was registered with."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rlvo.errors import MachineError, RlvoError
from rlvo.progress import Advance

STAND_INS = Path(__file__).with_name("stand_ins")
"""Packages that models registered by earlier versions import and that are no longer installed along with rlvo."""
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PYTHONDONTWRITEBYTECODE": "1",  # compiled files would count as added to the model
}
CHILD = """
import json, os, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what a library prints must not be taken for an answer
def say(**what):
    print(json.dumps(what), file=answers, flush=True)
try:
    import mlflow.pyfunc, pandas
    model = mlflow.pyfunc.load_model(sys.argv[1])
    say(ready=True)
except Exception as error:
    say(error=str(error))
    raise SystemExit(1)
def explain(table, params):
    explain_it = getattr(model.unwrap_python_model(), "explain", None)
    if explain_it is None:
        return say(unable=True)
    explain_it(table, progress=lambda done, total: say(done=done, total=total), **params)
    say(explained=True)
for line in sys.stdin:
    asked = json.loads(line)
    table = pandas.DataFrame([asked["row"]])
    try:
        if asked.get("explain"):
            explain(table, asked["params"])
            continue
        rows = model.predict(table, params=asked["params"])
        rows = rows.astype(object).where(rows.notna(), None)
        say(answer=rows.iloc[0].to_dict())
    except Exception as error:
        say(error=str(error), exit_code=getattr(error, "exit_code", 1))
"""
STOPPING_SECONDS = 10


def start_interpreter(
    program: str, *arguments: str, environment: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[Any]:
    """Start a program that loads a registered model. Ctrl-C does not reach it; its standard input is a pipe.

    Args:
        program: Python source; it finds `arguments` in `sys.argv[1:]`.
        environment: variables to set besides the inherited ones.
        options: passed on to `subprocess.Popen`.
    """
    offer_stand_ins = f"import sys\nsys.path.append({str(STAND_INS)!r})\n"  # last: installed packages are preferred
    return subprocess.Popen(
        [sys.executable, "-P", "-c", offer_stand_ins + program, *arguments],
        stdin=subprocess.PIPE,
        env={**os.environ, **SETTINGS, **(environment or {})},
        start_new_session=True,
        **options,
    )


@contextmanager
def plain_path(model: Path) -> Iterator[Path]:
    """A path of an MLflow model folder for MLflow, which takes a % in a path for the beginning of an escape."""
    if "%" not in str(model.absolute()):
        yield model
        return
    with tempfile.TemporaryDirectory(prefix="rlvo-model-") as folder:
        link = Path(folder) / "above"  # not to the model itself: MLflow follows no link out of the folder above
        link.symlink_to(model.absolute().parent, target_is_directory=True)
        yield link / model.name


@dataclass(frozen=True)
class ModelProcess:
    """Has loaded an MLflow model folder as anyone without rlvo would, and answers one row at a time."""

    model: Path
    process: subprocess.Popen[str]
    log: IO[bytes]
    """What the model's libraries print, shown if the process dies."""

    def answer(self, row: Mapping[str, Any], **params: Any) -> dict[str, Any]:
        """The answer to a row of a cohort table, as JSON can hold it; `params` are those of the model's `predict`.

        Raises:
            RlvoError: if the row is at fault.
            MachineError: if the model failed or its process died.
        """
        self._send(row=dict(row), params=params)
        return dict(self.receive()["answer"])

    def explain(self, row: Mapping[str, Any], *, progress: Advance | None = None, **params: Any) -> None:
        """Let the model explain its answer to a row; `params` are those of its `explain` (`rlvo.registry.model`).

        Raises:
            RlvoError: if the row is at fault, or the model was registered before models could explain.
            MachineError: if the model failed or its process died.
        """
        self._send(row=dict(row), params=params, explain=True)
        while "explained" not in (message := self.receive()):
            if "unable" in message:
                fix = "Build and register its study's ensemble again"
                what = "this version was registered before rlvo could explain answers"
                raise RlvoError(what, where=self.model, fix=fix)
            if progress is not None:
                progress(message["done"], message["total"])

    def _send(self, **message: Any) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None

    def receive(self) -> dict[str, Any]:
        """The child's next message. Raises as `answer` does."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.endswith("\n"):
            raise self._death()
        message: dict[str, Any] = json.loads(line)
        if "error" not in message:
            return message
        reason = " ".join(message["error"].split())
        if message.get("exit_code") == RlvoError.exit_code:
            raise RlvoError(reason)
        raise MachineError(f"the model failed: {reason}", where=self.model)

    def _death(self) -> MachineError:
        """Why the process ended: its exit code, and the last line it printed."""
        code = self.process.wait()
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
        fix = "A negative code is a signal; -9 usually means that the machine ran out of memory" if code < 0 else None
        return MachineError(f"the model's process died (code {code}): {last}", where=self.model, fix=fix)


@contextmanager
def run_model(model: Path) -> Iterator[ModelProcess]:
    """Run a verified MLflow model folder until the `with` block or our own process ends; Ctrl-C does not reach it."""
    with tempfile.TemporaryFile() as log, plain_path(model) as path:
        process = start_interpreter(CHILD, str(path), stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            running = ModelProcess(model, process, log)
            running.receive()
            yield running
        finally:
            process.terminate()
            try:
                process.communicate(timeout=STOPPING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()

"""The registered model's files are checked: by rlvo before anything is imported, and by the model itself."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rlvo.errors import RlvoError
from rlvo.files import file_sha256
from rlvo.registry.location import verify, write_manifest

LOAD_ALL = """
import json, sys
import mlflow.pyfunc
answers = {}
for name, folder in json.loads(sys.argv[1]).items():
    try:
        mlflow.pyfunc.load_model(folder)
        answers[name] = "loaded"
    except Exception as error:
        answers[name] = f"{type(error).__name__}: {error}"
    answers[name] += " (rlvo imported)" if "rlvo" in sys.modules else ""
print(json.dumps(answers))
"""


def flip(name: str) -> Callable[[Path], None]:
    def tamper(root: Path) -> None:
        content = bytearray((root / name).read_bytes())
        content[len(content) // 2] ^= 1
        (root / name).write_bytes(content)

    return tamper


def add(name: str) -> Callable[[Path], None]:
    def tamper(root: Path) -> None:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"")

    return tamper


def link(name: str, to: str) -> Callable[[Path], None]:
    return lambda root: (root / name).symlink_to(root / to)


TAMPERED: dict[str, tuple[str, Callable[[Path], None]]] = {
    "weights": ("artifacts/model/members.safetensors", flip("artifacts/model/members.safetensors")),
    "description": ("artifacts/model/ensemble.json", flip("artifacts/model/ensemble.json")),
    "code": ("code/rlvo/errors.py", flip("code/rlvo/errors.py")),
    "unused code": ("code/rlvo/cli/main.py", flip("code/rlvo/cli/main.py")),
    "missing": ("code/rlvo/files.py", lambda root: (root / "code/rlvo/files.py").unlink()),
    "added": ("code/torch.py", add("code/torch.py")),
    "compiled": ("code/rlvo/__pycache__/x.pyc", add("code/rlvo/__pycache__/x.pyc")),
    "linked": ("code/numpy", link("code/numpy", "artifacts")),
    "a link for MLflow's note": ("registered_model_meta", link("registered_model_meta", "MLmodel")),
    "a linked folder for it": ("registered_model_meta", link("registered_model_meta", "code")),
    "manifest": ("manifest.json", lambda root: (root / "manifest.json").write_text("{")),
    "a deep manifest": ("manifest.json", lambda root: (root / "manifest.json").write_text("[" * 100_000)),
}
ONLY_OURS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "MLmodel": ("MLmodel", flip("MLmodel")),
    "entry": ("model.py", flip("model.py")),
    "card": ("card.md", flip("card.md")),
}
"""MLflow reads or runs the first two before the model can check anything."""


@pytest.mark.parametrize("case", [*TAMPERED, *ONLY_OURS])
def test_rlvo_refuses_and_names_the_file(package: Path, tmp_path: Path, case: str) -> None:
    name, tamper = (TAMPERED | ONLY_OURS)[case]
    root = Path(shutil.copytree(package, tmp_path / "copy"))
    tamper(root)
    with pytest.raises(RlvoError) as error:
        verify(root)
    assert name in error.value.what
    assert "\n" not in str(error.value)


def test_a_rewritten_manifest_is_not_the_registered_one(package: Path, tmp_path: Path) -> None:
    digest = file_sha256(package / "manifest.json")
    root = Path(shutil.copytree(package, tmp_path / "copy"))
    verify(root, digest)
    flip("code/rlvo/errors.py")(root)
    assert write_manifest(root) != digest
    verify(root)
    with pytest.raises(RlvoError, match="not the one that was registered"):
        verify(root, digest)


def test_what_loading_writes_does_not_count_and_compiled_files_go(package: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(package, tmp_path / "copy"))
    (root / "registered_model_meta").write_text("model_name: rlvo-ensemble\n")
    add("__pycache__/model.cpython-311.pyc")(root)
    verify(root)
    assert not (root / "__pycache__").exists()


@pytest.mark.slow
def test_the_model_itself_refuses_before_it_imports_anything(package: Path, tmp_path: Path) -> None:
    copies = {}
    for case, (_, tamper) in TAMPERED.items():
        copies[case] = str(shutil.copytree(package, tmp_path / case.replace(" ", "-")))
        tamper(Path(copies[case]))
    answers = json.loads(run(LOAD_ALL, json.dumps(copies)))
    for case, (name, _) in TAMPERED.items():
        assert answers[case].startswith(f"AlteredModelError: {name}"), answers[case]
        assert "rlvo imported" not in answers[case]


@pytest.mark.slow
def test_another_rlvo_that_is_imported_already_is_refused(package: Path, tmp_path: Path) -> None:
    (tmp_path / "rlvo").mkdir()
    (tmp_path / "rlvo/__init__.py").write_text('__version__ = "9.9"\n')
    imports = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import rlvo\n"
    answer = run(imports + LOAD_ALL, json.dumps({"": str(package)}))
    assert "this process has imported another rlvo (version 9.9)" in answer
    assert "in a process of its own" in answer


def run(script: str, argument: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-I", "-c", script, argument]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]

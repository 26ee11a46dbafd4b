"""The import rules of the house, read from the source: imports point down only, and heavy parts stay in their place."""

import ast
import graphlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rlvo
from rlvo.study.folder import Inside, StudyFolder

ROOT = Path(rlvo.__file__).parent
LAYERS = (
    {"text", "digits"},
    {"errors", "about"},
    {"files", "progress", "moved_folder", "termination"},
    {"config"},
    {"ray_session", "mlflow_client"},
    {"cohort", "imaging", "models", "evaluation"},
    {"synthetic", "training"},
    {"explain"},
    {"ensemble", "report"},
    {"study", "inference"},
    {"search", "tracking", "registry"},
    {"workflows"},
    {"cli"},
    {"__main__"},
)
LEVEL = {package: level for level, packages in enumerate(LAYERS) for package in packages}
HOME = {
    "ray": {"search", "ray_session", "imaging.cluster"},
    "optuna": {"search"},
    "mlflow": {"tracking", "registry", "mlflow_client"},
}
"""The packages, or single modules, where a library may be imported, inside functions too."""
WITH_A_REGISTERED_MODEL = {
    "torch", "monai", "SimpleITK", "nibabel", "pydicom", "nilearn", "sklearn", "pandas", "numpy", "scipy", "pydantic",
    "safetensors", "ruamel",
}  # fmt: skip
"""What is installed where a registered model answers."""


def modules(root: Path) -> dict[str, Path]:
    """Every module below the package `root` by dotted name."""
    names = {path: ("rlvo", *path.relative_to(root).with_suffix("").parts) for path in root.rglob("*.py")}
    return {".".join(parts).removesuffix(".__init__"): path for path, parts in names.items()}


def imported(tree: ast.AST, *, at_import: bool = False) -> Iterator[str]:
    """Dotted names a module imports (`from a import b` gives `a.b`); with `at_import`, only those it starts with."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not (
            at_import and (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _typing(node))
        ):
            yield from imported(node, at_import=at_import)


def _typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def violations(root: Path) -> list[str]:
    """Every import that points up or sideways, or brings a library where it does not belong."""
    found = []
    for name, path in modules(root).items():
        if name == "rlvo":  # the façade: it hands on names from the top and the bottom, and nothing imports it
            continue
        package = name.split(".")[1]
        for target in imported(ast.parse(path.read_bytes())):
            library, part = f"{target}.".split(".")[:2]
            if library == "rlvo":  # the façade itself is above everything
                is_allowed = part == package or LEVEL.get(part, len(LAYERS)) < LEVEL[package]
            else:
                is_allowed = bool({package, name.removeprefix("rlvo.")} & HOME.get(library, {package}))
            if not is_allowed:
                found.append(f"{name} imports {target}")
    return found


def circle(root: Path) -> list[str]:
    """The modules of one import circle, imports inside functions and for annotations included; empty if none."""
    known = modules(root)
    imports = {
        name: {
            target if target in known else target.rpartition(".")[0]
            for target in imported(ast.parse(path.read_bytes()))
            if target.startswith("rlvo.")
        }
        for name, path in known.items()
        if name != "rlvo"
    }
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def study_files_spelled(root: Path) -> list[str]:
    """Every string outside `study/folder.py`, docstrings aside, that spells a file or folder of a study's folder."""
    paths = [getattr(StudyFolder(Path()), name) for name, kind in vars(StudyFolder).items() if isinstance(kind, Inside)]
    spelled = re.compile("|".join([r"\bfold-", r"\btrials/", *(re.escape(path.name) for path in paths if path.suffix)]))
    found = []
    for name, path in modules(root).items():
        tree = ast.parse(path.read_bytes())
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
            if name != "rlvo.study.folder" and is_text and spelled.search(node.value):
                found.append(f"{name}:{node.lineno} {node.value!r}")
    return found


def loaded_with(start: str, root: Path) -> dict[str, set[str]]:
    """Libraries that are imported when module `start` is, each with the modules of rlvo that do it."""
    known, libraries = modules(root), {}
    waiting, seen = [start], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in known:
            continue
        seen.add(name)
        waiting.append(name.rpartition(".")[0])  # a package's __init__ comes first
        for target in imported(ast.parse(known[name].read_bytes()), at_import=True):
            library = target.split(".")[0]
            if library == "rlvo":
                waiting += [target, target.rpartition(".")[0]]
            elif library not in sys.stdlib_module_names:
                libraries.setdefault(library, set()).add(name)
    return libraries


def test_every_package_has_its_layer() -> None:
    packages = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"}
    packages |= {path.stem for path in ROOT.glob("*.py") if path.stem != "__init__"}
    assert packages == set(LEVEL)


def test_imports_point_down_and_libraries_stay_home() -> None:
    assert violations(ROOT) == []


def test_there_are_no_import_circles() -> None:
    assert circle(ROOT) == []


def test_only_one_module_spells_the_files_of_a_study() -> None:
    assert study_files_spelled(ROOT) == []


@pytest.mark.parametrize("module", ["predictor", "explanation"])
def test_a_registered_model_loads_without_what_only_training_needs(module: str) -> None:
    loaded = loaded_with(f"rlvo.inference.{module}", ROOT)
    assert "torch" in loaded, "the walk over the imports is broken"
    assert {library: users for library, users in loaded.items() if library not in WITH_A_REGISTERED_MODEL} == {}


def test_planning_starts_without_what_only_searching_needs() -> None:
    loaded = loaded_with("rlvo.workflows.search", ROOT)
    assert "pandas" in loaded, "the walk over the imports is broken"
    assert {*loaded}.isdisjoint({"SimpleITK", "mlflow", "monai", "nibabel", "optuna", "sklearn", "torch"})


def test_the_command_line_starts_with_what_every_command_needs() -> None:
    """`rlvo status` and `rlvo --help` wait for it; NumPy alone takes a fifth of their time."""
    loaded = loaded_with("rlvo.cli.main", ROOT)
    assert "typer" in loaded, "the walk over the imports is broken"
    assert {*loaded} <= {"typer", "rich", "pydantic", "pydantic_core", "ruamel"}


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("config/x.py", "from rlvo.cohort import reading", ["rlvo.config.x imports rlvo.cohort.reading"]),
        ("search/x.py", "def f():\n    import rlvo.tracking.mirror", ["rlvo.search.x imports rlvo.tracking.mirror"]),
        ("errors.py", "import rlvo.files", ["rlvo.errors imports rlvo.files"]),
        ("training/x.py", "from mlflow import MlflowClient", ["rlvo.training.x imports mlflow.MlflowClient"]),
        ("cli/x.py", "import ray.tune", ["rlvo.cli.x imports ray.tune"]),
        ("registry/x.py", "import rlvo", ["rlvo.registry.x imports rlvo"]),
        ("cli/x.py", "from rlvo import NOTICE", ["rlvo.cli.x imports rlvo.NOTICE"]),
        ("search/x.py", "import ray, optuna\nfrom rlvo.search import y\nfrom rlvo import about", []),
    ],
)
def test_the_check_finds_what_it_should(module: str, source: str, found: list[str], tmp_path: Path) -> None:
    (tmp_path / module).parent.mkdir(exist_ok=True)
    (tmp_path / module).write_text(source)
    assert violations(tmp_path) == found


def test_the_check_finds_circles_and_spelled_files(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import rlvo.b")
    (tmp_path / "b.py").write_text("def f():\n    from rlvo.a import g")
    assert set(circle(tmp_path)) == {"rlvo.a", "rlvo.b"}
    (tmp_path / "b.py").write_text('"""study.json is fine in prose."""\nf"fold-{1}", PATH / "split.json", "fold"')
    assert circle(tmp_path) == []
    assert study_files_spelled(tmp_path) == ["rlvo.b:2 'fold-'", "rlvo.b:2 'split.json'"]


def test_the_walk_sees_through_modules_and_not_into_functions(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("from rlvo.p import b\nif TYPE_CHECKING:\n    import ray\n")
    (tmp_path / "p").mkdir()
    (tmp_path / "p/__init__.py").write_text("import mlflow")
    (tmp_path / "p/b.py").write_text("try:\n    import os, torch\nfinally:\n    pass\ndef f():\n    import optuna\n")
    assert loaded_with("rlvo.a", tmp_path) == {"mlflow": {"rlvo.p"}, "torch": {"rlvo.p.b"}}

"""rlvo: find, combine and ship models that predict refractory large-vessel occlusion before thrombectomy.

A notebook starts from `rlvo.Study` and `rlvo.load_model` (docs/api.md). They are imported when they are first used:
`import rlvo` by itself loads neither torch nor Ray nor MLflow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rlvo.about import NOTICE, __version__

if TYPE_CHECKING:
    from rlvo.report.console import show_progress
    from rlvo.workflows.answers import Model, load_model
    from rlvo.workflows.api import Study

__all__ = ["NOTICE", "Model", "Study", "__version__", "load_model", "show_progress"]

_HOMES = {
    "Model": "rlvo.workflows.answers",
    "Study": "rlvo.workflows.api",
    "load_model": "rlvo.workflows.answers",
    "show_progress": "rlvo.report.console",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rlvo' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__

"""Which models may answer: those that passed their gate, and others only if asked to; every answer then says so."""

from dataclasses import dataclass
from pathlib import Path

from rlvo.errors import RlvoError
from rlvo.mlflow_client import Tracking
from rlvo.registry.gate import gate_result, has_passed
from rlvo.registry.location import find_version, is_folder, locate_model

RECORD = "gate.txt"
"""What the gate had found, beside a model that `rlvo bundle` packed."""


@dataclass(frozen=True)
class AdmittedModel:
    """A model that may answer, every file of it verified."""

    name: str
    """NAME/NUMBER, because an alias may move; or the folder, as it was named."""
    folder: Path
    """Its MLflow model folder."""
    gate: str | None
    """What its gate found; None if that is unknown: for a folder that no gate's record lies beside."""

    @property
    def caution(self) -> str | None:
        """What every answer must say; None if there is nothing to say."""
        if self.gate is None or has_passed(self.gate):
            return None
        return f"the model did not pass its gate ({self.gate})"


def admit_model(model: str, tracking: Tracking, *, ungated: bool = False) -> AdmittedModel:
    """Find a model by name or folder, see what its gate found, and verify its files.

    The gate's result is the version's tag, or what `rlvo bundle` wrote beside a model. Nothing is known about any other
    folder: it may answer.

    Args:
        model: as `locate_model` takes it.
        tracking: whose registry to look in.
        ungated: admit a model that did not pass, too.

    Raises:
        RlvoError: there is no such model, it is not what was registered, or it did not pass its gate.
        MachineError: the registry does not answer.
    """
    name, gate = check_model(model, tracking, ungated=ungated)
    return AdmittedModel(name, locate_model(name, tracking), gate)


def check_model(model: str, tracking: Tracking, *, ungated: bool = False) -> tuple[str, str | None]:
    """The first part of `admit_model`, which fetches and verifies nothing: the model's name, and what its gate found.

    Arguments and errors are those of `admit_model`.
    """
    if is_folder(model):
        record = Path(model).expanduser().resolve().parent / RECORD
        name, gate = model, record.read_text().strip() if record.is_file() else None
    else:
        version = find_version(model, tracking)
        name, gate = f"{version.name}/{version.version}", gate_result(version.tags)
    if not ungated and gate is not None and not has_passed(gate):
        others = "" if is_folder(model) else f"`{tracking.listing(name.partition('/')[0])}` shows which passed. "
        fix = f"{others}To be answered all the same: --ungated (Python: ungated=True)"
        raise RlvoError(f"it did not pass its gate ({gate})", where=name, fix=fix)
    return name, gate

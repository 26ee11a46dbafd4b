"""The work folder: everything that studies write."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rlvo.files import check_writable

DEFAULT = "./rlvo-work"


@dataclass(frozen=True)
class Workdir:
    """`--workdir`: `mlflow.db`, `mlflow-artifacts/`, `store/`, `pretrained/`, `pretraining/`, `studies/<name>/`."""

    path: Path

    @classmethod
    def at(cls, path: Path, *, create: bool = True) -> Self:
        """The work folder at `path`; absolute, because Tune changes the working directory.

        Args:
            create: whether it will be written to: it is created if it is missing.

        Raises:
            RlvoError: it will be written to, and cannot be.
        """
        path = path.expanduser().resolve()
        if create:
            check_writable(path, folder=True)
            path.mkdir(parents=True, exist_ok=True)
        return cls(path)

    @property
    def store(self) -> Path:
        return self.path / "store"

    @property
    def studies(self) -> Path:
        return self.path / "studies"

    def study(self, name: str) -> Path:
        return self.studies / name

    def pretrained(self, sha256: str) -> Path:
        """The copy of the pretrained weights with this SHA-256, from which trials start."""
        return self.path / "pretrained" / f"{sha256}.safetensors"

    def pretraining(self, name: str) -> Path:
        """Where `rlvo pretrain` keeps checkpoints, curve and picture."""
        return self.path / "pretraining" / name

    @property
    def artifacts(self) -> Path:
        return self.path / "mlflow-artifacts"

    def tracking_uri(self, configured: str | None = None) -> str:
        """`MLFLOW_TRACKING_URI` if set, else the configured address, else the embedded sqlite file."""
        return os.environ.get("MLFLOW_TRACKING_URI") or configured or sqlite_address(self.path / "mlflow.db")


def sqlite_address(file: Path) -> str:
    """SQLAlchemy's address of a database file, whatever characters its path has.

    MLflow makes the folder of an address that begins with `sqlite:///` as it is written there, escapes and all; so one
    that needs escapes names its driver too.
    """
    escaped = str(file).replace("%", "%25").replace("?", "%3F")
    return f"sqlite:///{file}" if escaped == str(file) else f"sqlite+pysqlite:///{escaped}"

"""The run of a pretraining in MLflow: its settings and its curve. It names no patients, files or tables."""

import time
from collections.abc import Mapping, Sequence

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from rlvo.about import NOTICE
from rlvo.errors import MachineError
from rlvo.mlflow_client import Tracking, one_line
from rlvo.tracking.runs import RunTree

EXPERIMENT = "{}-pretraining"
"""Beside that of the study, into which a search may be writing."""


def log_pretraining(
    tracking: Tracking,
    study: str,
    *,
    key: str,
    name: str,
    params: Mapping[str, object],
    epochs: Sequence[Mapping[str, float]],
) -> None:
    """Write the run of a pretraining, unless it is there; its experiment is named after the study.

    Args:
        key: identifies it by its content.
        epochs: the metrics of each.

    Raises:
        MachineError: MLflow does not answer.
    """
    note = (
        f"An image network was pretrained for study **{study}** on volumes without outcome. `train/loss`, `val/loss`: "
        "squared error at voxels that were hidden from it, divided by that of telling the mean; `val/loss` is of "
        "volumes held back."
    )
    try:
        tree = RunTree(tracking, EXPERIMENT.format(study))
        tree.open(key, "pretraining", name, params, note="\n\n".join([note, NOTICE]))
        numbered = [{"epoch": number, **epoch} for number, epoch in enumerate(epochs, start=1)]
        tree.log_epochs(key, numbered, time.time_ns() // 1_000_000)
        tree.set_status(key, "FINISHED")
    except (MlflowException, SQLAlchemyError) as error:
        raise MachineError(f"MLflow does not answer ({one_line(error)})", where=tracking.uri) from None

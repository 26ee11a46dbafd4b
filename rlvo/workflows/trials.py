"""A study's trials as one table, for those who would otherwise read Tune's results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import pandas as pd

from rlvo.config.workdir import Workdir
from rlvo.errors import MachineError
from rlvo.study.folder import StudyFolder, read_config, read_hashes
from rlvo.study.state import StudyState
from rlvo.study.status import read_state
from rlvo.tracking.runs import trial_runs
from rlvo.training.records import TrialIdentity
from rlvo.training.usage import SECONDS, read_usage
from rlvo.workflows.study import tracking_of


def trials_and_runs(study: StudyFolder, work: Workdir, warn: Callable[[str], None]) -> pd.DataFrame:
    """The table of `trial_table`, with `mlflow_run`: the id of each trial's run, if MLflow answers and has one.

    Args:
        warn: told if MLflow does not answer.

    Raises:
        RlvoError: no study was started there, or its files are damaged.
    """
    config, table = read_config(study), trial_table(read_state(study), study)
    try:
        runs = trial_runs(tracking_of(work, config), config.name)
    except MachineError as error:
        warn(f"without the runs in MLflow: {error}")
        runs = {}
    hashes = read_hashes(study) if study.inputs.exists() else {"data_hash": "", "split_hash": ""}

    def run(key: str, fold: int) -> str | None:
        return runs.get(TrialIdentity(study=config.name, configuration=key, fold=fold, **hashes).key)

    if len(table):
        pairs = zip(table["configuration"], table["fold"], strict=True)
        table["mlflow_run"] = [run(key, fold) for key, fold in pairs]
    return table


def trial_table(state: StudyState, study: StudyFolder) -> pd.DataFrame:
    """One row per trial of a configuration that was started.

    `configuration` (its key), `label`, `fold`, `state`, `epoch` (how many have ended), `reason` (why it failed or was
    pruned); its parameters by dotted path (`model.backbone`, `training.learning_rate`, …); `best_epoch`, `seconds` and
    its metrics at the best epoch (`val/auc`, …) once it has ended; `started` and `last_epoch` (UTC), if an epoch has
    ended; `folder`.

    Args:
        state: where the study stands.
        study: its folder.
    """
    rows = []
    for each in state.configurations:
        parameters = each.configuration.model_dump(mode="json") if each.configuration else {}
        for trial in each.trials:
            folder = study.trial(each.key, trial.fold)
            row = {"configuration": each.key, "label": each.label, "fold": trial.fold, "state": trial.state}
            row |= {"epoch": trial.epoch, "reason": trial.reason, **parameters}
            if (record := trial.record) is not None:
                row |= {"best_epoch": record.best_epoch, "seconds": record.seconds, **record.metrics}
            rows.append({**row, **_times(read_usage(folder)), "folder": str(folder)})
    return pd.json_normalize(rows)


def _times(usage: Mapping[int, Mapping[str, float]]) -> dict[str, str]:
    """When the first epoch began and the last one ended; empty if nobody noted it."""
    ended = {line["when"]: line for line in usage.values() if "when" in line}
    if not ended:
        return {}
    times = {"started": min(ended) - 1000 * ended[min(ended)].get(SECONDS, 0.0), "last_epoch": max(ended)}
    return {name: datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="seconds") for name, at in times.items()}

"""What MLflow shows above each run (tag `mlflow.note.content`, Markdown): what it is, and how far to trust it."""

from rlvo.about import NOTICE
from rlvo.config.model import Configuration
from rlvo.config.study import StudyConfig
from rlvo.tracking.datasets import PatientGroup, StudyGroups
from rlvo.tracking.trial_figures import CURVES

OPTIMISTIC = (
    "**Validation figures are optimistic**: checkpoints, thresholds and configurations were chosen on the same "
    "patients. Only the hold-out, which `rlvo evaluate` opens, tells how a model does on new ones."
)


def study_note(config: StudyConfig, groups: StudyGroups) -> str:
    """For the run of a study."""
    patients, folds = groups.optimistic.patients, config.folds.folds
    what = f"Study **{config.name}**: {config.configurations} configurations × {folds} folds, trained and validated on "
    what += f"{patients} patients; {groups.holdout.patients} others are held out."
    where = (
        "Below it: its configurations, each with its trials, the ensembles and the clinical baselines. Its metrics: "
    )
    where += (
        "`best/auc_mean` and `best/auc_sd` of the best configuration (tag `rlvo.best_configuration`), and how many "
    )
    where += "trials have finished, failed, or were pruned, of how many."
    return "\n\n".join([what, where, OPTIMISTIC, NOTICE])


def configuration_note(configuration: Configuration) -> str:
    """For the run of a configuration."""
    what = f"Configuration **{configuration.label}**: mean and SD over its folds, each at its best epoch."
    return "\n\n".join([what, OPTIMISTIC, NOTICE])


def trial_note(configuration: Configuration, fold: int, training: PatientGroup, validation: PatientGroup) -> str:
    """For the run of a trial, whose page opens on its curves."""
    curves = (
        f"[![Learning curves: here once the trial has finished]({{artifact}}{CURVES})]({{page}}/artifacts/{CURVES})"
    )
    what = f"**{configuration.label}**, fold {fold}: trained on {training.patients} patients, validated on the "
    what += f"{validation.patients} of the fold. `val/…` are by epoch; `best/…` at the epoch with "
    what += "the lowest loss, whose weights are the checkpoint."
    return "\n\n".join(["[**Curves by epoch**]({page}/model-metrics)", curves, what, OPTIMISTIC, NOTICE])


def ensemble_note(config: StudyConfig) -> str:
    """For the run of an ensemble."""
    what = f"Ensemble of study **{config.name}**: its members' weighted probabilities, one vote per fold. `val/…` are "
    what += "optimistic. `nested/…` were estimated with everything chosen on other folds than the patient's. `test/…` "
    what += "are those of the hold-out, and `test/opening` says how often it had been opened."
    return "\n\n".join([what, NOTICE])


def baseline_note(name: str, config: StudyConfig) -> str:
    """For the run of a clinical baseline."""
    what = f"Clinical baseline **{name}** on the folds of study **{config.name}**, without images."
    return "\n\n".join([what, OPTIMISTIC, NOTICE])

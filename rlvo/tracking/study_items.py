"""What MLflow is to hold of a study.

No path and no patient id is written: patients are named by pseudonym, and text ends before its first path.
"""

import json
import math
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import fmean, stdev

from rlvo.cohort.splits import Split
from rlvo.config.base import by_path, content_hash
from rlvo.config.model import Configuration
from rlvo.config.space import conditions
from rlvo.config.study import StudyConfig
from rlvo.errors import RlvoError, get_logger
from rlvo.evaluation.predictions import rename_patients
from rlvo.study.folder import StudyFolder, study_identity
from rlvo.study.state import State, combined_state
from rlvo.study.status import TrialKey, read_note
from rlvo.tracking.datasets import StudyGroups
from rlvo.tracking.notes import configuration_note, study_note, trial_note
from rlvo.tracking.runs import RunStatus, RunTree
from rlvo.tracking.trial_figures import trial_figures
from rlvo.tracking.trial_files import Siblings, StartedTrials, TrialFiles
from rlvo.training.records import BEST_WEIGHTS, EPOCHS, OBJECTIVE, PREDICTIONS, CompletionRecord, objective_se

DIGEST = "rlvo.digest"
"""Tag: SHA-256 of the file that a run shows in full; set once everything is there."""
BEST, CHECKPOINT, CONFIGURATION = "rlvo.best", "rlvo.checkpoint", "rlvo.configuration"
"""Tags: `true` on the best trial and the best configuration; SHA-256 of the weights that a trial's run holds;
the configuration's key."""
RETRIES, COMPUTED = "rlvo.out_of_memory", "rlvo.computed"
"""Tags: from which epoch on how many patients of a batch were computed at once, if memory ran out; device, precision
and whether the trial would repeat."""
LEFT_CHANCE, STARTS = "rlvo.left_chance", "rlvo.starts"
"""Tags: `false` if the network does not even tell apart the patients it was trained on; how often it was trained."""
DRAWING_SECONDS = 5.0
"""How long a sync draws pictures, which take most of a trial's time here: they are not to hold up what is new."""
MANY = 200
"""Pictures of so many trials take half a minute or more."""
STATUS: dict[State, RunStatus] = {"finished": "FINISHED", "failed": "FAILED", "pruned": "KILLED"}

Pseudonymise = Callable[[str], str]

logger = get_logger(__name__)


def modified_ns(path: Path) -> int | None:
    """When a file was last written, nanoseconds since 1970; None if there is none."""
    return path.stat().st_mtime_ns if path.exists() else None


def open_study_run(tree: RunTree, config: StudyConfig, study: StudyFolder, groups: StudyGroups) -> str:
    """The identity of a study's run, which is created if need be, with its configuration as an artifact."""
    run, content = study_identity(study, config), shareable(config)
    tree.save_views(config)
    grid = "×".join(map(str, config.grid.shape))
    params = {"sampler": config.search.sampler, "folds": config.folds.folds, "seed": config.seed, "grid": grid}
    tree.open(run, "study", config.name, params, note=study_note(config, groups), datasets=[groups.optimistic])
    tree.write_artifact(run, study.config.name, json.dumps(content, indent=2), tag=DIGEST, digest=content_hash(content))
    return run


class StudyItems:
    """Writes a study and its trials to MLflow, again and again, and knows what was delivered.

    Args:
        config: the study's configuration.
        study: its folder.
        trials: those that were started, as they were found last.
        pseudonymise: gives a patient's pseudonym.
    """

    def __init__(
        self, config: StudyConfig, study: StudyFolder, trials: StartedTrials, pseudonymise: Pseudonymise
    ) -> None:
        self._config, self._study, self._trials, self._pseudonymise = config, study, trials, pseudonymise
        self._tree: RunTree | None = None
        """The one that holds everything that was written."""
        self._root = ""
        self._training: Collection[TrialKey] | None = None
        self._is_refused = False
        """Whether an artifact was refused, so that it is to be tried again."""
        self._is_ranked = False
        """Whether the best are tagged and kept, and trials counted, as the records are."""
        self._best: Collection[str] = ()
        """The runs that are tagged."""
        self._kept: dict[str, str] = {}
        """The digests of the weights that MLflow holds, by run."""

    def write(self, tree: RunTree, closing: RunStatus | None, *, draws_all: bool) -> None:
        """Have MLflow hold what is new of the trials that were found: study → configuration → trial.

        Args:
            tree: the study's experiment; another one than the last time is given everything.
            closing: how trials without a record have ended; None while the search runs.
            draws_all: draw all pictures once all else is there, not only as many as the time for a sync allows.
        """
        is_same, self._tree = tree is self._tree, None
        note = read_note(self._study)
        training = note.running if note is not None else None
        if not is_same:
            self._is_ranked, self._best, self._kept = False, [], {}
            for files in self._trials:
                if files.run not in tree.runs or tree.runs[files.run].tags.get(DIGEST) != files.digest:
                    files.forget()
        started = self._trials.configurations
        new = [each for each in started if each.is_new or not is_same or closing is not None]
        if new or not self._is_ranked or self._trials.has_changed or self._is_refused:
            groups = StudyGroups.of(self._study)
            if not is_same or self._is_refused:
                self._root = open_study_run(tree, self._config, self._study, groups)
            for each in new:
                for files in each.trials.values():
                    run = tree.runs.get(files.run)
                    self._trials.read(files, run.tags.get(DIGEST) if run is not None else None)
                self._write_runs(tree, each, groups)
                self._set_statuses(tree, each, training, closing)
                each.is_new = False
            if not self._is_ranked or self._trials.has_changed or closing is not None:
                self._rank(tree, groups, every=not is_same)
        if training != self._training:
            for each in started:
                if each.is_open:
                    self._set_statuses(tree, each, training, closing)
        self._training = training
        is_complete = sum(each.state in STATUS for each in started) >= self._config.configurations
        tree.set_status(self._root, "FINISHED" if is_complete or closing == "FAILED" else closing or "RUNNING")
        if closing is not None:
            tree.kill_open_runs(self._root)  # what is left are runs of trials whose folders are gone
        self._draw(tree, every=draws_all)
        self._is_refused = tree.refusal is not None
        self._tree = tree

    def _run(self, siblings: Siblings) -> str:
        """The identity of a configuration's run."""
        return f"{self._root}/{siblings.configuration.key}"

    def _rank(self, tree: RunTree, groups: StudyGroups, *, every: bool) -> None:
        """Tag the best, count those that have ended, and have MLflow hold the weights it is to keep.

        Args:
            every: whatever was tagged and kept before, unknown here, is looked through too.
        """
        aucs = self._aucs()
        runs = [self._run(each) for each in self._trials.configurations]
        scores = {run: fmean(aucs[run]) if run in aucs else -math.inf for run in runs}
        by_trial = {files.run: files.score for files in self._trials}
        before = [*by_trial, *scores] if every else self._best
        self._best = [_best(by_trial), _best(scores)]
        for run in dict.fromkeys([*before, *self._best]):
            is_best = run in self._best and math.isfinite(by_trial.get(run, scores.get(run, -math.inf)))
            tree.set_tags(run, {BEST: "true" if is_best else None})
        self._summarise(tree, aucs)
        self._is_ranked, self._trials.has_changed = True, False
        self._keep_checkpoints(tree, groups, every=every)

    def _aucs(self) -> dict[str, list[float]]:
        """Of what has finished, by the run of its first repeat: the AUC on each fold, the mean over the repeats."""
        finished = defaultdict[str, list[tuple[int, str, list[float]]]](list)  # by what all repeats share
        for each in self._trials.configurations:
            if each.state == "finished":
                configuration, repeat = each.configuration, each.configuration.training.repeat
                shared = configuration.key if repeat == 0 else configuration.first_repeat.key
                scores = [files.score for files in each.trials.values()]
                finished[shared].append((repeat, self._run(each), scores))
        return _over_repeats(finished.values())

    def _summarise(self, tree: RunTree, aucs: Mapping[str, Sequence[float]]) -> None:
        """At the study's run: the best configuration, and how many trials have ended, each by how many had by then."""
        outcomes = Counter[State](files.record.outcome for files in self._trials if files.record is not None)
        figures: dict[str, float] = {f"trials_{outcome}": outcomes[outcome] for outcome in STATUS}
        figures["trials_planned"] = self._config.configurations * self._config.folds.folds
        if aucs:
            best = max(aucs, key=lambda run: fmean(aucs[run]))
            run = tree.runs[best]
            figures |= {"best/auc_mean": fmean(aucs[best]), "best/auc_sd": stdev(aucs[best])}
            tree.set_tags(self._root, {"rlvo.best_configuration": f"{run.name} ({run.tags[CONFIGURATION]})"})
        tree.log_summary(self._root, figures, step=outcomes.total())

    def _keep_checkpoints(self, tree: RunTree, groups: StudyGroups, *, every: bool) -> None:
        """Have MLflow hold the weights of the best trials, as many as the limits allow, and no others; also as models.

        On disk every trial keeps its weights. What drops out is deleted before anything is added, so MLflow never holds
        more than it may.
        """
        limits = self._config.mlflow
        by_run = {files.run: files for files in self._trials}
        candidates = [files for files in by_run.values() if math.isfinite(files.score) and files.weights_bytes]
        ranked = sorted(candidates, key=lambda files: -files.score)
        room = math.inf if limits.checkpoint_gb is None else limits.checkpoint_gb * 1e9
        sizes = accumulate(files.weights_bytes or 0 for files in ranked)
        kept = ranked[: min(sum(size <= room for size in sizes), limits.keep_checkpoints or len(ranked))]
        digests = {files.run: files.record.files[BEST_WEIGHTS] for files in kept if files.record is not None}
        for run in (by_run if every else self._kept).keys() - digests.keys():
            tree.write_artifact(run, "best", None, CHECKPOINT)
            tree.delete_model(run)
        self._kept = {run: digest for run, digest in self._kept.items() if run in digests}
        for run, digest in digests.items():
            if self._kept.get(run) != digest:
                self._keep(tree, by_run[run], digest, groups)

    def _keep(self, tree: RunTree, files: TrialFiles, digest: str, groups: StudyGroups) -> None:
        """Have MLflow hold a trial's weights, also as a model."""
        trial, record = files.trial, files.record
        assert record is not None  # it has finished
        is_to_check = not files.is_checked and tree.runs[files.run].tags.get(CHECKPOINT) != digest
        if is_to_check and not self._trials.are_weights_whole(files, record):
            self._is_ranked = False
            return
        tree.write_artifact(files.run, BEST_WEIGHTS, files.weights, CHECKPOINT, digest)
        if tree.refusal is not None:
            self._is_ranked = False
            return
        fold, epoch = trial.identity.fold, record.best_epoch or 0
        name, validation = run_name(trial.configuration, fold), groups.validation(fold)
        tree.log_model(files.run, name, epoch, at_best(record), validation)
        self._kept[files.run] = digest

    def _write_runs(self, tree: RunTree, siblings: Siblings, groups: StudyGroups) -> None:
        """The run of a configuration and those of its trials, with what each trial has written so far."""
        configuration, run = siblings.configuration, self._run(siblings)
        params, tags = hyperparameters(configuration), {CONFIGURATION: configuration.key}
        tree.open(
            run,
            "configuration",
            run_name(configuration),
            params,
            parent=self._root,
            tags=tags,
            note=configuration_note(configuration),
            datasets=[groups.optimistic],
        )
        for fold, files in siblings.trials.items():
            training, validation = groups.training(fold), groups.validation(fold)
            tree.open(
                files.run,
                "trial",
                run_name(configuration, fold),
                {**params, "fold": fold},
                parent=run,
                tags=tags,
                note=trial_note(configuration, fold, training, validation),
                datasets=(training, validation),
            )
            if files.epochs and not files.is_delivered:
                written = modified_ns(files.trial.folder / EPOCHS) or 0
                tree.log_epochs(files.run, files.epochs, written // 1_000_000)
            if files.record is not None and not files.is_delivered:
                self._write_ended(tree, files, files.record, groups.split)
                if tree.refusal is None:
                    files.note_delivered()

    def _write_ended(self, tree: RunTree, files: TrialFiles, record: CompletionRecord, split: Split) -> None:
        """What a trial left when it ended, but pictures."""
        tree.log_summary(files.run, {**at_best(record), "seconds": record.seconds}, step=record.best_epoch or 0)
        tags: dict[str, str | None] = {}
        if tree.refusal is None and tree.runs[files.run].tags.get(DIGEST) != files.digest:
            if PREDICTIONS in record.files:
                predictions = rename_patients(files.trial.folder / PREDICTIONS, self._pseudonymise)
                tree.write_artifact(files.run, "validation_predictions.csv", predictions)
            files.lacks_pictures = True
        if record.reason:
            patients = [*split.development, *split.test]
            tags["rlvo.reason"] = without_identities(record.reason, patients, self._pseudonymise)
        elif record.failure:
            tags["rlvo.reason"] = record.failure
        if record.starts:
            tags[LEFT_CHANCE] = str(not record.never_left_chance).lower()
            tags[STARTS] = str(len(record.starts))
        if record.retries:
            tags[RETRIES] = ", ".join(f"epoch {each.epoch}: {each.micro_batch} at once" for each in record.retries)
        if record.computed:
            tags[COMPUTED] = "; ".join(each.label for each in record.computed)
        tree.set_tags(files.run, tags)
        tree.set_status(files.run, STATUS[record.outcome])

    def _draw(self, tree: RunTree, *, every: bool) -> None:
        """Add the pictures that MLflow lacks, all or for some seconds: with its own, MLflow holds all of a trial."""
        until = math.inf if every else time.monotonic() + DRAWING_SECONDS
        due = [files for files in self._trials if files.lacks_pictures]
        if every and len(due) > MANY:
            logger.info("drawing the pictures of %d trials for MLflow; Ctrl-C leaves them for the next start", len(due))
        for files in due:
            if tree.refusal is not None or time.monotonic() > until:
                return
            try:
                for name, figure in trial_figures(files.trial.folder).items():
                    tree.write_artifact(files.run, name, figure)
            except RlvoError as damage:  # the other trials do not wait for it
                self._trials.damage = damage
                files.forget()
                continue
            if tree.refusal is None:
                tree.set_tags(files.run, {DIGEST: files.digest})
                files.lacks_pictures = False

    def _set_statuses(
        self, tree: RunTree, siblings: Siblings, training: Collection[TrialKey] | None, closing: RunStatus | None
    ) -> None:
        """Say how a configuration and those of its trials that have no record stand."""
        folds, run = siblings.trials, self._run(siblings)
        records = [files.record for files in folds.values() if files.record is not None]
        outcomes: list[State] = [record.outcome for record in records]
        for fold, files in folds.items():
            if files.record is None:
                outcomes.append("failed" if closing == "FAILED" else "waiting")
                is_training = training is None or (siblings.configuration.key, fold) in training
                status: RunStatus = closing or ("RUNNING" if is_training else "SCHEDULED")
                tree.set_status(files.run, "KILLED" if "pruned" in outcomes else status)
        outcomes += ["waiting"] * (self._config.folds.folds - len(folds))
        siblings.state = combined_state(outcomes)
        if siblings.state == "finished":
            error = objective_se(records)
            summary = over_folds([record.metrics for record in records])
            tree.log_summary(run, summary if error is None else {**summary, f"{OBJECTIVE}_se": error})
        tree.set_status(run, STATUS.get(siblings.state, "KILLED" if closing else "RUNNING"))


def _over_repeats(finished: Iterable[Sequence[tuple[int, str, Sequence[float]]]]) -> dict[str, list[float]]:
    """The AUC of each configuration on each fold, the mean over its repeats, by the run of the first of these.

    Args:
        finished: of each configuration its repeats: their number, run, and AUC on each fold.
    """
    return {
        min(repeats)[1]: [fmean(of_fold) for of_fold in zip(*(aucs for *_, aucs in repeats), strict=True)]
        for repeats in finished
    }


def _best(scores: Mapping[str, float]) -> str:
    """The run with the highest score, the first of equals."""
    return max(scores, key=scores.__getitem__)


def run_name(configuration: Configuration, fold: int | None = None) -> str:
    """Begins with what differs most, because tables cut it: `BOTH +prior daft, fold 0, densenet169`."""
    backbone, _, rest = configuration.label.partition(" ")
    return ", ".join([rest, *([] if fold is None else [f"fold {fold}"]), backbone])


def at_best(record: CompletionRecord) -> dict[str, float]:
    """The validation metrics of the best epoch: `best/auc`, …"""
    return {name.replace("val/", "best/"): at for name, at in record.metrics.items() if name.startswith("val/")}


def hyperparameters(configuration: Configuration) -> dict[str, object]:
    """Model spec and hyperparameters by (dotted) name: `backbone`, `modality`, …, `learning_rate`, `daft.bias`.

    Options of other backbones, fusions and schedules than the configuration's are left out.
    """
    values = by_path(configuration.model_dump())

    def matters(path: str) -> bool:
        return all(values[field] in needed for field, needed in conditions(path))

    return {path.partition(".")[2]: value for path, value in values.items() if matters(path)}


def over_folds(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean and SD (n − 1) over folds of every metric that all folds have: `val/auc_mean`, `val/auc_sd`, …"""
    summary = {}
    for name in metrics[0]:
        values = [fold[name] for fold in metrics if name in fold]
        if name != "lr" and len(values) == len(metrics):
            summary[f"{name}_mean"], summary[f"{name}_sd"] = fmean(values), stdev(values)
    return summary


def shareable(config: StudyConfig) -> dict[str, object]:
    """The study's configuration without the paths of cohort and atlas, patient ids and the server's address."""
    return config.model_dump(
        mode="json",
        exclude={"cohort": {"table"}, "atlas": True, "folds": {"test_patients"}, "mlflow": {"tracking_uri"}},
    )


def without_identities(text: str, patients: Iterable[str], pseudonymise: Pseudonymise) -> str:
    """`text` up to its first path (which may hold spaces, so its end is unknown), with patient ids replaced."""
    text = re.sub(r"\S*[/\\].*", "…", text, flags=re.DOTALL)
    ids = "|".join(re.escape(patient) for patient in sorted(patients, key=len, reverse=True))
    return re.sub(rf"(?<!\w)(?:{ids})(?!\w)", lambda match: pseudonymise(match[0]), text) if ids else text

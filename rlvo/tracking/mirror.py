"""One writer beside the search that carries what a study writes to disk into MLflow."""

import threading
from types import TracebackType
from typing import Self

from mlflow.exceptions import MlflowException

from rlvo.config.study import StudyConfig
from rlvo.errors import RlvoError, get_logger
from rlvo.mlflow_client import Tracking, one_line
from rlvo.study.folder import StudyFolder
from rlvo.tracking.runs import RunStatus, RunTree
from rlvo.tracking.study_items import Pseudonymise, StudyItems
from rlvo.tracking.trial_files import StartedTrials

logger = get_logger(__name__)


class Mirror:
    """Writes what a study folder holds to MLflow, as often as it is asked, and nothing twice.

    The folder is the truth and MLflow a view of it: after a restart, or after a server was away, the mirror continues
    from what MLflow holds. As a context manager it runs in the background and closes at the end.

    Args:
        config: the study's configuration.
        study: its folder.
        tracking: where MLflow keeps runs.
        pseudonymise: gives a patient's pseudonym.
    """

    def __init__(self, config: StudyConfig, study: StudyFolder, tracking: Tracking, pseudonymise: Pseudonymise) -> None:
        self._config, self._study, self._pseudonymise = config, study, pseudonymise
        self._know_nothing()
        self._tracking, self._experiment = tracking, config.name
        self._tree: RunTree | None = None
        self._problem: str | None = None
        self._is_hurried = False
        """Whether pictures that are left are for the next start, though the study has ended."""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._has_ended = threading.Event()

    def _know_nothing(self) -> None:
        """Of the trials, and of what MLflow holds."""
        self._trials = StartedTrials(self._config, self._study)
        self._items = StudyItems(self._config, self._study, self._trials, self._pseudonymise)

    def start(self, interval: float = 5.0) -> None:
        """Sync every `interval` seconds in the background. If MLflow is away, that is logged once, and tried again."""
        self._thread = threading.Thread(target=self._run, args=(interval,), name="mlflow-mirror", daemon=True)
        self._thread.start()

    def close(self, *, interrupted: bool = False) -> str | None:
        """Stop, sync a last time and end every run: a trial without a record was stopped, or else has failed.

        Args:
            interrupted: the search was stopped and will continue another time.

        Returns:
            One line about what MLflow is missing; None if it has everything.
        """
        self._stop.set()
        if self._thread is not None:
            self._has_ended.wait()  # an interrupted `Thread.join` takes a thread that runs for one that has ended
        self._try("KILLED" if interrupted else "FAILED")
        if self._problem is None:
            undrawn = sum(files.lacks_pictures for files in self._trials)
            return f"MLflow lacks pictures of {undrawn} trial(s): the next start adds them" if undrawn else None
        waiting = self._trials.undelivered
        what = f"{waiting} trial(s) that are" if waiting else "something that is"
        return f"MLflow is missing {what} on disk: {self._problem}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._end(interrupted=kind is not None)
        except KeyboardInterrupt:  # the first, so runs are to be ended all the same; a second one ends this
            if kind is None:
                self._know_nothing()  # of what was being read or written
                self._is_hurried = True
                self._end(interrupted=False)
            raise

    def _end(self, *, interrupted: bool) -> None:
        if problem := self.close(interrupted=interrupted):
            logger.warning(problem)

    def sync(self, closing: RunStatus | None = None) -> None:
        """Carry over what is new.

        Args:
            closing: how trials without a record have ended; None while the search runs.

        Raises:
            RlvoError: MLflow does not answer (MachineError), or a trial's files are damaged.
            MlflowException, OSError: MLflow stopped answering, or refused.
        """
        tree, self._tree = self._tree, None  # after a failure, MLflow is asked again what it holds
        if self._trials.find(every=closing is not None):
            tree = tree or RunTree(self._tracking, self._experiment, goes_on=True)
            tree.refusal = None
            self._items.write(tree, closing, draws_all=closing == "FAILED" and not self._is_hurried)
        self._tree = tree
        if tree is not None and tree.refusal is not None:
            raise tree.refusal
        if self._trials.damage is not None:
            raise self._trials.damage

    def _run(self, interval: float) -> None:
        try:
            while not self._stop.wait(interval):
                self._try()
        finally:
            self._has_ended.set()

    def _try(self, closing: RunStatus | None = None) -> None:
        try:
            self.sync(closing)
            self._problem = None
        except (MlflowException, OSError, RlvoError) as error:
            problem = str(error) if isinstance(error, RlvoError) else one_line(error)  # ours say how to mend it
            if self._problem is None:
                logger.warning("MLflow does not get everything yet; the study continues: %s", problem)
            self._problem = problem

"""Optuna's side of a study: one Optuna trial per configuration, in a journal in the study's folder or in a database."""

import os
import secrets
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from rlvo.config.model import Configuration
from rlvo.config.space import Range, Scalar, conditions
from rlvo.config.study import StudyConfig
from rlvo.errors import MachineError, RlvoError, encode_password, hide_passwords
from rlvo.files import atomic_write, parse_json
from rlvo.study.folder import StudyFolder
from rlvo.training.records import OBJECTIVE

ADDRESS = "RLVO_OPTUNA_STORAGE"
METRIC = f"mean {OBJECTIVE} over folds"

Values = Mapping[str, Scalar]
"""A value for every axis that matters to a configuration, by dotted path."""


@dataclass(frozen=True)
class Proposal:
    """A configuration Optuna asked for. Two proposals may be of the same configuration."""

    number: int
    """Optuna's trial number."""
    values: Values
    configuration: Configuration
    state: TrialState = TrialState.RUNNING

    @cached_property
    def key(self) -> str:
        """The configuration's key, computed once."""
        return self.configuration.key


@contextmanager
def database_errors() -> Iterator[None]:
    """Raise MachineError, in one line, if the database does not answer. Also a decorator."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, ImportError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
        [reason, *_] = hide_passwords(str(getattr(cause, "orig", None) or cause)).strip().splitlines()
        raise MachineError(
            f"Optuna's database does not answer: {reason}",
            where=ADDRESS if os.environ.get(ADDRESS) else "search.storage",
            fix="Check the database, its address and its driver (pip install 'psycopg[binary]'), then start again: "
            "the study continues",
        ) from None


class Proposals:
    """Ask for configurations, tell their objective; what was asked before is there again after any death.

    Enumerated axes (with the grid sampler, all axes) are dealt, so that every combination gets its share; the others
    are suggested by the sampler, if they matter (`StudyConfig.is_active`). A proposal depends on the seed, its number
    and what was told before, and not on when the process was started.
    """

    def __init__(self, config: StudyConfig, study: StudyFolder) -> None:
        self.budget = config.configurations
        """How many configurations to propose."""
        self.count = 0
        """How many count as proposed so far."""
        space, is_grid = config.space, config.search.sampler == "grid"
        self._config = config
        self._deal = _Deal(config.grid_points() if is_grid else config.combinations(), tuple(space.enumerated))
        self._axes: dict[str, Range | Sequence[Scalar]] = {**space.enumerated}
        """Ranges to draw from, and values to choose from."""
        for path, axis in space.sample.items():
            self._axes[path] = axis if isinstance(axis, Range) and not is_grid else axis.grid()
        self._axes = dict(sorted(self._axes.items(), key=lambda axis: bool(conditions(axis[0]))))
        """Stable: those that are conditions of others come first."""
        self._choices = {
            path: CategoricalDistribution(axis) for path, axis in self._axes.items() if not isinstance(axis, Range)
        }
        self._optuna = _open_optuna(config, study)
        self._name_metric()

    @database_errors()
    def _name_metric(self) -> None:
        """For Optuna's dashboard."""
        if self._optuna.metric_names is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                self._optuna.set_metric_names([METRIC])

    @property
    def is_spent(self) -> bool:
        """Whether as many were proposed as there are to be."""
        return self.count >= self.budget

    @database_errors()
    def earlier(self) -> list[Proposal]:
        """What an earlier process proposed, in order; `take` those that count."""
        proposals = []
        for trial in self._optuna.get_trials(deepcopy=False):
            active = {path for path in self._axes if self._config.is_active(path, trial.params)}
            if trial.params.keys() == active and trial.state != TrialState.WAITING:
                proposals.append(self._proposal(trial.number, trial.params, trial.state))
            elif trial.state == TrialState.RUNNING:  # its process died in the middle of asking
                self._optuna.tell(trial.number, state=TrialState.FAIL)
        return proposals

    def take(self, proposal: Proposal) -> None:
        """Count a proposal: its combination has had one more of its share."""
        self.count += 1
        self._deal.take(proposal.values)

    @database_errors()
    def propose(self) -> Proposal:
        """The next configuration, which counts."""
        trials = self._optuna.get_trials(deepcopy=False)
        number = len(trials)
        if trials and trials[-1].state == TrialState.WAITING:  # an earlier process died before it asked for it
            proposal = self._ask(number - 1)
        elif self._is_whole(point := self._next_point()):
            proposal = self._note(number, point)
        else:
            self._optuna.enqueue_trial(point)
            proposal = self._ask(number)
        self.take(proposal)
        return proposal

    def _is_whole(self, point: Values) -> bool:
        """Whether nothing is left to be drawn, and all of it was chosen among some values."""
        active = {path for path in self._axes if self._config.is_active(path, point)}
        return active == point.keys() and active <= self._choices.keys()

    def _ask(self, number: int) -> Proposal:
        """Take up what waits in Optuna, and have the sampler draw what it has not fixed."""
        self._optuna.sampler = _sampler(self._config, number)
        trial = self._optuna.ask()
        for path, axis in self._axes.items():
            if self._config.is_active(path, trial.params):
                _suggest(trial, path, axis)
        proposal = self._proposal(trial.number, trial.params)
        for name, value in _whereabouts(proposal.configuration).items():
            trial.set_user_attr(name, value)
        return proposal

    def _note(self, number: int, point: Values) -> Proposal:
        """Propose a whole point. It is a single line in the journal; asking takes one for every axis, and more."""
        axes: dict[str, Any] = {path: axis for path, axis in self._choices.items() if path in point}
        params = {path: axis.to_external_repr(axis.to_internal_repr(point[path])) for path, axis in axes.items()}
        proposal = self._proposal(number, params)
        about = _whereabouts(proposal.configuration)
        self._optuna.add_trial(
            create_trial(state=TrialState.RUNNING, params=params, distributions=axes, user_attrs=about)
        )
        return proposal

    @database_errors()
    def report(self, proposal: Proposal, means: Mapping[int, float], at_most: int | None = None) -> None:
        """The mean over folds so far, by epoch, of a proposal that was not told; what is there already stays.

        `at_most` limits how many are new. Private API of Optuna: its `Trial.report` works only in the process that
        asked for the trial.
        """
        study, storage = self._optuna, self._optuna._storage
        trial = storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study._study_id, proposal.number))
        new = (epoch for epoch in means if epoch not in trial.intermediate_values)
        for epoch in islice(new, at_most):
            storage.set_trial_intermediate_value(trial._trial_id, epoch, means[epoch])

    @database_errors()
    def tell(self, proposal: Proposal, objective: float | None, *, pruned: bool = False) -> None:
        """The objective of a proposal; None if its configuration failed or was pruned."""
        if pruned:
            self._optuna.tell(proposal.number, state=TrialState.PRUNED)
        elif objective is None:
            self._optuna.tell(proposal.number, state=TrialState.FAIL)
        else:
            self._optuna.tell(proposal.number, [objective])  # of a number, Optuna asks all classes if it is a sequence

    def _active(self, values: Values) -> dict[str, Scalar]:
        """The values of the axes that matter to a configuration."""
        return {path: value for path, value in values.items() if self._config.is_active(path, values)}

    def _next_point(self) -> dict[str, Scalar]:
        """What the next proposal has fixed: its share of what is dealt; at the start, if asked for, the defaults."""
        dealt = self._deal.next_point()
        if self.count or not self._config.search.defaults_first:
            return dealt
        default = self._active({path: self._config.default(path) for path in self._axes})
        if any(point.items() <= default.items() for point in self._deal.points):
            return default
        return self._active(default | dealt)

    def _proposal(self, number: int, values: Values, state: TrialState = TrialState.RUNNING) -> Proposal:
        return Proposal(number, values, self._config.configuration(dict(values)), state)


class _Deal:
    """Deals points evenly: the one dealt least so far; of equals, of the combination dealt least; then the first.

    Args:
        points: at least one; each holds the values of one combination of the enumerated axes.
        enumerated: dotted paths of these axes.
    """

    def __init__(self, points: Sequence[Values], enumerated: Sequence[str]) -> None:
        self.points, self._enumerated = points, enumerated
        self._axes = sorted({path for point in points for path in point})
        self._index = {self._point(point): number for number, point in enumerate(points)}
        combinations = [self._combination(point) for point in points]
        self._combinations = {combination: number for number, combination in enumerate(dict.fromkeys(combinations))}
        self._combination_of = np.array([self._combinations[combination] for combination in combinations])
        self._dealt, self._combination_dealt = np.zeros(len(points), int), np.zeros(len(self._combinations), int)

    def take(self, values: Values) -> None:
        if (point := self._index.get(self._point(values))) is not None:
            self._dealt[point] += 1
        if (combination := self._combinations.get(self._combination(values))) is not None:
            self._combination_dealt[combination] += 1

    def next_point(self) -> dict[str, Scalar]:
        least = self._dealt == self._dealt.min()
        dealt = np.where(least, self._combination_dealt[self._combination_of], np.iinfo(int).max)
        return dict(self.points[int(dealt.argmin())])

    def _point(self, values: Values) -> tuple[Scalar | None, ...]:
        return tuple(values.get(path) for path in self._axes)

    def _combination(self, values: Values) -> tuple[Scalar | None, ...]:
        return tuple(values.get(path) for path in self._enumerated)


def _suggest(trial: optuna.Trial, path: str, axis: Range | Sequence[Scalar]) -> None:
    if not isinstance(axis, Range):
        trial.suggest_categorical(path, axis)
    elif axis.is_integer:
        trial.suggest_int(path, int(axis.low), int(axis.high), log=axis.log, step=int(axis.step or 1))
    else:
        trial.suggest_float(path, axis.low, axis.high, log=axis.log, step=axis.step)


def _sampler(config: StudyConfig, number: int) -> BaseSampler:
    """A sampler seeded for one proposal: a restarted study must not draw its first numbers again."""
    seed = int(np.random.SeedSequence([config.search.seed, number]).generate_state(1)[0])
    if config.search.sampler != "tpe":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, group=True)


def _whereabouts(configuration: Configuration) -> dict[str, str]:
    """Where a configuration's results are: attributes of its Optuna trial, for Optuna's dashboard."""
    return {
        "configuration": configuration.label,
        "folder": StudyFolder(Path()).trial(configuration.key, 0).parent.as_posix(),
        "runs in MLflow": f"tags.`rlvo.configuration` = '{configuration.key}'",
    }


@database_errors()
def _open_optuna(config: StudyConfig, study: StudyFolder) -> optuna.Study:
    """Optuna's study, new at the first start.

    Raises:
        RlvoError: the journal is damaged, or the study was started with another storage.
        MachineError: the database does not answer.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study.path.mkdir(parents=True, exist_ok=True)
    journal, name, address = study.journal, study.name_in_database, database_address(config)
    if address is None:
        if name.exists():
            fix = f"Set {ADDRESS} or search.storage to the address the study was started with"
            raise RlvoError("the proposals are in a database, and none is named", where=config.name, fix=fix)
        _check_journal(journal)
        storage = JournalStorage(_Journal(str(journal)))
        return optuna.create_study(storage=storage, study_name=config.name, direction="maximize", load_if_exists=True)
    if journal.exists():
        fix = f"Start without {ADDRESS} and search.storage, or give the study another name"
        raise RlvoError("the proposals are in a journal, not in a database", where=config.name, fix=fix)
    database = RDBStorage(checked_address(address), engine_kwargs={"pool_pre_ping": True})
    if not name.exists():
        new_name = f"{config.name}-{secrets.token_hex(6)}"
        new = optuna.create_study(storage=database, study_name=new_name, direction="maximize")
        atomic_write(name, new.study_name)
        return new
    try:
        return optuna.load_study(storage=database, study_name=name.read_text())
    except KeyError:
        fix = "Name the database it was started with, or delete the file: ended trials stay, and configurations are "
        what = "the database does not hold this study"
        raise RlvoError(what, where=name, fix=fix + "proposed from the beginning") from None


def database_address(config: StudyConfig) -> str | None:
    """Of the database that holds the proposals; None: they are in a journal."""
    return os.environ.get(ADDRESS) or config.search.storage


def checked_address(address: str) -> str:
    """An address as SQLAlchemy takes it. Raises RlvoError, without any of it, if it is none."""
    encoded = encode_password(address)
    try:
        make_url(encoded).get_dialect()
        return encoded
    except NoSuchModuleError:
        what = "SQLAlchemy knows no database by what stands before ://"
    except ArgumentError:
        what = "this is no address of a database"
    except ValueError:
        what = "the port of this address is no number"
    where = ADDRESS if os.environ.get(ADDRESS) else "search.storage"
    fix = "Write it as postgresql+psycopg://USER:PASSWORD@HOST:PORT/DATABASE"
    raise RlvoError(what, where=where, fix=fix)


@database_errors()
def load_optuna(config: StudyConfig, study: StudyFolder) -> optuna.Study | None:
    """Optuna's study, to be read, also while a search writes to it; None if there is none yet.

    Raises:
        RlvoError: the journal is damaged, or no database is named.
        MachineError: the database does not answer.
    """
    if not study.journal.exists():
        return _open_optuna(config, study) if study.name_in_database.exists() else None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.load_study(storage=JournalStorage(JournalFileBackend(str(study.journal))), study_name=config.name)
    except (ValueError, KeyError):
        raise RlvoError("damaged", where=study.journal) from None


class _Journal(JournalFileBackend):
    """A journal that remembers where the next line begins, not where each of all began.

    To enlarge the table of these takes up to 5 ms at 40,000 lines, in which no trial is answered.
    """

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        yield from super().read_logs(log_number_from)
        newest = max(self._log_number_offset)  # private API of Optuna
        self._log_number_offset = {0: 0, newest: self._log_number_offset[newest]}


def _check_journal(path: Path) -> None:
    """Raise RlvoError if the journal is damaged: Optuna tolerates a broken last line, but then appends to it.

    Blank lines and zeros at its end, which a power cut can leave, are removed: Optuna cannot read past them.
    """
    content = path.read_bytes() if path.exists() else b""
    if not content:
        return
    whole = content.rstrip(b"\0\r\n ")
    try:
        for line in whole.splitlines() or (whole,):
            parse_json(line)
    except ValueError:
        fix = "Put the file back, or delete it: ended trials stay, and configurations are proposed from the beginning"
        raise RlvoError("damaged", where=path, fix=fix) from None
    if content != whole + b"\n":
        atomic_write(path, whole + b"\n")

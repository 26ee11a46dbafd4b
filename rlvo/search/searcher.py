"""The fold-aware searcher: Optuna sees one trial per configuration, Tune one trial per configuration and fold."""

import sys
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Any

from optuna.trial import TrialState as OptunaState
from ray.tune.search import Searcher

from rlvo.config.study import StudyConfig
from rlvo.errors import RlvoError
from rlvo.search.bracket import Bracket, Verdict
from rlvo.search.halving import Contender, group, ladder
from rlvo.search.proposals import Proposal, Proposals
from rlvo.study.state import StudyState
from rlvo.study.trials import TrialStore
from rlvo.training.records import CompletionRecord

MEANS_OF_RESULT = 5
"""Of how many epochs Optuna is handed the means when a trial reports: each is written to disk. The others follow."""


class FoldSearcher(Searcher):  # type: ignore[misc]
    """Hands Tune the folds of the configurations Optuna proposes, and tells Optuna how all of them did.

    A configuration's objective is the mean over its folds. A fold that fails fails it: its waiting folds are not
    started, and Optuna is told FAIL, never the mean of the rest. Trials with a completion record are not run again;
    duplicates of a configuration share their trials. With pruning, a trial is run in parts, one per rung of the ladder.

    Args:
        config: says how many folds there are, and how configurations are pruned.
        proposals: Optuna's side.
        trials: what lies on disk.
    """

    def __init__(self, config: StudyConfig, proposals: Proposals, trials: TrialStore) -> None:
        super().__init__()
        self._config, self._proposals, self._trials = config, proposals, trials
        self._rungs = ladder(config.search, config.folds.folds, config.training.epochs)
        self._bracket_size = config.search.bracket or sys.maxsize
        self._last_number = -1
        self._contenders: dict[str, Contender] = {}
        self._brackets: dict[tuple[int, tuple[object, ...]], Bracket] = {}
        self._forming: dict[tuple[int, tuple[object, ...]], Bracket] = {}
        """Those of which not every configuration was proposed yet."""
        self._waiting: OrderedDict[str, Contender] = OrderedDict()
        self._let_past: deque[Contender] = deque()
        """Those that train for a higher rung and are to wait after the others; looked at when their turn comes."""
        self._running: dict[str, tuple[Contender, int]] = {}
        self._unstarted = set[str]()
        """Trials that Tune has and has not started yet."""
        self._condemned: OrderedDict[str, str] = OrderedDict()
        """Configurations that are to be pruned, and why: one by each event, as that writes to disk."""
        for proposal in proposals.earlier():
            if self._counts(proposal):
                proposals.take(proposal)
                self._take(proposal)
        while self._complete_bracket():
            pass
        self._prune_condemned(len(self._condemned))

    @property
    def state(self) -> StudyState:
        """Where the search stands, with the configurations in the order they were proposed."""
        return StudyState(
            name=self._config.name,
            configurations_total=self._proposals.budget,
            folds=self._config.folds.folds,
            epochs=self._config.training.epochs,
            configurations=tuple(contender.state for contender in self._contenders.values()),
            has_finished=self.finished,
        )

    @property
    def finished(self) -> bool:
        """Whether every configuration was proposed and every fold has ended."""
        left = self._waiting or self._let_past or self._running or self._condemned or self._forming
        return self._proposals.is_spent and not left

    def fill(self) -> bool:
        """Propose until a trial waits to be started. False: there is nothing to start now."""
        has_judged = self._complete_bracket()
        while not self._has_waiting() and self._may_propose():
            self._prune_condemned(len(self._condemned))  # a proposal depends on what Optuna was told
            self._take(self._proposals.propose())
        if not (self._waiting or self._running):
            self._prune_condemned(len(self._condemned))
        elif not has_judged:  # which is enough for one event
            self._prune_condemned(1)
        return bool(self._waiting)

    def _has_waiting(self) -> bool:
        """Whether a trial waits to be started, of those that were let past a rung too."""
        while not self._waiting and (self._let_past or self._complete_bracket()):
            if not self._let_past:
                continue
            contender = self._let_past.popleft()
            if not (contender.waiting or contender.running):  # it may have been let past two rungs at once
                self._aim(contender, contender.rung)
        return bool(self._waiting)

    def _may_propose(self) -> bool:
        """Whether the next configuration may be chosen yet.

        A sampler that learns chooses as late as it can: once all trials have started that Tune was given. Only within
        a bracket it learns nothing from one configuration for the next.
        """
        if self._proposals.is_spent:
            return False
        begins = len(self._rungs) == 1 or (self._last_number + 1) % self._bracket_size == 0
        return not (self._unstarted and begins and self._config.search.sampler == "tpe")

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial for Tune: `configuration` (JSON), its `key`, the `fold`, and `until`, the epoch to stop after.

        None while it depends on the trials that Tune has which one that is.
        """
        if not self.fill():
            more = not self._proposals.is_spent or (self._running and len(self._rungs) > 1)
            return None if more else str(Searcher.FINISHED)
        key, contender = next(iter(self._waiting.items()))
        fold = contender.waiting.pop(0)
        if not contender.waiting:
            del self._waiting[key]
        contender.running.add(fold)
        self._running[trial_id] = contender, fold
        self._unstarted.add(trial_id)
        configuration = contender.configuration.model_dump_json()
        return {"key": key, "fold": fold, "until": self._rungs[contender.rung].epochs, "configuration": configuration}

    def note_running(self, trial_id: str, *, is_running: bool) -> None:
        """Note, for those who watch, whether Tune trains a trial or waits for room to start it."""
        if trial_id in self._running:
            contender, fold = self._running[trial_id]
            contender.note(fold, unended="running" if is_running else "waiting")
        if is_running:
            self._unstarted.discard(trial_id)

    def is_needless(self, trial_id: str) -> bool:
        """Whether Tune need not start a trial that it has: another fold of its configuration has failed."""
        return trial_id in self._unstarted and self._running[trial_id][0].has_ended

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Hand Optuna the mean over folds of the epochs that all folds have trained."""
        if trial_id in self._running:
            contender, fold = self._running[trial_id]
            self._read_epochs(contender, fold, at_most=MEANS_OF_RESULT)
            self.note_running(trial_id, is_running=True)
        self._prune_condemned(1)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Note how a fold ended, from its completion record; without a result, it was taken back before it started."""
        contender, fold = self._running.pop(trial_id)
        contender.running.remove(fold)
        is_taken_back = trial_id in self._unstarted and result is None and not error
        self._unstarted.discard(trial_id)
        if is_taken_back:
            contender.note(fold)
        else:
            self._read_end(contender, fold, result or {}, error=error)
        self._tell_if_ended(contender)
        contender.appraise()
        if (bracket := self._brackets.get(contender.bracket)) is not None:
            self._apply(bracket.update(contender))
        self._prune_condemned(1)

    def _read_end(self, contender: Contender, fold: int, result: Mapping[str, Any], *, error: bool) -> None:
        """Note how a trial that was started has ended."""
        reason = result.get("reason") or ("its process died" if error else "it left no completion record")
        try:
            record = self._trials.record(contender.key, fold)
        except RlvoError as damaged:
            record, error, reason = None, True, str(damaged)
        self._read_epochs(contender, fold)
        has_failed = record is None and (error or "reason" in result or not contender.has_arrived(fold))
        self._note_end(contender, fold, record, reason if has_failed else None)

    def explain(self, key: str, fold: int, reason: str) -> None:
        """Say more precisely why a fold failed without a record."""
        trials = self._contenders[key].trials
        if trials[fold].state == "failed" and trials[fold].record is None:
            self._contenders[key].note(fold, failure=reason)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal and the completion records are the state."""

    def _counts(self, proposal: Proposal) -> bool:
        """Whether an earlier proposal counts. If it failed without a record (a process died, data could not be read),
        it is worth another try, so its combination is dealt again."""
        if proposal.state != OptunaState.FAIL:
            return True
        records = (self._trials.record(proposal.key, fold) for fold in range(self._config.folds.folds))
        return any(record is not None and record.outcome == "failed" for record in records)

    def _take(self, proposal: Proposal) -> None:
        self._last_number = proposal.number
        if (contender := self._contenders.get(proposal.key)) is None:
            contender = self._enter(proposal)
        elif proposal.state == OptunaState.RUNNING:
            contender.untold.append(proposal)
        self._tell_if_ended(contender)

    def _enter(self, proposal: Proposal) -> Contender:
        """Take up a configuration where its trials stand on disk."""
        key, folds = proposal.key, range(self._config.folds.folds)
        bracket = (
            proposal.number // self._bracket_size,
            group(proposal.configuration, self._config.search.compare_within),
        )
        epochs = [self._trials.epochs(key, fold) for fold in folds]
        untold = [proposal] if proposal.state == OptunaState.RUNNING else []
        contender = Contender(key, proposal.configuration, self._rungs, bracket, epochs, untold)
        self._contenders[key] = contender
        for fold in folds:
            if (record := self._trials.record(key, fold)) is not None:
                self._note_end(contender, fold, record)
        if proposal.state == OptunaState.PRUNED or contender.is_pruned:  # its process may have died while pruning it
            self._prune(contender, next(iter(contender.state.reasons("pruned").values()), "pruned"))
        if len(self._rungs) > 1:
            self._bracket(contender.bracket).add(contender)
        self._aim(contender, 0)
        self._report(contender)
        return contender

    def _bracket(self, name: tuple[int, tuple[object, ...]]) -> Bracket:
        """A bracket; the first time it is asked for, an empty one that is to be filled."""
        if name not in self._brackets:
            self._brackets[name] = self._forming[name] = Bracket([], self._rungs, self._config.search.reduction_factor)
        return self._brackets[name]

    def _aim(self, contender: Contender, rung: int) -> None:
        """Let a configuration train for a rung."""
        contender.rung, contender.passed = rung, max(rung, contender.passed)
        if contender.is_open:
            contender.waiting = [fold for fold in range(self._rungs[rung].folds) if not contender.has_arrived(fold)]
            if contender.waiting:
                self._waiting[contender.key] = contender

    def _complete_bracket(self) -> bool:
        """Start to compare within one bracket of which every configuration was proposed; False: there is none."""
        complete = (self._last_number + 1) // self._bracket_size
        name = next((name for name in self._forming if name[0] < complete or self._proposals.is_spent), None)
        if name is None:
            return False
        self._apply(self._forming.pop(name).judge())
        return True

    def _apply(self, verdicts: Mapping[str, Verdict]) -> None:
        for key, verdict in verdicts.items():
            if verdict.pruned:
                self._condemned[key] = verdict.pruned
            elif verdict.rung > (contender := self._contenders[key]).rung:
                contender.rung, contender.passed = verdict.rung, max(verdict.rung, contender.passed)
                self._let_past.append(contender)

    def _prune_condemned(self, number: int) -> None:
        """Prune so many of the configurations that are to be pruned."""
        for _ in range(min(number, len(self._condemned))):
            key, reason = self._condemned.popitem(last=False)
            if self._contenders[key].is_open:
                self._prune(self._contenders[key], reason)

    def _prune(self, contender: Contender, reason: str) -> None:
        for fold, trial in enumerate(contender.trials):
            if trial.state in ("finished", "pruned"):
                continue
            try:
                if contender.epochs[fold] or not contender.is_pruned:  # one record at least says it, whatever dies
                    self._trials.prune(contender.key, fold, contender.configuration, reason)
                contender.note(fold, pruning=reason)
            except RlvoError as damaged:
                self._note_end(contender, fold, failure=str(damaged))
        self._tell_if_ended(contender)

    def _read_epochs(self, contender: Contender, fold: int, at_most: int | None = None) -> None:
        contender.epochs[fold] = self._trials.epochs(contender.key, fold)
        self._report(contender, at_most)

    def _report(self, contender: Contender, at_most: int | None = None) -> None:
        """Hand Optuna a configuration's means so far, or so many of those that it does not have."""
        if contender.untold and (means := contender.means):
            for proposal in contender.untold:
                self._proposals.report(proposal, means, at_most)

    def _note_end(
        self, contender: Contender, fold: int, record: CompletionRecord | None = None, failure: str | None = None
    ) -> None:
        """Note how a trial has ended. If it failed, no more of its configuration's folds are started."""
        contender.note(fold, record, failure=failure)
        if contender.trials[fold].state == "failed":
            contender.waiting = []
            self._waiting.pop(contender.key, None)

    def _tell_if_ended(self, contender: Contender) -> None:
        """Tell Optuna, once nothing more can change the configuration's objective."""
        if contender.is_open or contender.waiting or contender.running:
            return
        for proposal in contender.untold:
            self._proposals.tell(proposal, contender.state.objective, pruned=contender.state.state == "pruned")
        contender.untold = []

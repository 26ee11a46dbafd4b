"""Optuna's side: every combination gets its share, and what was proposed survives the process."""

import math
import socket
from collections import Counter
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from support.planted import optuna_trials

from rlvo.config.loading import parse_study
from rlvo.config.study import StudyConfig
from rlvo.errors import MachineError, RlvoError
from rlvo.search.preflight import check_start
from rlvo.search.proposals import ADDRESS, Proposal, Proposals
from rlvo.study.folder import StudyFolder
from rlvo.tracking.study_items import shareable

ENUMERATE = {"model.modality": ["NCCT", "CTA", "BOTH"], "model.prior": [True, False]}
SAMPLE = {
    "training.learning_rate": {"low": 1e-5, "high": 1e-1, "log": True},
    "training.batch_size": {"low": 1, "high": 8},
    "model.dropout": {"low": 0.0, "high": 0.5, "step": 0.25},
    "training.optimizer": {"choices": ["adam", "adamw"]},
}


def a_study(
    sampler: str = "tpe", configurations: int | None = 14, *, sample: dict = SAMPLE, **settings: object
) -> StudyConfig:
    search = {"sampler": sampler, "configurations": configurations, **settings}
    return parse_study({"name": "study", "space": {"enumerate": ENUMERATE, "sample": sample}, "search": search})


def objective(proposal: Proposal) -> float:
    """Best at a learning rate of 1e-2."""
    return 1 - 0.1 * abs(math.log10(proposal.configuration.training.learning_rate) + 2)


def run(study: StudyConfig, folder: Path, stop_after: int = 1000) -> list[Proposal]:
    """Propose and tell until the budget is spent, or the process is stopped."""
    proposals = Proposals(study, StudyFolder(folder))
    taken = proposals.earlier()
    for proposal in taken:
        proposals.take(proposal)
    while not proposals.is_spent and len(taken) < stop_after:
        taken.append(proposals.propose())
        proposals.report(taken[-1], {1: 0.5})
        proposals.tell(taken[-1], objective(taken[-1]))
    return taken


def proposed(study: StudyConfig, folder: Path, stop_after: int = 1000) -> list[str]:
    """Keys of all configurations that `run` took."""
    return [proposal.key for proposal in run(study, folder, stop_after)]


def stored(folder: Path) -> list[FrozenTrial]:
    return optuna_trials(StudyFolder(folder), "study")


@pytest.mark.parametrize(
    ("sampler", "configurations", "sample"),
    [("tpe", 15, SAMPLE), ("random", 15, SAMPLE), ("grid", 12, {"training.batch_size": {"low": 1, "high": 4}})],
)
def test_every_enumerated_combination_gets_its_share(
    sampler: str, configurations: int, sample: dict, tmp_path: Path
) -> None:
    taken = run(a_study(sampler, configurations, sample=sample), tmp_path)
    dealt = Counter((p.configuration.model.modality, p.configuration.model.prior) for p in taken)
    assert len(dealt) == 6
    assert sum(dealt.values()) == configurations
    assert set(dealt.values()) == {configurations // 6, math.ceil(configurations / 6)}


def test_grid_takes_every_point_once(tmp_path: Path) -> None:
    sample = {"training.batch_size": {"low": 1, "high": 2}, "model.dropout": {"low": 0.0, "high": 0.5, "step": 0.25}}
    keys = proposed(a_study("grid", None, sample=sample), tmp_path)
    assert len(keys) == len(set(keys)) == 6 * 2 * 3


def test_sampled_values_lie_in_their_ranges(tmp_path: Path) -> None:
    for proposal in run(a_study("random", 20), tmp_path):
        assert 1e-5 <= proposal.configuration.training.learning_rate <= 1e-1
        assert proposal.configuration.training.batch_size in range(1, 9)
        assert proposal.configuration.model.dropout in (0.0, 0.25, 0.5)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_seed_decides_the_proposals_and_a_restart_changes_none(sampler: str, tmp_path: Path) -> None:
    study = a_study(sampler)
    run(study, tmp_path / "stopped", stop_after=5)
    run(study, tmp_path / "stopped", stop_after=12)
    whole = proposed(study, tmp_path / "whole")
    assert proposed(study, tmp_path / "stopped") == whole != proposed(a_study(sampler, seed=1), tmp_path / "other")


def test_tpe_draws_near_the_optimum_after_its_first_random_ones(tmp_path: Path) -> None:
    taken = run(a_study("tpe", 40), tmp_path)
    distances = [abs(math.log10(p.configuration.training.learning_rate) + 2) for p in taken]
    assert sum(distances[20:]) / 20 < sum(distances[:10]) / 10


def test_a_proposal_under_way_is_taken_up_and_one_that_was_not_drawn_yet_is_dropped(tmp_path: Path) -> None:
    study = a_study()
    asked = Proposals(study, StudyFolder(tmp_path)).propose()
    storage = JournalStorage(JournalFileBackend(str(StudyFolder(tmp_path).journal)))
    optuna.load_study(study_name="study", storage=storage).ask()  # and died in the middle of asking
    again = Proposals(study, StudyFolder(tmp_path))
    assert again.earlier() == [asked]
    again.tell(asked, 0.5)
    told = [(trial.state, trial.value) for trial in stored(tmp_path)]
    assert told == [(TrialState.COMPLETE, 0.5), (TrialState.FAIL, None)]


@pytest.mark.parametrize("tail", [b"\n", b"\n\n", bytes(4096), b"\n" + bytes(10) + b"\r\n"])
def test_blank_lines_and_zeros_at_the_end_of_the_journal_lose_nothing(tmp_path: Path, tail: bytes) -> None:
    study, journal = a_study(), StudyFolder(tmp_path).journal
    first = Proposals(study, StudyFolder(tmp_path)).propose()
    written = journal.read_bytes()
    journal.write_bytes(written + tail)
    again = Proposals(study, StudyFolder(tmp_path))
    assert journal.read_bytes().startswith(written)
    assert again.earlier() == [first]
    again.tell(first, 0.5)
    assert [trial.value for trial in stored(tmp_path)] == [0.5]


@pytest.mark.parametrize("content", [b"\n", bytes(100), b"{}\n\0\n{}\n"])
def test_a_journal_that_lost_what_it_held_is_damaged(tmp_path: Path, content: bytes) -> None:
    StudyFolder(tmp_path).journal.write_bytes(content)
    with pytest.raises(RlvoError, match="journal: damaged"):
        Proposals(a_study(), StudyFolder(tmp_path))


def test_optunas_dashboard_shows_the_metric_and_where_a_configuration_is(tmp_path: Path) -> None:
    proposal = Proposals(a_study(), StudyFolder(tmp_path)).propose()
    storage = JournalStorage(JournalFileBackend(str(StudyFolder(tmp_path).journal)))
    seen = optuna.load_study(study_name="study", storage=storage)
    assert seen.metric_names == ["mean val/auc over folds"]
    attributes = seen.trials[0].user_attrs
    assert tmp_path / attributes["folder"] == StudyFolder(tmp_path).trial(proposal.key, 2).parent
    assert proposal.key in attributes["runs in MLflow"]


@pytest.mark.parametrize("sampler", ["grid", "tpe"])
def test_a_whole_point_is_one_line_that_says_what_optuna_would_have_asked_for(sampler: str, tmp_path: Path) -> None:
    """Of two journals, the other has every point enqueued first, so that Optuna is asked for it."""
    space = {"enumerate": ENUMERATE | {"model.fusion": ["none", "daft"], "model.daft.bottleneck_ratio": [3, 7]}}
    study = parse_study({"name": "study", "space": space, "search": {"sampler": sampler, "defaults_first": True}})
    one, other = StudyFolder(tmp_path / "one"), StudyFolder(tmp_path / "other")
    noted, asked = Proposals(study, one), Proposals(study, other)
    lines = len(one.journal.read_bytes().splitlines())
    while not noted.is_spent:
        proposal = noted.propose()
        storage = JournalStorage(JournalFileBackend(str(other.journal)))
        optuna.load_study(study_name="study", storage=storage).enqueue_trial(dict(proposal.values))
        assert asked.propose() == proposal
    assert len(one.journal.read_bytes().splitlines()) == lines + len(study.grid_points())
    for mine, theirs in zip(stored(one.path), stored(other.path), strict=True):
        for name in ("number", "state", "params", "distributions", "user_attrs"):
            assert getattr(mine, name) == getattr(theirs, name)
    for folder in (one, other):
        assert Proposals(study, folder).earlier() == Proposals(study, one).earlier()


def test_a_study_without_axes_is_one_configuration(tmp_path: Path) -> None:
    study = parse_study({"name": "study"})
    assert [proposal.configuration for proposal in run(study, tmp_path)] == [study.configuration({})]


CONDITIONAL = {
    "enumerate": {"model.fusion": ["none", "daft"]},
    "sample": {
        "model.daft.bottleneck_ratio": {"choices": [3, 7]},
        "training.schedule": {"choices": ["plateau", "one_cycle"]},
        "training.plateau_patience": {"low": 2, "high": 8},
    },
}


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_value_is_drawn_only_where_it_matters(sampler: str, tmp_path: Path) -> None:
    study = parse_study({"name": "study", "space": CONDITIONAL, "search": {"sampler": sampler, "configurations": 30}})
    taken = run(study, tmp_path)
    assert len(taken) == 30
    for proposal in taken:
        assert ("model.daft.bottleneck_ratio" in proposal.values) == (proposal.values["model.fusion"] == "daft")
        assert ("training.plateau_patience" in proposal.values) == (proposal.values["training.schedule"] == "plateau")
    assert {proposal.configuration.model.daft.bottleneck_ratio for proposal in taken} == {3, 7}
    told = [replace(proposal, state=TrialState.COMPLETE) for proposal in taken]
    assert Proposals(study, StudyFolder(tmp_path)).earlier() == told


def test_a_grid_has_no_two_points_that_differ_only_in_what_does_not_matter(tmp_path: Path) -> None:
    sample = CONDITIONAL["sample"] | {"training.plateau_patience": {"choices": [2, 8]}}
    study = parse_study({"name": "study", "space": CONDITIONAL | {"sample": sample}})
    keys = proposed(study, tmp_path)
    assert len(keys) == len(set(keys)) == study.configurations == (1 + 2) * (2 + 1)


def test_the_defaults_come_first_where_asked_for(tmp_path: Path) -> None:
    content = {"name": "study", "space": CONDITIONAL, "model": {"fusion": "daft"}, "training": {"plateau_patience": 5}}
    search = {"sampler": "tpe", "configurations": 4, "defaults_first": True}
    study = parse_study(content | {"search": search})
    first = Proposals(study, StudyFolder(tmp_path)).propose()
    assert first.configuration == study.configuration({})
    assert dict(first.values) == {
        "model.fusion": "daft",
        "model.daft.bottleneck_ratio": 7,
        "training.schedule": "plateau",
        "training.plateau_patience": 5,
    }
    elsewhere = parse_study(content | {"search": search, "model": {"fusion": "film"}})  # which the space does not deal
    assert dict(Proposals(elsewhere, StudyFolder(tmp_path / "film")).propose().values) == {
        "model.fusion": "none",
        "training.schedule": "plateau",
        "training.plateau_patience": 5,
    }


def test_defaults_outside_the_space_are_refused() -> None:
    content = {"name": "study", "space": CONDITIONAL, "search": {"sampler": "tpe", "defaults_first": True}}
    with pytest.raises(RlvoError, match="plateau_patience is 10, which is outside the space"):
        parse_study(content)


def test_optuna_is_told_what_failed_and_what_was_pruned_with_its_last_mean(tmp_path: Path) -> None:
    proposals = Proposals(a_study(), StudyFolder(tmp_path))
    proposals.tell(proposals.propose(), None)
    proposal = proposals.propose()
    proposals.report(proposal, {1: 0.6, 2: 0.7})
    proposals.report(proposal, {2: 0.9, 3: 0.65})
    proposals.tell(proposal, None, pruned=True)
    failed, pruned = stored(tmp_path)
    assert (failed.state, failed.value) == (TrialState.FAIL, None)
    assert (pruned.state, pruned.value) == (TrialState.PRUNED, 0.65)
    assert pruned.intermediate_values == {1: 0.6, 2: 0.7, 3: 0.65}


def test_searches_that_take_turns_with_a_journal_read_what_the_other_wrote(tmp_path: Path) -> None:
    """Each keeps only where the lines begin that it has not read."""
    study = a_study(configurations=30)
    ours, theirs = Proposals(study, StudyFolder(tmp_path)), Proposals(study, StudyFolder(tmp_path))
    for number in range(6):
        proposal = (ours, theirs)[number % 2].propose()
        assert proposal.number == number
        (theirs, ours)[number % 2].tell(proposal, number / 10)
    assert [trial.value for trial in stored(tmp_path)] == [number / 10 for number in range(6)]
    assert [each.number for each in Proposals(study, StudyFolder(tmp_path)).earlier()] == list(range(6))


def test_a_database_proposes_what_a_journal_proposes_and_continues_where_it_stood(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'optuna.db'}"
    study = a_study(storage=address)
    first = proposed(study, tmp_path / "one", stop_after=6)
    whole = proposed(study, tmp_path / "one")
    assert whole[:6] == first
    assert whole == proposed(a_study(), tmp_path / "journal")
    assert not StudyFolder(tmp_path / "one").journal.exists()
    assert proposed(study, tmp_path / "two") == whole  # another work folder is another study there
    names = optuna.get_all_study_names(address)
    assert sorted(names) == sorted(
        StudyFolder(tmp_path / folder).name_in_database.read_text() for folder in ("one", "two")
    )


def test_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS, f"sqlite:///{tmp_path / 'there.db'}")
    Proposals(a_study(storage=f"sqlite:///{tmp_path / 'not-there.db'}"), StudyFolder(tmp_path))
    assert (tmp_path / "there.db").exists()
    assert not (tmp_path / "not-there.db").exists()


def test_the_address_is_written_nowhere() -> None:
    study = a_study(storage="postgresql+psycopg://me:secret@db/optuna")
    assert study.search.storage == "postgresql+psycopg://me:secret@db/optuna"
    assert "secret" not in study.model_dump_json() + repr(study) + str(shareable(study))
    assert "secret" in str(StudyConfig.model_copy(study).search.storage)


def test_a_study_stays_where_it_was_started(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'optuna.db'}"
    Proposals(a_study(), StudyFolder(tmp_path / "journal"))
    with pytest.raises(RlvoError, match="in a journal, not in a database"):
        Proposals(a_study(storage=address), StudyFolder(tmp_path / "journal"))
    Proposals(a_study(storage=address), StudyFolder(tmp_path / "database"))
    with pytest.raises(RlvoError, match="in a database, and none is named"):
        Proposals(a_study(), StudyFolder(tmp_path / "database"))
    with pytest.raises(RlvoError, match="does not hold this study"):
        Proposals(a_study(storage=f"sqlite:///{tmp_path / 'other.db'}"), StudyFolder(tmp_path / "database"))


def test_a_database_that_is_away_is_one_line_without_the_password(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address in (f"postgresql+psycopg://me:secret@127.0.0.1:{port}/optuna", f"sqlite:///{tmp_path}/no/db"):
        with pytest.raises(MachineError) as refusal:
            Proposals(a_study(storage=address), StudyFolder(tmp_path))
        line = str(refusal.value)
        assert line.startswith("search.storage: Optuna's database does not answer: ")
        assert "\n" not in line
        assert "secret" not in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("postgresql+psycopg://me:secret@db:port/optuna", "the port of this address is no number"),
        ("me:secret@db/optuna", "this is no address of a database"),
        ("/secret/optuna.db", "this is no address of a database"),
        ("postgres://me:secret@db/optuna", "SQLAlchemy knows no database by what stands before ://"),
    ],
)
def test_what_is_no_address_is_one_line_without_the_password(
    address: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals, named = [], a_study(storage=address)
    for check in (
        lambda study: Proposals(study, StudyFolder(tmp_path)),
        lambda study: check_start(study, StudyFolder(tmp_path), None),
    ):
        with pytest.raises(RlvoError, match=rf"^search\.storage: {what}") as refusal:
            check(named)
        refusals.append(refusal.value)
    monkeypatch.setenv(ADDRESS, address)
    with pytest.raises(RlvoError, match=f"^{ADDRESS}: {what}") as refusal:
        Proposals(a_study(), StudyFolder(tmp_path))
    refusals.append(refusal.value)
    assert {each.exit_code for each in refusals} == {2}
    assert not any("secret" in str(each) or "\n" in str(each) for each in refusals)

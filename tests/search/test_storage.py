"""Where Optuna's state lies: the same study in a journal and in a database, and what is refused."""

from __future__ import annotations

import socket
from pathlib import Path

import optuna
import pytest

from rlvo.config.loading import parse_study
from rlvo.config.study import StudyConfig
from rlvo.errors import MachineError, RlvoError
from rlvo.search.proposals import Proposals
from rlvo.search.storage import ADDRESS, JOURNAL, NAME
from rlvo.tracking.privacy import shareable


def a_study(storage: str | None = None) -> StudyConfig:
    space = {"sample": {"training.learning_rate": {"low": 1e-5, "high": 1e-1, "log": True}}}
    search = {"sampler": "tpe", "configurations": 14, "storage": storage}
    return parse_study({"name": "study", "space": space, "search": search})


def proposed(study: StudyConfig, folder: Path, stop_after: int = 14) -> list[str]:
    """Keys of all configurations, after proposing and telling until the budget is spent."""
    proposals = Proposals(study, folder)
    taken = proposals.earlier()
    while len(taken) < stop_after:
        taken.append(proposals.propose(taken))
        proposals.report(taken[-1], {1: 0.5})
        proposals.tell(taken[-1], 1 - taken[-1].configuration.training.learning_rate)
    return [proposal.configuration.key for proposal in taken]


def test_a_database_proposes_what_a_journal_proposes_and_goes_on_where_it_stood(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'optuna.db'}"
    study = a_study(address)
    first = proposed(study, tmp_path / "one", stop_after=6)
    whole = proposed(study, tmp_path / "one")
    assert whole[:6] == first
    assert whole == proposed(a_study(), tmp_path / "journal")
    assert not (tmp_path / "one" / JOURNAL).exists()
    assert proposed(study, tmp_path / "two") == whole  # another work folder is another study there
    names = optuna.get_all_study_names(address)
    assert sorted(names) == sorted((tmp_path / folder / NAME).read_text() for folder in ("one", "two"))


def test_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS, f"sqlite:///{tmp_path / 'there.db'}")
    Proposals(a_study(f"sqlite:///{tmp_path / 'not-there.db'}"), tmp_path)
    assert (tmp_path / "there.db").exists()
    assert not (tmp_path / "not-there.db").exists()


def test_the_address_is_written_nowhere() -> None:
    study = a_study("postgresql+psycopg://me:secret@db/optuna")
    assert study.search.storage == "postgresql+psycopg://me:secret@db/optuna"
    assert "secret" not in study.model_dump_json() + repr(study) + str(shareable(study))
    assert "secret" in str(StudyConfig.model_copy(study).search.storage)


def test_a_study_stays_where_it_was_started(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'optuna.db'}"
    Proposals(a_study(), tmp_path / "journal")
    with pytest.raises(RlvoError, match="in a journal, not in a database"):
        Proposals(a_study(address), tmp_path / "journal")
    Proposals(a_study(address), tmp_path / "database")
    with pytest.raises(RlvoError, match="in a database, and none is named"):
        Proposals(a_study(), tmp_path / "database")
    with pytest.raises(RlvoError, match="does not hold this study"):
        Proposals(a_study(f"sqlite:///{tmp_path / 'other.db'}"), tmp_path / "database")


def test_a_database_that_is_away_is_one_line_without_the_password(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address in (f"postgresql+psycopg://me:secret@127.0.0.1:{port}/optuna", "secret", f"sqlite:///{tmp_path}/no/db"):
        with pytest.raises(MachineError) as refusal:
            Proposals(a_study(address), tmp_path)
        line = str(refusal.value)
        assert line.startswith("search.storage: Optuna's database does not answer: ")
        assert "\n" not in line
        assert "secret" not in line
    assert list(tmp_path.iterdir()) == []

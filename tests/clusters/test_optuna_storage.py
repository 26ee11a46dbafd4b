"""A study whose Optuna state lies in a real Postgres."""

from pathlib import Path

import pytest

from rlvo.config.loading import parse_study
from rlvo.errors import MachineError
from rlvo.search.proposals import Proposals
from rlvo.study.folder import StudyFolder


@pytest.fixture
def database(postgres: str) -> str:
    """A new database: Optuna and MLflow count their versions in tables of the same name."""
    import psycopg

    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE optuna")
    return postgres.replace("postgresql://", "postgresql+psycopg://").removesuffix("/mlflow") + "/optuna"


def test_a_study_continues_from_postgres_as_from_a_journal(database: str, tmp_path: Path) -> None:
    def keys(storage: str | None, *stops: int) -> list[str]:
        search = {"sampler": "tpe", "configurations": 14, "storage": storage}
        space = {"sample": {"training.learning_rate": {"low": 1e-5, "high": 1e-1, "log": True}}}
        study = parse_study({"name": "study", "space": space, "search": search})
        for stop in stops:
            proposals = Proposals(study, StudyFolder(tmp_path / str(storage is None)))
            taken = proposals.earlier()
            for proposal in taken:
                proposals.take(proposal)
            while len(taken) < stop:
                taken.append(proposals.propose())
                proposals.report(taken[-1], {1: 0.5, 2: 0.6})
                rate = taken[-1].configuration.training.learning_rate
                proposals.tell(taken[-1], None if len(taken) % 5 == 0 else rate)
        return [proposal.key for proposal in taken]

    assert keys(database, 6, 14) == keys(None, 14)
    with pytest.raises(MachineError, match="password authentication failed") as refusal:
        keys(database.replace(":p%40ss", ":wrong"), 14)
    assert "wrong" not in str(refusal.value)

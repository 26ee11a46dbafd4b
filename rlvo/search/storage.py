"""Where Optuna keeps a study: in a journal in the study folder, or in a database that a team can look into."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import SQLAlchemyError

from rlvo.config.study import StudyConfig
from rlvo.errors import MachineError, RlvoError
from rlvo.files import atomic_write

ADDRESS = "RLVO_OPTUNA_STORAGE"
JOURNAL = "optuna.journal"
NAME = "optuna.name"
"""Holds the study's name in the database; studies of one name in several work folders are several there."""


@contextmanager
def answering() -> Iterator[None]:
    """Raises MachineError, in one line, where the database does not answer. Also a decorator."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, ImportError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
        [told, *_] = str(getattr(cause, "orig", None) or cause).strip().splitlines()
        raise MachineError(
            f"Optuna's database does not answer: {told}",
            where=ADDRESS if os.environ.get(ADDRESS) else "search.storage",
            fix="See to the database, its address and its driver (pip install 'psycopg[binary]'), then start again: "
            "the study goes on",
        ) from None


@answering()
def open_optuna(study: StudyConfig, folder: Path) -> optuna.Study:
    """Optuna's study of the study in `folder`, new at the first start.

    Raises:
        RlvoError: the journal is damaged, or the study was started with another storage.
        MachineError: the database does not answer.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    journal, name, address = folder / JOURNAL, folder / NAME, os.environ.get(ADDRESS) or study.search.storage
    if address is None:
        if name.exists():
            fix = f"Set {ADDRESS} or search.storage to the address the study was started with"
            raise RlvoError("the proposals are in a database, and none is named", where=study.name, fix=fix)
        _check_journal(journal)
        storage = JournalStorage(JournalFileBackend(str(journal)))
        return optuna.create_study(storage=storage, study_name=study.name, direction="maximize", load_if_exists=True)
    if journal.exists():
        fix = f"Start without {ADDRESS} and search.storage, or give the study another name"
        raise RlvoError("the proposals are in a journal, not in a database", where=study.name, fix=fix)
    database = RDBStorage(address, engine_kwargs={"pool_pre_ping": True})
    if not name.exists():
        new = optuna.create_study(
            storage=database, study_name=f"{study.name}-{secrets.token_hex(6)}", direction="maximize"
        )
        atomic_write(name, new.study_name)
        return new
    try:
        return optuna.load_study(storage=database, study_name=name.read_text())
    except KeyError:
        fix = "Name the database it was started with, or delete the file: ended trials stay, and configurations are "
        raise RlvoError(
            "the database does not hold this study", where=name, fix=fix + "proposed from the beginning"
        ) from None


def _check_journal(path: Path) -> None:
    """Raise RlvoError for a damaged journal: Optuna bears with a broken last line, and then writes on behind it."""
    try:
        for line in path.read_bytes().splitlines() if path.exists() else ():
            json.loads(line)
    except ValueError:
        fix = "Put the file back, or delete it: ended trials stay, and configurations are proposed from the beginning"
        raise RlvoError("damaged", where=path, fix=fix) from None

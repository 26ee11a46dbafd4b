"""The versions of a registered model: which there are, and which one is the champion."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from rlvo.errors import RlvoError
from rlvo.mlflow_client import Tracking
from rlvo.registry.gate import gate_result, has_passed
from rlvo.registry.location import CHAMPION, locate_model

HISTORY_TAG = "rlvo.champions"
"""Tag of the registered model: every version that was made the champion, oldest first, separated by spaces."""
MAX_HISTORY = 200
"""How many champions the history keeps."""


@dataclass(frozen=True)
class Registration:
    """What a registry says of a version, to be said again in another one. It names no patient and no path."""

    name: str
    version: str
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    description: str = ""


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    number: int
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    """Those of its run: `val/auc_mean` (optimistic); after an opening of the hold-out `test/…`."""
    created: datetime

    @property
    def gate(self) -> str:
        """What the gate found."""
        return gate_result(self.tags)


def list_versions(tracking: Tracking, name: str) -> list[Version]:
    """All versions, the newest first.

    Raises:
        RlvoError: there is no such model.
        MachineError: the registry does not answer.
    """
    with tracking.registry(name) as client:
        aliases = client.get_registered_model(name).aliases
        versions = [
            Version(
                number=int(found.version),
                aliases=tuple(alias for alias, version in aliases.items() if int(version) == int(found.version)),
                tags=found.tags,
                metrics=_metrics(client, found.run_id),
                created=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
            )
            for found in client.search_model_versions(f"name = '{name}'")
        ]
    return sorted(versions, key=lambda version: -version.number)


def registered_version(tracking: Tracking, name: str, tags: Mapping[str, str]) -> str | None:
    """The newest version of `name` that has all these tags and passed its gate; None if there is none.

    Raises MachineError if the registry does not answer.
    """
    with tracking.registry(name) as client:
        found = client.search_model_versions(f"name = '{name}'")
    passed = [each for each in found if has_passed(gate_result(each.tags))]
    numbers = [int(each.version) for each in passed if tags.items() <= each.tags.items()]
    return str(max(numbers)) if numbers else None


def version_gate(tracking: Tracking, name: str, number: str) -> str:
    """What the gate found about a version. Raises MachineError if the registry does not answer."""
    with tracking.registry(f"{name}/{number}") as client:
        return gate_result(client.get_model_version(name, number).tags)


def read_registration(tracking: Tracking, name: str, number: str) -> Registration:
    """What the registry says of a version. Raises MachineError if it does not answer."""
    with tracking.registry(f"{name}/{number}") as client:
        found = client.get_model_version(name, number)
        metrics = _metrics(client, found.run_id)
    tags = {key: value for key, value in sorted(found.tags.items()) if key.startswith("rlvo.")}
    return Registration(name, number, tags, dict(sorted(metrics.items())), found.description or "")


def logged_model(tracking: Tracking, name: str, number: str) -> str | None:
    """The id of the logged model that a version was registered from; None if it is unknown.

    Raises MachineError if the registry does not answer.
    """
    with tracking.registry(f"{name}/{number}") as client:
        found = client.get_model_version(name, number)
    named = re.search(r"\bm-[0-9a-f]{32}\b", found.source or "")  # a database's registry does not fill in the id
    return found.model_id or (named[0] if named else None)


def promote(tracking: Tracking, name: str, number: int) -> int | None:
    """Make a version the champion; return the previous champion's number, or None if there was none.

    Raises:
        RlvoError: there is no such version, it did not pass its gate, or its files are not those registered.
        MachineError: the registry does not answer.
    """
    where = f"{name}/{number}"
    with tracking.registry(where) as client:
        gate = gate_result(client.get_model_version(name, str(number)).tags)
    if not has_passed(gate):
        fix = "Only a version that passed can become the champion; register the ensemble again"
        raise RlvoError(f"it did not pass its gate ({gate})", where=where, fix=fix)
    locate_model(where, tracking)
    with tracking.registry(where) as client:
        champions = _champions(client, name)
        make_champion(client, name, str(number))
    return champions[-1] if champions else None


def rollback(tracking: Tracking, name: str) -> tuple[int, int]:
    """Make the previous champion the champion again; return the number it replaces and its own.

    A version that has been deleted, or whose gate failed, is passed over.

    Raises:
        RlvoError: there is no previous champion, or its files are not those registered.
        MachineError: the registry does not answer.
    """
    with tracking.registry(name) as client:
        champions = _champions(client, name)
        versions = client.search_model_versions(f"name = '{name}'")
    sound = {int(each.version) for each in versions if has_passed(gate_result(each.tags))}
    current = champions[-1] if champions else None
    earlier = [at for at, number in enumerate(champions) if number in sound and number != current]
    if current is None or not earlier:
        fix = f"`{tracking.listing(name)}` lists the versions; promote one"
        raise RlvoError("there is no earlier champion to go back to", where=name, fix=fix)
    previous = champions[earlier[-1]]
    locate_model(f"{name}/{previous}", tracking)
    with tracking.registry(name) as client:
        _write(client, name, champions[: earlier[-1] + 1])
    return current, previous


def make_champion(client: MlflowClient, name: str, number: str) -> None:
    """Give a version the alias, and remember which one had it."""
    champions = _champions(client, name)
    _write(client, name, champions if champions[-1:] == [int(number)] else [*champions, int(number)])


def _champions(client: MlflowClient, name: str) -> list[int]:
    """The history, oldest first. Its last is the current champion, even if the alias was moved by other means."""
    model = client.get_registered_model(name)
    history = [int(number) for number in model.tags.get(HISTORY_TAG, "").split()]
    current = model.aliases.get(CHAMPION)
    if current is None or history[-1:] == [int(current)]:
        return history
    return [*history, int(current)]


def _write(client: MlflowClient, name: str, champions: list[int]) -> None:
    client.set_registered_model_alias(name, CHAMPION, str(champions[-1]))
    client.set_registered_model_tag(name, HISTORY_TAG, " ".join(map(str, champions[-MAX_HISTORY:])))


def _metrics(client: MlflowClient, run_id: str | None) -> Mapping[str, float]:
    """A run's metrics; none if it was deleted."""
    try:
        return dict(client.get_run(run_id).data.metrics) if run_id else {}
    except MlflowException:
        return {}

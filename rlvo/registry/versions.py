"""The versions of a registered model: which there are, and which one is the champion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from rlvo.errors import RlvoError
from rlvo.registry.gate import GATE_TAG
from rlvo.registry.location import CHAMPION, check_registry, locate_model, registry_at

HISTORY_TAG = "rlvo.champions"
"""Of the registered model: every version that was made the champion, oldest first, separated by spaces."""
REMEMBERED = 200
"""So many champions of the past."""


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    number: int
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    """Of its run: `val/auc_mean` (optimistic); after an opening of the hold-out `test/…`."""
    created: datetime

    @property
    def gate(self) -> str:
        """What the gate found."""
        return self.tags.get(GATE_TAG, "never ran")


def list_versions(tracking_uri: str, name: str) -> list[Version]:
    """All versions, the newest first.

    Raises:
        RlvoError: there is no such model.
        MachineError: the server does not answer.
    """
    check_registry(tracking_uri, name)
    with registry_at(tracking_uri, name):
        client = MlflowClient()
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


def registered_version(tracking_uri: str, name: str, tags: Mapping[str, str]) -> str | None:
    """The newest version of `name` that has all these tags and passed its gate; None where there is none.

    Raises MachineError where the server does not answer.
    """
    with registry_at(tracking_uri, name):
        found = MlflowClient(tracking_uri).search_model_versions(f"name = '{name}'")
    numbers = [
        int(version.version) for version in found if tags.items() <= version.tags.items() and has_passed(version.tags)
    ]
    return str(max(numbers)) if numbers else None


def has_passed(tags: Mapping[str, str]) -> bool:
    """Whether the version of these tags passed its gate."""
    return tags.get(GATE_TAG, "").startswith("passed")


def promote(tracking_uri: str, name: str, number: int) -> int | None:
    """Make a version the champion; who was it before, None where nobody was.

    Raises:
        RlvoError: there is no such version, it did not pass its gate, or its files are not those registered.
        MachineError: the server does not answer.
    """
    where = f"{name}/{number}"
    check_registry(tracking_uri, where)
    with registry_at(tracking_uri, where):
        tags = MlflowClient().get_model_version(name, str(number)).tags
    if not has_passed(tags):
        fix = "Only a version that passed becomes the champion; register the ensemble again"
        raise RlvoError(f"did not pass its gate ({tags.get(GATE_TAG, 'it never ran')})", where=where, fix=fix)
    locate_model(where, tracking_uri)
    with registry_at(tracking_uri, where):
        client = MlflowClient()
        before = _champions(client, name)
        make_champion(client, name, str(number))
    return before[-1] if before else None


def rollback(tracking_uri: str, name: str) -> tuple[int, int]:
    """Make the champion before this one the champion again: the version that was, and the one that is now.

    A version that was deleted since, or whose gate failed, is passed over.

    Raises:
        RlvoError: nobody was the champion before, or its files are not those registered.
        MachineError: the server does not answer.
    """
    check_registry(tracking_uri, name)
    with registry_at(tracking_uri, name):
        client = MlflowClient()
        champions = _champions(client, name)
        sound = {int(v.version) for v in client.search_model_versions(f"name = '{name}'") if has_passed(v.tags)}
    now = champions[-1] if champions else None
    earlier = [at for at, number in enumerate(champions) if number in sound and number != now]
    if now is None or not earlier:
        fix = "'rlvo models' lists the versions; 'rlvo models promote' chooses one"
        raise RlvoError("there is no earlier champion to go back to", where=name, fix=fix)
    again = champions[earlier[-1]]
    locate_model(f"{name}/{again}", tracking_uri)
    with registry_at(tracking_uri, name):
        _write(client, name, champions[: earlier[-1] + 1])
    return now, again


def make_champion(client: MlflowClient, name: str, number: str) -> None:
    """Give a version the alias, and remember who had it; within `registry_at`."""
    champions = _champions(client, name)
    _write(client, name, champions if champions[-1:] == [int(number)] else [*champions, int(number)])


def _champions(client: MlflowClient, name: str) -> list[int]:
    """The history, oldest first; its last is the champion, also where the alias was moved by other means."""
    model = client.get_registered_model(name)
    history = [int(number) for number in model.tags.get(HISTORY_TAG, "").split()]
    current = model.aliases.get(CHAMPION)
    if current is None or history[-1:] == [int(current)]:
        return history
    return [*history, int(current)]


def _write(client: MlflowClient, name: str, champions: list[int]) -> None:
    client.set_registered_model_alias(name, CHAMPION, str(champions[-1]))
    client.set_registered_model_tag(name, HISTORY_TAG, " ".join(map(str, champions[-REMEMBERED:])))


def _metrics(client: MlflowClient, run_id: str | None) -> Mapping[str, float]:
    """A run's; none where it was deleted."""
    try:
        return dict(client.get_run(run_id).data.metrics) if run_id else {}
    except MlflowException:
        return {}

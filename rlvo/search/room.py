"""What a trial asks Ray for; and what is said if no node can ever hold one, instead of waiting without a word."""

import time
from collections.abc import Callable, Mapping, Sequence

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.exceptions import RayError
from ray.util.client import ray as client

from rlvo.config.study import StudyConfig
from rlvo.errors import get_logger
from rlvo.ray_session import connect_to_cluster
from rlvo.search.plan import PROCESS_BYTES, StudyPlan, certain_bytes, trial_bytes

logger = get_logger(__name__)

PATIENCE_SECONDS = 30.0
"""So long nothing runs before the cluster is looked at: a worker that starts imports torch first."""
LOOK_SECONDS = 5.0
"""Between two looks."""
ANSWER_SECONDS = 5
"""How long the cluster may take to answer."""


def asked_by_trial(config: StudyConfig, planned: StudyPlan, *, of_cluster: bool) -> dict[str, float]:
    """What a trial asks for, by Ray's names: `CPU`, `GPU` and, if it asks for any, `memory` (bytes).

    Args:
        config: the study's configuration; GPUs that `auto` has not counted yet are not asked for.
        of_cluster: None for `resources.memory_gb` means an estimate: of all that a trial takes or, if it trains on a
            GPU, of what it takes beside it.
    """
    resources, memory = config.resources, 0.0
    if resources.memory_gb is not None:
        memory = resources.memory_gb * 1e9
    elif of_cluster:
        needs = certain_bytes if resources.gpus else trial_bytes
        memory = PROCESS_BYTES + max(needs(model, planned.grid) for model in planned.models)
    asked = {"CPU": float(resources.cpus), "GPU": resources.known_gpus}
    return asked | ({"memory": float(round(memory))} if memory else {})


class RoomWatch:
    """Warns once if trials wait, none runs, and no node can ever hold one of them.

    Nodes that an autoscaler is starting count: what it has said of a request counts more than the nodes there are.

    Args:
        asked: what a trial asks for, by Ray's names: `CPU`, `GPU`, `memory` (bytes).
        warn: is told.
        patience: seconds without a running trial before the cluster is looked at.
    """

    def __init__(
        self,
        asked: Mapping[str, float],
        warn: Callable[[str], None] = logger.warning,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._asked, self._warn, self._patience = asked, warn, patience
        self._since, self._looked = time.monotonic(), -LOOK_SECONDS
        self._has_warned = False

    def look(self, *, is_stuck: bool) -> None:
        """Look at the cluster, if it is time to.

        Args:
            is_stuck: whether trials wait and none runs.
        """
        now = time.monotonic()
        if not is_stuck or self._has_warned:
            self._since = now
        elif now - self._since >= self._patience and now - self._looked >= LOOK_SECONDS:
            self._looked = now
            if warning := without_room(self._asked, *_ask_cluster()):
                self._warn(warning)
                self._has_warned = True


def lacking_room(address: str, asked: Mapping[str, float]) -> str | None:
    """As `without_room`, of the cluster at an address. Raises MachineError if none answers.

    It is asked from a process of its own, unless Ray is connected: a second connection would crash this one.
    """
    if ray.is_initialized():
        return without_room(asked, *_ask_cluster())
    from rlvo.imaging.cohort_preparation import worker_pool  # with it SimpleITK, 100 MB

    with worker_pool(1) as pool:
        return without_room(asked, *pool.submit(_ask_cluster_at, address).result())


def without_room(
    asked: Mapping[str, float], nodes: Sequence[Mapping[str, float]], infeasible: Sequence[Mapping[str, float]] | None
) -> str | None:
    """A warning if no node can hold a trial; None if one can, or if a larger one may be on its way.

    Args:
        asked: what a trial asks for, by Ray's names.
        nodes: what each node has.
        infeasible: requests that the autoscaler cannot meet with any node that it may start; None: it does not say.
    """
    if any(_holds(node, asked) for node in nodes):
        return None
    if infeasible is not None and not any(_holds(request, asked) for request in infeasible):
        return None
    largest = max(nodes, key=lambda node: [node.get(kind, 0.0) for kind in ("GPU", "CPU", "memory")], default={})
    return (
        f"no node of the cluster can hold a trial: it asks for {_shown(asked, asked)}, and the largest node has "
        f"{_shown(asked, largest)}. Ask for less (resources), or add a larger node: the search waits for one"
    )


def _holds(node: Mapping[str, float], asked: Mapping[str, float]) -> bool:
    return all(node.get(kind, 0.0) >= need for kind, need in asked.items())


def _shown(asked: Mapping[str, float], has: Mapping[str, float]) -> str:
    """Of each kind that is asked for, as much as there is."""
    amounts = {kind: has.get(kind, 0.0) for kind in asked}
    return ", ".join(
        f"{amount / 1e9:.1f} GB memory" if kind == "memory" else f"{amount:g} {kind}"
        for kind, amount in amounts.items()
    )


def _ask_cluster() -> tuple[list[dict[str, float]], list[dict[str, float]] | None]:
    """What each node of the connected cluster has, and the requests that its autoscaler cannot meet."""
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]], _ask_autoscaler()


def _ask_cluster_at(address: str) -> tuple[list[dict[str, float]], list[dict[str, float]] | None]:
    with connect_to_cluster(address):
        return _ask_cluster()


def _ask_autoscaler() -> list[dict[str, float]] | None:
    """Private API of Ray: `ray status` does not show it. The older autoscaler does not say, nor does Ray's client."""
    if client.is_connected():
        return None
    try:
        gcs = GcsClient(ray.get_runtime_context().gcs_address)
        state = GetClusterStatusReply.FromString(gcs.get_cluster_status(timeout_s=ANSWER_SECONDS)).autoscaling_state
    except RayError:
        return None
    if not state.autoscaler_state_version:
        return None
    groups = [group.requests for group in state.infeasible_gang_resource_requests]
    return [dict(request.resources_bundle) for group in groups for request in group]

"""What is said of a cluster on which no node can hold a trial, and when."""

import pytest
from support.small_study import MakeStudy

from rlvo.search.plan import PROCESS_BYTES, plan_study, trial_bytes
from rlvo.search.room import RoomWatch, asked_by_trial, without_room

ASKED = {"CPU": 4.0, "GPU": 0.5, "memory": 3e9}
HEAD, SMALL, LARGE = {"CPU": 0.0}, {"CPU": 2.0, "GPU": 1.0, "memory": 9e9}, {"CPU": 4.0, "GPU": 1.0, "memory": 3e9}


def test_a_trial_asks_a_cluster_for_the_memory_that_it_is_estimated_to_take(make_small: MakeStudy) -> None:
    study = make_small()
    planned = plan_study(study)
    taken = max(trial_bytes(model, planned.grid) for model in planned.models)
    on_cpu = asked_by_trial(study, planned, of_cluster=True)
    assert on_cpu == {"CPU": 1.0, "GPU": 0.0, "memory": PROCESS_BYTES + taken}
    on_gpu = asked_by_trial(make_small(resources={"gpus": 0.5}), planned, of_cluster=True)
    assert on_gpu["GPU"] == 0.5
    assert PROCESS_BYTES < on_gpu["memory"] < on_cpu["memory"], "maps are in the GPU's memory"
    uncounted = asked_by_trial(make_small(resources={"gpus": "auto"}), planned, of_cluster=True)
    assert uncounted == on_gpu | {"GPU": 0.0}
    assert asked_by_trial(study, planned, of_cluster=False) == {"CPU": 1.0, "GPU": 0.0}
    for of_cluster in (True, False):
        asked = asked_by_trial(make_small(resources={"memory_gb": 2.5}), planned, of_cluster=of_cluster)
        assert asked["memory"] == 2.5e9
        assert "memory" not in asked_by_trial(make_small(resources={"memory_gb": 0}), planned, of_cluster=of_cluster)


def test_a_node_that_can_hold_a_trial_is_enough_even_if_it_is_busy() -> None:
    assert without_room(ASKED, [HEAD, LARGE], [ASKED]) is None


def test_nodes_that_may_be_on_their_way_are_waited_for() -> None:
    other = {"CPU": 64.0, "GPU": 0.0}
    assert without_room(ASKED, [HEAD], []) is None
    assert without_room({**ASKED, "CPU": 65.0}, [HEAD], [other]) is None


@pytest.mark.parametrize("infeasible", [[ASKED], [{"CPU": 1.0}, ASKED], None])
def test_it_is_told_what_is_asked_and_what_the_largest_node_has(infeasible: list[dict[str, float]] | None) -> None:
    told = without_room(ASKED, [HEAD, SMALL, {"CPU": 64.0}], infeasible)
    assert told is not None
    assert "it asks for 4 CPU, 0.5 GPU, 3.0 GB memory, and the largest node has 2 CPU, 1 GPU, 9.0 GB memory." in told
    assert "\n" not in told
    assert "the largest node has 0 CPU, 0 GPU" in str(without_room({"CPU": 1.0, "GPU": 0.0}, [], None))


@pytest.mark.usefixtures("ray_session")
def test_a_cluster_is_looked_at_if_nothing_runs_and_is_told_of_once() -> None:
    def told(asked: dict[str, float], *looks: bool, patience: float = 0.0) -> list[str]:
        said = list[str]()
        watch = RoomWatch(asked, said.append, patience)
        for is_stuck in looks:
            watch.look(is_stuck=is_stuck)
        return said

    assert told({"CPU": 2.0}, True) == []
    assert told({"CPU": 3.0}, False) == []
    assert told({"CPU": 3.0}, True, patience=3600.0) == []
    [warning] = told({"CPU": 3.0, "GPU": 0.0}, True, True)
    assert "it asks for 3 CPU, 0 GPU, and the largest node has 2 CPU, 0 GPU." in warning

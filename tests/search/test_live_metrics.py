"""What Ray's metrics agents export of a search, read as Prometheus reads it."""

import time
import urllib.request
from dataclasses import replace

import pytest
import ray
from support.study_on_disk import CTA, NCCT

from rlvo.search.live_metrics import LiveMetrics
from rlvo.study.state import ConfigurationState, StudyState, TrialState


def exported() -> dict[str, float]:
    """Every sample of the planted study, by name and tags as they are exported, sorted."""
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    own = [line for line in lines if line.startswith("ray_rlvo") and 'study="planted"' in line]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in own}


def pace_of(found: dict[str, float]) -> float:
    return sum(value for name, value in found.items() if "epochs_per_second" in name)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_prometheus_reads_trials_by_state_the_best_and_the_pace() -> None:
    trained = ConfigurationState.of(NCCT.key, NCCT, [TrialState(0, "running", 3), TrialState(1, "running", 4)])
    failed = ConfigurationState.of(CTA.key, CTA, [TrialState(0, "failed", 2)])
    state = StudyState("planted", 3, 2, 60, (trained, failed))
    live = LiveMetrics("planted")
    live.show(state)
    time.sleep(1)
    further = replace(trained, trials=(TrialState(0, "running", 5), TrialState(1, "running", 5)))
    live.show(replace(state, configurations=(further, failed)))

    deadline = time.monotonic() + 60
    while not pace_of(found := exported()) and time.monotonic() < deadline:  # it is 0 as first shown
        time.sleep(0.5)
    by_state = {name.partition('state="')[2].partition('"')[0]: value for name, value in found.items()}
    assert {name: by_state[name] for name in ("running", "failed", "waiting", "finished")} == {
        "running": 2, "failed": 1, "waiting": 3, "finished": 0
    }  # fmt: skip
    assert 0 < pace_of(found) <= 3, "three epochs within a second or more"
    assert not [name for name in found if "best_objective" in name], "nothing has finished"

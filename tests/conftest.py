"""What every test shares: a clean environment, one thread a process so that runs repeat exactly, and one Ray."""

import logging
import os
from collections.abc import Iterator

import pytest

os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true",
    RAY_USAGE_STATS_ENABLED="0",
    OMP_NUM_THREADS="1",
)
pytest_plugins = ["support.study_on_disk", "support.tiny_study", "support.registered_study", "support.small_study"]
for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "RLVO_WORKDIR", "RAY_ADDRESS"):
    os.environ.pop(name, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that may take long come first, so that two processes, a file at a time each, end together."""
    long = {item.path for item in items if item.get_closest_marker("timeout")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray of two CPUs for all tests that need one; commands and searches in this process join it."""
    import ray

    ray.init(
        "local",
        num_cpus=2,
        num_gpus=0,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=80 * 2**20,
    )
    yield
    ray.shutdown()

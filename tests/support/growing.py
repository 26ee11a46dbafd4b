"""A provider of nodes for Ray's autoscaler that starts them on this machine, and notes how many it was asked for."""

import os
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider

LAUNCHES = "RLVO_TEST_LAUNCHES"
"""Names the file that gets a line for each request: the number of nodes."""


class GrowingProvider(FakeMultiNodeProvider):
    """Ray's own, for its tests."""

    def create_node_with_resources_and_labels(
        self, node_config: Any, tags: Any, count: int, resources: Any, labels: Any
    ) -> None:
        with Path(os.environ[LAUNCHES]).open("a") as launches:
            launches.write(f"{count}\n")
        started = {kind: amount for kind, amount in resources.items() if kind != "memory"}  # Ray takes what there is
        super().create_node_with_resources_and_labels(node_config, tags, count, started, labels)

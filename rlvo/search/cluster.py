"""The Ray that a search runs on: one of this machine, or the cluster that an address names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import ray

from rlvo.config.study import ResourcesConfig
from rlvo.errors import RlvoError
from rlvo.imaging.cluster import connected as connected_to_cluster
from rlvo.imaging.cluster import shared, start_ray

OBJECT_STORE_BYTES = 128 * 2**20
"""Trials read volumes from the store; only a table and a mask travel through Ray."""


@contextmanager
def connected(resources: ResourcesConfig, folders: Sequence[Path], address: str | None = None) -> Iterator[bool]:
    """A Ray to run trials on, for as long as the context lasts; one that is connected already is used and left alone.

    Args:
        resources: a trial's share.
        folders: what trials read and write; every node of a cluster must share them.
        address: cluster to connect to; None: `RAY_ADDRESS`, else one of this machine alone.

    Yields:
        Whether it is one that was started on this machine.

    Raises:
        MachineError: there is no Ray at the address.
        RlvoError: this machine cannot hold a trial, or (NotSharedError) a node does not see a folder.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if address or ray.is_initialized():
        with connected_to_cluster(address or "auto"), ExitStack() as marks:
            for folder in folders:
                marks.enter_context(shared(folder))
            yield False
        return
    start_ray("local", num_cpus=os.cpu_count(), include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES)
    try:
        check_room(resources)
        yield True
    finally:
        ray.shutdown()


def check_room(resources: ResourcesConfig) -> None:
    """Raise RlvoError where the connected Ray cannot hold a trial: Tune would wait for ever."""
    there = ray.cluster_resources()
    for kind, asked in {"CPU": resources.cpus, "GPU": resources.gpus}.items():
        if asked > there.get(kind, 0):
            raise RlvoError(
                f"a trial asks for {asked:g} {kind}, this machine has {there.get(kind, 0):g}",
                where="resources",
                fix="Ask for less, or name a cluster with --address",
            )

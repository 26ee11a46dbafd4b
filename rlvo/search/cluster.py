"""The Ray that a search runs on: one of this machine, or the cluster that an address names."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from rlvo.config.study import ResourcesConfig
from rlvo.errors import MachineError, RlvoError

CONNECT_SECONDS = 10
OBJECT_STORE_BYTES = 128 * 2**20
"""Trials read volumes from the store; only a table and a mask travel through Ray."""


@contextmanager
def connected(resources: ResourcesConfig, address: str | None = None) -> Iterator[None]:
    """A Ray to run trials on, for as long as the context lasts; one that is connected already is used and left alone.

    Args:
        resources: a trial's share.
        address: cluster to connect to; None: `RAY_ADDRESS`, else one of this machine alone.

    Raises:
        MachineError: there is no Ray at the address.
        RlvoError: this machine cannot hold a trial.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = address or os.environ.get("RAY_ADDRESS")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    # Ray prints notices of its own to standard output, where --json goes; how a trial ended is in its result.
    ray._private.worker._worker_logs_enabled = False
    if address:
        try:
            check_address(address)
            ray.init(address=address, **quiet)
        except OSError as error:
            fix = "Check --address or RAY_ADDRESS"
            raise MachineError(f"no Ray cluster answers ({error})", where=address, fix=fix) from None
    else:
        ray.init(
            "local", num_cpus=os.cpu_count(), include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet
        )
    try:
        if not address:
            check_room(resources)
        yield
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """Raise OSError where nothing listens at `host:port`: Ray would try for many minutes, and log that it does."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


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

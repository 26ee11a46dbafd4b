"""Refusals before a search would hang."""

import socket

import pytest

from rlvo.errors import RlvoError
from rlvo.ray_session import check_address, check_resources


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_must_answer(scheme: str) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ConnectionRefusedError):
            check_address(address)
        server.listen()
        check_address(address)


@pytest.mark.usefixtures("ray_session")
def test_a_trials_share_must_fit_the_machine() -> None:
    check_resources(cpus=2, gpus=0)
    with pytest.raises(RlvoError, match="99 CPU, but this machine has 2"):
        check_resources(cpus=99, gpus=0)
    with pytest.raises(RlvoError, match="1 GPU"):
        check_resources(cpus=1, gpus=1)

"""Pretraining on Ray: one at a time in a folder, and a word if no node can hold it."""

import logging
import time
from pathlib import Path

import numpy as np
import pytest
from support.tiny_study import GRID
from support.volumes import FOCUS, write_rows

from rlvo.config.model import Configuration
from rlvo.config.sections import ResourcesConfig
from rlvo.errors import RlvoError
from rlvo.imaging.cohort_preparation import prepare_cohort
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target
from rlvo.search.pretraining import _pretrain, pretraining_lock, run_pretraining
from rlvo.search.trainable import LOCAL_STORE
from rlvo.training.pretraining import Pretraining, Unlabelled

TOLD_WITHIN = 60.0
"""Seconds."""


def pretrained(place: Path, cpus: int, caplog: pytest.LogCaptureFixture | None = None) -> None:
    """Start it in a folder; with `caplog`, interrupt it once something is told."""
    (store := place.parent / "store" / "ab" / "patient").mkdir(parents=True)
    place.mkdir(exist_ok=True)
    configuration = Configuration.model_validate({"model": {"modality": "CTA", "fusion": "none"}})
    job = Pretraining("key", configuration, 0, ResourcesConfig(cpus=cpus, gpus=0))
    head, until = np.ones(GRID.shape, bool), time.monotonic() + TOLD_WITHIN

    def wait(done: int, total: int) -> None:
        if (caplog is not None and caplog.records) or time.monotonic() > until:
            raise KeyboardInterrupt

    run_pretraining(job, Unlabelled((store,), (store,), head, head, GRID), place, max_failures=0, progress=wait)


def test_a_second_one_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    place, refusal = tmp_path / "pretraining", r"another pretraining of the same weights is at work \(process \d+ on "
    with pretraining_lock(place), pretraining_lock(tmp_path / "of others"), pytest.raises(RlvoError, match=refusal):
        pretrained(place, 1)
    with pretraining_lock(place):
        """It is free again."""


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_it_is_told_within_a_minute_that_no_node_can_hold_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "rlvo"), pytest.raises(KeyboardInterrupt):
        pretrained(tmp_path / "pretraining", 999, caplog)
    assert "no node of the cluster can hold a trial: it asks for 999 CPU" in caplog.text


def test_a_nodes_own_store_holds_copies_of_what_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, local = VolumeStore(tmp_path / "store"), tmp_path / "local"
    found = prepare_cohort(write_rows(tmp_path, ("1", "2")), Target(grid=FOCUS), store, workers=1).prepared
    first, second = (store.folder(each.address) for each in found.values())
    head = np.ones(FOCUS.shape, bool)
    content = {
        "model": {"modality": "CTA", "fusion": "none", "backbone": "resnet18", "norm": "group"},
        "training": {"epochs": 1},
    }
    job = Pretraining("key", Configuration.model_validate(content), 0, ResourcesConfig(cpus=1, gpus=0))
    monkeypatch.setenv(LOCAL_STORE, str(local))
    (tmp_path / "at work").mkdir()
    _pretrain(job, Unlabelled((first,), (second,), head, head, FOCUS), tmp_path / "at work", 0)
    assert {path.parent.name for path in local.glob("*/*/cta.npy")} == {first.name, second.name}

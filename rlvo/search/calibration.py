"""What a study's networks take on this machine: steps of training and validation, reading, saving, memory and power.

Each network runs for some seconds on random volumes, written as the store writes them, in as many processes as trials
would share the machine, or a GPU of it. What is timed is what trials call. Volumes come from the page cache: a store
that is larger than memory is read more slowly.
"""

import resource
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from rlvo.cohort.encoding import TabularEncoder
from rlvo.config.grid import Grid
from rlvo.config.model import Configuration
from rlvo.config.sections import ResourcesConfig
from rlvo.config.study import StudyConfig
from rlvo.progress import Advance
from rlvo.study.specs import Spec, model_specs, spec_of
from rlvo.training.usage import Pace

STEP_SECONDS = 6.0
"""How long training steps are repeated, and half as long validation; a step that takes longer counts alone."""
MOST_STEPS = 50
DIFFERENT = 8
"""Volumes that are written, at most; patients share them."""


@dataclass(frozen=True)
class Measured:
    """What one network takes, per trial, while as many run as the machine has room for."""

    training: float
    """Seconds per patient and epoch."""
    validation: float
    reading: float
    """Seconds per patient to read and stack volumes, which happens while the step before runs."""
    statistics: float
    """Seconds per patient at each start, to measure intensities."""
    saving: float
    """Seconds per checkpoint."""
    peak_bytes: int
    """Of the trial's process, or of the GPU's memory."""
    watts: float | None
    """The trial's share; None if it is not counted here."""

    @property
    def input_share(self) -> float:
        """Reading as a share of a training step: at 1 and above, the step waits for it."""
        return self.reading / self.training

    def pace(self, development: int, folds: int) -> Pace:
        """Of trials on so many development patients."""
        from rlvo.training.checkpoint import WORTH

        training, validation = development * (folds - 1) / folds, development / folds
        tested = self.validation * validation
        epoch = self.training * training + tested
        saving = min(self.saving, epoch / WORTH)  # checkpoints that are not worth it are left out
        return Pace(epoch + saving, self.statistics * training + tested + self.saving)


def measure_models(
    config: StudyConfig, at_once: int, encoder: TabularEncoder, advance: Advance
) -> dict[Spec, Measured | str]:
    """Measure each of the study's networks, or say why one could not be run.

    Args:
        at_once: how many trials run at once.
        encoder: says which encoded variables there are.
        advance: called with (networks measured, networks in all).
    """
    from rlvo.imaging.alignment.atlas import brain_mask  # with it SimpleITK, 100 MB
    from rlvo.imaging.cohort_preparation import worker_pool

    share = config.resources.known_gpus
    processes = min(at_once, max(int(1 / share), 1)) if share else at_once
    distinct = {spec_of(each): each for each in model_specs(config)}
    mask, found = brain_mask(config.grid), dict[Spec, Measured | str]()
    for spec, configuration in distinct.items():
        advance(len(found), len(distinct))
        arguments = (configuration, config.resources, encoder, mask, config.grid)
        try:
            with worker_pool(processes) as pool:
                running = [pool.submit(_measure, *arguments) for _ in range(processes)]
                found[spec] = _mean([each.result() for each in running])
        except BrokenProcessPool:
            found[spec] = "its process died, often for lack of memory"
        except (MemoryError, RuntimeError) as error:  # torch's allocators raise plain RuntimeErrors
            found[spec] = " ".join(str(error).split())[:200] or "out of memory"
    advance(len(distinct), len(distinct))
    return found


def measured_only(found: Mapping[Spec, Measured | str]) -> dict[Spec, Measured]:
    """Without the networks that could not be run."""
    return {spec: each for spec, each in found.items() if isinstance(each, Measured)}


def _mean(each: list[Measured]) -> Measured:
    names = ("training", "validation", "reading", "statistics", "saving")
    watts = [one.watts for one in each if one.watts is not None]
    return Measured(
        **{name: fmean(getattr(one, name) for one in each) for name in names},
        peak_bytes=max(one.peak_bytes for one in each),
        watts=fmean(watts) if watts else None,
    )


def _measure(
    configuration: Configuration, resources: ResourcesConfig, encoder: TabularEncoder, mask: np.ndarray, grid: Grid
) -> Measured:
    """In a process of its own: what a trial on its share of the machine takes."""
    import torch

    from rlvo.models.classifier import Classifier
    from rlvo.training.checkpoint import Progress, Saver
    from rlvo.training.dataset import FoldData, Patients, Volumes, channel_statistics
    from rlvo.training.energy import EnergyMeter
    from rlvo.training.epoch import batches, build_optimizer, build_schedule, train_epoch, validate
    from rlvo.training.execution import Execution
    from rlvo.training.member import read_ahead
    from rlvo.training.shortage import keep_to_share

    torch.set_num_threads(resources.cpus)
    keep_to_share(resources.known_gpus)
    device = torch.device("cuda" if resources.gpus and torch.cuda.is_available() else "cpu")
    model, settings = configuration.model, configuration.training.model_copy(update={"epochs": 10_000})
    batch, random = max(settings.batch_size, 2), np.random.default_rng(0)
    how = Execution(device, settings, resources.activation_checkpointing, resources.compile)

    with tempfile.TemporaryDirectory() as temporary, how.libraries():
        folder = Path(temporary)
        places = [folder / f"p{number}" for number in range(min(batch, DIFFERENT))]
        for place in places:
            place.mkdir()
            for name, level in (("ncct", 35), ("cta", 90)):
                np.save(place / f"{name}.npy", random.normal(level, 30, mask.shape).astype(np.float16))
            np.save(place / "vessels.npy", (random.random(mask.shape) < 0.01).astype(np.uint8))

        def patients(steps: int) -> Patients:
            ids = tuple(map(str, range(steps * batch)))
            tabular = random.random((len(ids), len(encoder.feature_names)), np.float32)
            return Patients(
                ids, tuple(places[i % len(places)] for i in range(len(ids))), tabular, np.arange(len(ids)) % 2
            )

        classifier = Classifier(model, len(encoder.feature_names))
        few = Volumes(patients(1), model.channels)
        started = time.perf_counter()
        classifier.standardise_with(*channel_statistics(few, mask))
        classifier.symmetry.read_from(encoder.feature_names, grid)
        statistics = (time.perf_counter() - started) / len(few)
        how.prepare(classifier)
        optimizer = build_optimizer(classifier, settings)
        schedule = build_schedule(optimizer, settings, batch)
        energy, began = EnergyMeter(resources.cpus, resources.known_gpus), time.perf_counter()

        def train(steps: int) -> float:
            group = patients(steps)
            volumes, started = Volumes(group, model.channels), time.perf_counter()
            data = FoldData(group, group, mask, encoder, grid)
            train_epoch(classifier, volumes, data, settings, optimizer, schedule, 1.0)
            return (time.perf_counter() - started) / steps

        def test(steps: int) -> float:
            group = patients(steps)
            volumes, started = Volumes(group, model.channels), time.perf_counter()
            validate(classifier, volumes, group, settings.at_once, 1.0)
            return (time.perf_counter() - started) / steps

        step = train(1)
        if step < STEP_SECONDS:
            step = train(max(2, min(MOST_STEPS, int(STEP_SECONDS / step))))
        tested = test(1)
        if tested < STEP_SECONDS / 2:
            tested = test(max(2, min(MOST_STEPS, int(STEP_SECONDS / 2 / tested))))
        joules, seconds = sum((counted := energy.since_last()).values()), time.perf_counter() - began

        group = patients(4)
        parts, started = batches(torch.arange(len(group)), batch), time.perf_counter()
        for _ in read_ahead(Volumes(group, model.channels), parts, device):
            pass
        reading = (time.perf_counter() - started) / len(group)
        saver = Saver(folder, progress := Progress("calibration"), classifier, optimizer, schedule)
        progress.add({"val/loss": 1.0}, step)
        started = time.perf_counter()
        saver.after_epoch(at_once=True)
        saving = time.perf_counter() - started
    on_gpu = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    peak = on_gpu or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    watts = joules / seconds if counted else None
    return Measured(step / batch, tested / batch, reading, statistics, saving, peak, watts)

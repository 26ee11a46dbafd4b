"""Where the time of one trial goes, by torch's profiler: input, forward by kind of layer, backward, and the rest."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.measure import show, wait_for_device
from benchmarks.training import FINER, FOCUS, NETWORKS, SHORT, Case, Ours, case_name, configure, random_fold
from rlvo.training import epoch, member
from rlvo.training.checkpoint import Progress, save_epoch

CASES: list[Case] = [("demo's DenseNet", FOCUS, 8), *((name, FINER, 1) for name in list(NETWORKS)[1:])]
KINDS: dict[str, type[nn.Module] | tuple[type[nn.Module], ...]] = {
    "convolutions": nn.Conv3d,
    "batch norm": nn.modules.batchnorm._BatchNorm,
    "activations": (nn.ReLU, nn.SiLU, nn.Sigmoid),
    "pooling": (nn.MaxPool3d, nn.AvgPool3d, nn.AdaptiveAvgPool3d),
    "linear": nn.Linear,
}
PARTS = (
    "ms per patient",
    "input",
    "standardise",
    *KINDS,
    "other forward",
    "backward",
    "optimizer",
    "validation",
    "checkpoint",
    "rest",
)
"""After the first, shares of an epoch's time. `input`: the step waits for volumes, and they are flipped and shifted."""


def benchmark_profile(*, short: bool = False) -> None:
    """Print shares of one epoch, its validation and its checkpoint."""
    shares = {}
    for case in [(name, SHORT, 2) for name in list(NETWORKS)[:1]] if short else CASES:
        with tempfile.TemporaryDirectory() as folder:
            shares[case_name(case)] = _shares(case, Path(folder))
    rows = dict(zip(PARTS, zip(*shares.values(), strict=True), strict=True))
    show(f"shares of one trial's epoch, {torch.get_num_threads()} threads", list(shares), rows)


def _shares(case: Case, folder: Path) -> list[float]:
    network, shape, batch = case
    data = random_fold(folder, shape, 4 * max(batch, 2), max(batch, 4))
    trial = Ours(configure(network, batch), data)
    trial.train(), trial.validate()
    with _marked(trial), profile(activities=[ProfilerActivity.CPU]) as profiled:
        start = time.perf_counter()
        trial.train()
        with record_function("rlvo: validation"):
            trial.validate()
        with record_function("rlvo: checkpoint"):
            progress = Progress("profiled", [{"val/loss": 1.0}], best_epoch=1)
            states = (trial.classifier.state_dict(), trial.optimizer.state_dict(), trial.schedule.state_dict())
            save_epoch(folder / "trial", progress, *states)
        wait_for_device()
        whole = (time.perf_counter() - start) * 1e6
    taken = Counter[str]()
    for event in profiled.key_averages():
        name = event.key.removeprefix("rlvo: ")
        if event.key.startswith("rlvo: "):
            taken[name] += event.cpu_time_total
        elif event.key.startswith("Optimizer.step#"):
            taken["optimizer"] += event.cpu_time_total
    taken["other forward"] = taken["forward"] - taken["standardise"] - sum(taken[kind] for kind in KINDS)
    parts = ("input", "forward", "backward", "optimizer", "validation", "checkpoint")
    taken["rest"] = whole - sum(taken[part] for part in parts)
    return [whole / 1000 / len(data.training), *(taken[column] / whole for column in PARTS[1:])]


@contextmanager
def _marked(trial: Ours) -> Iterator[None]:
    """Give the parts of a training step names that the profiler shows. Validation is one part, whatever is in it."""

    def named(name: str, work):  # type: ignore[no-untyped-def]
        def marked(*arguments, **options):  # type: ignore[no-untyped-def]
            if not trial.classifier.training:
                return work(*arguments, **options)
            with record_function(f"rlvo: {name}"):
                return work(*arguments, **options)

        return marked

    def waited(*arguments, **options):  # type: ignore[no-untyped-def]
        batches = member.read_ahead(*arguments, **options)
        while True:
            with record_function("rlvo: input"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    layers = {
        layer: kind
        for kind, types in KINDS.items()
        for layer in trial.classifier.modules()
        if isinstance(layer, types) and not any(layer.children())
    }
    with (
        patch.object(epoch, "read_ahead", waited),
        patch.object(epoch, "flip_and_shift", named("input", epoch.flip_and_shift)),
        patch.object(torch.Tensor, "backward", named("backward", torch.Tensor.backward)),
    ):
        classifier = trial.classifier
        changed = {classifier: "forward"} | layers
        for layer, name in changed.items():
            layer.forward = named(name, layer.forward)
        classifier.standardise = named("standardise", classifier.standardise)
        try:
            yield
        finally:
            for layer in changed:
                del layer.forward
            del classifier.standardise

"""How many trials share a GPU if `resources.gpus` is `auto`: as many as its memory and the node's cores have room for.

Memory is measured before the first trial starts: a step of training and one of validation of each backbone's largest
network. If that fails, it is estimated, and a share is larger. All trials of a search get the same share, on a cluster
the largest that one of its GPUs asks for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rlvo.cohort.encoding import unfitted_encoder
from rlvo.config.grid import Grid
from rlvo.config.model import Configuration
from rlvo.config.sections import CohortConfig, ResourcesConfig
from rlvo.config.study import StudyConfig
from rlvo.errors import get_logger
from rlvo.ray_session import NODE_SECONDS
from rlvo.search.plan import StudyPlan, trial_bytes
from rlvo.search.preflight import count_cpus, count_gpus, gpu_memory
from rlvo.study.specs import model_specs, spec_of
from rlvo.training.records import CONTEXT_BYTES

if TYPE_CHECKING:  # imported where a step is measured
    from torch import Tensor

logger = get_logger(__name__)

ESTIMATE_MARGIN, MEASURE_MARGIN = 1.5, 1.1
"""A trial is given so many times what it was estimated to take, or measured: workspaces and gradients of maps are not
in the estimate, and what other batches leave between their maps is in neither."""
MOST_PER_GPU = 8
"""More trials would only make each other slow: one already keeps a GPU busy most of the time."""
PARTS = 10_000
"""Ray counts GPUs in parts of this size."""
ASKING = 1 / 100
"""The share of a GPU that a process has which only asks how large it is."""
MEASURE_SECONDS = 600.0


@dataclass(frozen=True)
class Gpus:
    """The GPUs of one node."""

    count: float
    memory: float
    """Bytes of one; infinity if torch sees none, though Ray does."""
    cores: float
    """Of the node."""


def settle_share(
    config: StudyConfig, planned: StudyPlan, nodes: Sequence[Gpus], measured: float | None = None
) -> StudyConfig:
    """The study with a number of GPUs per trial: its own or, if that is `auto`, what all nodes have room for.

    Args:
        nodes: those with GPUs; none: trials train on CPUs.
        measured: bytes that the largest trial takes of a GPU; None: they are estimated.
    """
    if config.resources.gpus != "auto":
        return config
    needed = estimated_bytes(config, planned) * ESTIMATE_MARGIN if measured is None else measured * MEASURE_MARGIN
    share = 0.0
    if nodes:
        wanted = min(config.search.concurrent_trials or planned.trials, planned.trials)
        on_each = math.ceil(wanted / sum(node.count for node in nodes))
        fewest = min(_trials_on(node, needed, config.resources.cpus) for node in nodes)
        share = math.floor(PARTS / min(fewest, on_each)) / PARTS
    return config.with_setting("resources.gpus", share)


def _trials_on(node: Gpus, needed: float, cpus: int) -> int:
    """How many trials a GPU of the node has room for; at least one, whose memory may still not suffice."""
    by_memory, by_cores = node.memory / (needed + CONTEXT_BYTES), node.cores / node.count / cpus
    return max(1, int(min(by_memory, by_cores, MOST_PER_GPU)))


def estimated_bytes(config: StudyConfig, planned: StudyPlan) -> int:
    """What the study's largest trial may take of a GPU."""
    halved = config.training.mixed_precision
    return max(trial_bytes(each, planned.grid, bfloat16=halved) for each in planned.models)


def gpus_here() -> list[Gpus]:
    """Those of this machine that torch can use."""
    return [Gpus(count, gpu_memory(), count_cpus())] if (count := count_gpus()) else []


def settle_on_cluster(config: StudyConfig, planned: StudyPlan) -> StudyConfig:
    """As `settle_share`, on the connected Ray: its nodes are asked, and a GPU measures a step."""
    if config.resources.gpus != "auto":
        return config
    if not (nodes := _ask_gpus()):
        logger.warning("resources.gpus: auto finds no GPU, so trials train on CPUs")
        return settle_share(config, planned, ())
    found = settle_share(config, planned, nodes, _measure(config, planned))
    logger.info("resources.gpus: auto gives each trial %g of a GPU", found.resources.gpus)
    return found


def _ask_gpus() -> list[Gpus]:
    """The nodes with GPUs that answer; the GPUs of one node are taken to be equal."""
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    task, asked = ray.remote(num_cpus=0, num_gpus=ASKING, max_retries=0)(gpu_memory), []
    for node in nodes:
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked.append(task.options(scheduling_strategy=strategy).remote())
    found = []
    for node, answer in zip(nodes, asked, strict=True):
        has = node["Resources"]
        try:
            found.append(Gpus(has["GPU"], ray.get(answer, timeout=NODE_SECONDS), has.get("CPU", 0.0)))
        except RayError as error:  # its GPUs may all be taken
            ray.cancel(answer)
            name = node["NodeManagerHostname"]
            logger.warning("node %s does not say how large its GPUs are (%s)", name, type(error).__name__)
    return found


def _measure(config: StudyConfig, planned: StudyPlan) -> float | None:
    """Bytes that the largest trial takes, measured on one of the connected Ray's GPUs; None if that is not possible."""
    task = ray.remote(num_cpus=1, num_gpus=1, max_retries=0)(step_bytes)
    largest = largest_of_each_backbone(config, planned)
    answer = task.remote(largest, config.cohort, config.grid, config.resources)
    try:
        found = float(ray.get(answer, timeout=MEASURE_SECONDS))
    except RayError as error:
        ray.cancel(answer, force=True)
        why = " ".join(str(getattr(error, "cause", None) or type(error).__name__).split())[:200]
        logger.warning("what a step takes of a GPU could not be measured (%s): it is estimated", why)
        return None
    return found or None


def largest_of_each_backbone(config: StudyConfig, planned: StudyPlan) -> list[Configuration]:
    """Of each backbone, the configuration that is estimated to take most memory."""
    distinct = {spec_of(each): each for each in model_specs(config)}
    found: dict[str, tuple[int, Configuration]] = {}
    for configuration, model in zip(distinct.values(), planned.models, strict=True):
        size = trial_bytes(model, planned.grid)
        if size > found.get(model.backbone, (0, None))[0]:
            found[model.backbone] = (size, configuration)
    return [configuration for _, configuration in found.values()]


class _EmptyVolumes:
    """In place of `training.dataset.Volumes`: as large, and read from nowhere."""

    def __init__(self, patients: int, channels: tuple[str, ...], shape: tuple[int, int, int]) -> None:
        self.channels, self._patients, self._shape = channels, patients, shape

    def __len__(self) -> int:
        return self._patients

    def __getitem__(self, indices: slice | Tensor) -> Tensor:
        import torch

        count = len(torch.arange(len(self))[indices])
        return torch.zeros(count, len(self.channels), *self._shape, dtype=torch.float16)


def step_bytes(
    configurations: Sequence[Configuration],
    cohort: CohortConfig,
    grid: Grid,
    resources: ResourcesConfig,
) -> int:
    """The most memory that torch takes of this process's GPU for two steps of training and validation; 0 without one.

    Volumes are empty: what a step takes does not depend on their values.

    Args:
        configurations: each is trained for itself.
        cohort: says which variables the table has.
        grid: of the volumes.
        resources: say whether maps are computed again, and whether steps are compiled.
    """
    import numpy as np
    import torch

    from rlvo.models.classifier import Classifier
    from rlvo.training.dataset import FoldData, Patients
    from rlvo.training.epoch import build_optimizer, build_schedule, train_epoch, validate
    from rlvo.training.execution import Execution
    from rlvo.training.shortage import free_memory

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = unfitted_encoder(cohort)
    features, most = len(encoder.feature_names), 0
    for configuration in configurations:
        model, settings = configuration.model, configuration.training.model_copy(update={"epochs": 10})
        count = 2 * max(settings.batch_size, 1)
        patients = Patients(
            ids=tuple(map(str, range(count))),
            volumes=(),
            tabular=np.zeros((count, features), np.float32),
            labels=np.arange(count) % 2,
        )
        data = FoldData(patients, patients, np.ones(grid.shape, bool), encoder, grid)
        volumes = _EmptyVolumes(count, model.channels, grid.shape)
        classifier = Classifier(model, features)
        classifier.standardise_with([0.0] * len(model.channels), [1.0] * len(model.channels))
        classifier.symmetry.read_from(encoder.feature_names, grid)
        execution = Execution(device, settings, resources.activation_checkpointing, resources.compile)
        execution.prepare(classifier)
        optimizer = build_optimizer(classifier, settings)
        schedule = build_schedule(optimizer, settings, count)
        with execution.libraries():
            for _ in range(2):  # cuDNN tries its algorithms in the first round, for which any memory will do
                if device.type == "cuda":
                    free_memory()
                    torch.cuda.reset_peak_memory_stats()
                train_epoch(classifier, volumes, data, settings, optimizer, schedule, 1.0)  # type: ignore[arg-type]
                validate(classifier, volumes, patients, settings.at_once, 1.0)  # type: ignore[arg-type]
        if device.type == "cuda":
            most = max(most, torch.cuda.max_memory_reserved())
        del classifier, optimizer, schedule
        free_memory()
    return most

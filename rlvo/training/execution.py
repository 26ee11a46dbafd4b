"""How a trial is computed: on which device, how precisely, and whether another run gives the same numbers."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from rlvo.config.sections import Compile
from rlvo.config.training import TrainingConfig
from rlvo.models.classifier import Classifier
from rlvo.models.compiling import Compiled
from rlvo.models.pooling import make_pooling_deterministic
from rlvo.models.recomputing import Recomputing
from rlvo.training.records import Computation, ComputingPrecision

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
"""cuBLAS repeats its sums only if its workspace is fixed before it starts: set to what PyTorch asks for."""
TF32_CAPABILITY = (8, 0)
"""From NVIDIA's Ampere on, cuDNN rounds what an fp32 convolution multiplies to TF32."""


@dataclass(frozen=True)
class Execution:
    """How a trial trains on a device."""

    device: torch.device
    settings: TrainingConfig
    activation_checkpointing: bool = False
    compile: Compile = "none"

    @property
    def in_bfloat16(self) -> bool:
        """Whether training runs under bf16 autocast."""
        return self.settings.mixed_precision and self.device.type == "cuda" and torch.cuda.is_bf16_supported()

    @property
    def precision(self) -> ComputingPrecision:
        """Of the convolutions in training."""
        if self.in_bfloat16:
            return "bfloat16"
        in_tf32 = (
            self.device.type == "cuda"
            and torch.backends.cudnn.allow_tf32
            and torch.cuda.get_device_capability(self.device) >= TF32_CAPABILITY
        )
        return "tf32" if in_tf32 else "float32"

    def describe(self) -> Computation:
        """What the trial's record says of it."""
        on_cpu = self.device.type == "cpu"
        return Computation(
            device=torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type,
            threads=torch.get_num_threads() if on_cpu else None,
            precision=self.precision,
            deterministic=on_cpu or self.settings.deterministic,
            compiled=self.compile,
        )

    def prepare(self, classifier: Classifier) -> None:
        """Move a network to the device and have it train there so, in place; the names of its weights stay."""
        if self.settings.deterministic:
            make_pooling_deterministic(classifier)
        if self.activation_checkpointing:
            classifier.backbone.features = Recomputing(classifier.backbone.features)
        if self.compile != "none":
            graphs = self.compile == "cuda_graphs"
            classifier.backbone.features = Compiled(classifier.backbone.features, cuda_graphs=graphs)
        classifier.to(self.device)

    @contextmanager
    def libraries(self) -> Iterator[None]:
        """Have torch's libraries compute so inside the context: the process may train another trial in another way.

        If runs are to repeat, an operation that cannot raises RuntimeError. Otherwise cuDNN tries its algorithms for
        each shape of a batch, of which a trial has few, and keeps the fastest.
        """
        os.environ.setdefault(CUBLAS, ":4096:8")
        cudnn = torch.backends.cudnn
        memory: Any = torch.utils.deterministic  # its type lacks the property
        before = (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            memory.fill_uninitialized_memory,
            cudnn.deterministic,
            cudnn.benchmark,
        )
        repeats = self.settings.deterministic
        torch.use_deterministic_algorithms(repeats)
        memory.fill_uninitialized_memory = False  # nothing here is read before it is written
        cudnn.deterministic, cudnn.benchmark = repeats, not repeats
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            _, _, memory.fill_uninitialized_memory, cudnn.deterministic, cudnn.benchmark = before

"""The time of a training step of the demo's network, without the table and with DAFT."""

from __future__ import annotations

import torch

from benchmarks.measure import seconds, show
from rlvo.config.grid import PRESETS
from rlvo.config.model import ModelConfig
from rlvo.models.classifier import Classifier

BATCH, CHANNELS, VARIABLES = 8, 2, 21
NARROW = {"init_features": 8, "growth_rate": 8, "block_config": (3, 3), "stem_kernel": 3}


def benchmark_training() -> None:
    """Print the seconds per step, and how much DAFT adds."""
    torch.manual_seed(0)
    volume, table = torch.randn(BATCH, CHANNELS, *PRESETS["focus"].shape), torch.rand(BATCH, VARIABLES)
    label = torch.randint(2, (BATCH,)).float()
    taken = {}
    for fusion in ("none", "daft"):
        config = ModelConfig.model_validate({"backbone": "densenet121", "fusion": fusion, "densenet": NARROW})
        classifier = Classifier(config, VARIABLES)

        def step(classifier: torch.nn.Module = classifier) -> None:
            torch.nn.functional.binary_cross_entropy_with_logits(classifier(volume, table), label).backward()

        taken[f"fusion {fusion}"] = seconds(step, 20)
    rows = {name: (each, each / taken["fusion none"]) for name, each in taken.items()}
    show(f"training step, batch {BATCH}", ("s", "relative to none"), rows)

"""Optimiser and learning-rate schedule of a trial."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from rlvo.config.model import TrainingConfig

Schedule = OneCycleLR | ReduceLROnPlateau
"""One-cycle is stepped after every batch, plateau after every epoch with the validation loss."""


def build_optimizer(module: nn.Module, settings: TrainingConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over all of the module's parameters."""
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


def build_schedule(optimizer: torch.optim.Optimizer, settings: TrainingConfig, steps_per_epoch: int) -> Schedule:
    """One-cycle up to `learning_rate` and down over all epochs (Smith & Topin 2019), or a drop on plateaus."""
    if settings.schedule == "one_cycle":
        return OneCycleLR(optimizer, settings.learning_rate, total_steps=settings.epochs * steps_per_epoch)
    return ReduceLROnPlateau(optimizer, factor=settings.plateau_factor, patience=settings.plateau_patience)

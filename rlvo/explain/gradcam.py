"""Grad-CAM (Selvaraju et al., ICCV 2017) of the last feature map, before and after the fusion with the table.

The map is ReLU(Σ_c α_c·F_c), with α_c the mean over space of the derivative of rLVO's logit with respect to F_c: where
it is large, the image speaks for rLVO. It is not rescaled and never inverted. Before the fusion F is what the image
network gives, and the derivative passes through the fusion; after it F is what DAFT or FiLM makes of that map (González
et al. 2025, section 2.5). Without fusion, and with `concat` and `offset`, where the table joins behind the pooling, the
two are the same.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from rlvo.explain.placement import place_features, upsample
from rlvo.models.classifier import Classifier
from rlvo.training.member import full_precision

Which = Literal["before", "after"]
"""Of the fusion."""


class Maps(NamedTuple):
    """Maps of B patients, each [B, X, Y, Z] float32, in logits per voxel, at least 0.

    0 everywhere means that nothing in the image speaks for rLVO.
    """

    before: Tensor
    after: Tensor


def before_and_after(classifier: Classifier, volume: Tensor, tabular: Tensor | None = None) -> Maps:
    """Grad-CAM before and after the fusion, on the input's grid.

    Works for every backbone and fusion, streamlined or not, with frozen parameters, and inside `inference_mode`; the
    network is asked in evaluation mode and left as it was. Feature voxels are put where the centres of their receptive
    fields are (`placement`), with trilinear interpolation in between.

    Args:
        classifier: a trained classifier.
        volume: [B, C, X, Y, Z] as stored (HU, vessel channel 0/1).
        tabular: encoded table [B, T]; None for a model without fusion.

    Raises ValueError if the model needs the table and there is none.
    """
    coarse = feature_maps(classifier, volume, tabular)
    return Maps(*(on_grid(classifier, each, tabular, tuple(volume.shape[2:])) for each in coarse))


def feature_maps(classifier: Classifier, volume: Tensor, tabular: Tensor | None = None) -> Maps:
    """As `before_and_after`, but with one voxel per voxel of the feature map."""
    with torch.inference_mode(False), _evaluating(classifier), full_precision():
        if tabular is not None:
            tabular = tabular.clone()  # tensors made inside `inference_mode` cannot take part in a derivative
        with torch.no_grad():
            before = classifier.features(volume.clone(), tabular)
        with torch.enable_grad():
            before = before.requires_grad_()
            after = before
            if classifier.modulation is not None:
                if tabular is None:
                    raise ValueError("this model needs the tabular variables")
                after = classifier.modulation(before, tabular)
            logits = classifier.classify(after.clone(), tabular)  # a copy: activations may work in place
            gradients = torch.autograd.grad(logits.sum(), (before, after))
        return Maps(*(_map(features.detach(), each) for features, each in zip((before, after), gradients, strict=True)))


def on_grid(classifier: Classifier, maps: Tensor, tabular: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """Maps [B, x, y, z] of a classifier's features → [B, *shape], the input's grid."""
    seen = classifier.symmetry.shape(shape)
    placement = place_features(classifier.backbone.features, classifier.input_channels, seen)
    return classifier.symmetry.restore(upsample(maps, placement, seen), tabular, shape)


def _map(features: Tensor, gradient: Tensor) -> Tensor:
    weights = gradient.mean(dim=(2, 3, 4))
    return torch.einsum("bc,bcxyz->bxyz", weights, features).relu().float()


@contextmanager
def _evaluating(classifier: Classifier) -> Iterator[None]:
    training = [module for module in classifier.modules() if module.training]
    classifier.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@dataclass(frozen=True, eq=False)
class View:
    """A network and one patient as it sees them."""

    classifier: Classifier
    volume: Tensor
    """[1, C, X, Y, Z] on the classifier's device."""
    tabular: Tensor | None
    """[1, T], likewise."""
    weight: float = 1.0
    """How much its map counts in a mean."""


@dataclass(frozen=True, eq=False)
class MeanMaps:
    """The mean of several networks' maps of one patient, [X, Y, Z] float32, on the grid.

    Each network's map is divided by its own mean first, so that every network counts by its weight alone: 1 is what a
    map spread evenly over the volume would have everywhere. An all-zero map counts as zero: the mean over all voxels is
    the weights' share of networks whose map is not.
    """

    before: np.ndarray
    after: np.ndarray
    silent: dict[Which, int]
    """How many networks' maps are all zero (or not finite)."""
    networks: int

    def of(self, which: Which) -> np.ndarray:
        return self.before if which == "before" else self.after

    def is_silent(self, which: Which) -> bool:
        """Whether there is nothing to see, because every network's map is all zero."""
        return not self.of(which).any()


def mean_maps(views: Sequence[View]) -> MeanMaps:
    """Average the maps of networks that look at the same patient; see `MeanMaps`. At least one weight is above 0."""
    return average(views, [feature_maps(view.classifier, view.volume, view.tabular) for view in views])


def average(views: Sequence[View], coarse: Sequence[Maps]) -> MeanMaps:
    """The same for feature maps that are known already."""
    total = sum(view.weight for view in views)
    shape = tuple(views[0].volume.shape[2:])
    means, silent = {}, {}
    for which in get_args(Which):
        mean, silent[which] = torch.zeros(shape), 0
        for view, maps in zip(views, coarse, strict=True):
            part = _evened(view, getattr(maps, which))
            mean += view.weight / total * part.cpu()
            silent[which] += not bool(part.any())
        means[which] = mean.numpy()
    return MeanMaps(means["before"], means["after"], silent, len(views))


def _evened(view: View, coarse: Tensor) -> Tensor:
    """One network's map [1, x, y, z] on the grid [X, Y, Z], its mean 1; zero if it is all zero or not finite."""
    fine = on_grid(view.classifier, coarse, view.tabular, tuple(view.volume.shape[2:]))[0]
    mean = fine.mean()
    return fine / mean if bool(torch.isfinite(mean)) and mean > 0 else torch.zeros_like(fine)

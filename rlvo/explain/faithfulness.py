"""Is a saliency map about the model? Two checks of each map, as numbers.

*Cascading randomisation* (Adebayo et al., NeurIPS 2018): weights are shuffled within their tensors, from the head down
through the fusion and the image network, and each stage's map is compared with the model's own by Spearman's rank
correlation over the voxels of the feature map. A map that stays alike shows the image and not the model.

*Deletion and insertion* (RISE, Petsiuk et al., BMVC 2018): the probability of rLVO while voxels are replaced by the
training patients' mean, in the map's order, or put back into a volume of nothing but that mean. The area under the
curve should be small for deletion and large for insertion, compared with maps whose feature voxels are permuted: they
are as smooth, so that only the places differ.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from rlvo.explain.gradcam import Maps, View, Which, average, feature_maps
from rlvo.models.classifier import Classifier
from rlvo.training.member import full_precision

REPEATS = 1
"""Shuffles of each network's weights; an ensemble has several networks."""
QUARTERS = ("last quarter", "last half", "last three quarters", "all layers")
"""Stages of the image network; head and fusion come before them."""
SIMILAR = 0.5
"""Rank correlation with the map of fully shuffled weights above which a map fails."""
STEPS = 10
"""In which all voxels are replaced."""
RANDOM_ORDERS = 8
BATCH_VOXELS = 1 << 20
"""Of the volumes that a network is asked about at once."""
BEATEN = 0.75
"""Share of the random orders that must delete less well than the map."""
STEPS_PER_NETWORK = 1 + 2 * (1 + RANDOM_ORDERS)
"""How often a check calls `advance` for each network."""


@dataclass(frozen=True)
class Curve:
    """The probability of rLVO while voxels are deleted or inserted, and the area under it."""

    probabilities: tuple[float, ...]
    """With 0, 1/STEPS, …, all voxels replaced, in the map's order."""
    random: tuple[float, ...]
    """The areas with random orders."""

    @property
    def area(self) -> float:
        return _area(self.probabilities)


@dataclass(frozen=True)
class Faithfulness:
    """What the checks of one map found."""

    which: Which
    similarity: dict[str, float] = field(default_factory=dict)
    """Mean rank correlation with the map of shuffled weights, by stage from the head down; a vanished map counts 0."""
    deletion: Curve | None = None
    insertion: Curve | None = None
    failures: tuple[str, ...] = ()
    """Why the map should not be trusted; empty if it passes."""

    @property
    def figures(self) -> dict[str, float]:
        """All numbers by name, e.g. `after/deletion` and `after/deletion_random` (the mean)."""
        found = {f"similarity_{stage.replace(' ', '_')}": value for stage, value in self.similarity.items()}
        for name, curve in (("deletion", self.deletion), ("insertion", self.insertion)):
            if curve is not None:
                found |= {name: curve.area, f"{name}_random": float(np.mean(curve.random))}
        found["failed"] = float(bool(self.failures))
        return {f"{self.which}/{name}": value for name, value in found.items()}


def check_map(
    views: Sequence[View],
    coarse: Sequence[Maps] | None = None,
    *,
    which: Which = "after",
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> Faithfulness:
    """Check the mean map of networks that look at the same patient.

    Every network is asked (REPEATS × 6) + (STEPS + 1) × 2 × (RANDOM_ORDERS + 1) times at most.

    Args:
        views: as for `mean_maps`.
        coarse: their feature maps, if they are known already.
        which: whether to check the maps before or after the fusion.
        seed: of the shuffles and random orders; the same seed gives the same figures.
        advance: called STEPS_PER_NETWORK times for each network as the check proceeds, if there is anything to check.
    """
    coarse = coarse or [feature_maps(view.classifier, view.volume, view.tabular) for view in views]
    mean = average(views, coarse).of(which)
    if not mean.any():
        return Faithfulness(which, failures=("the map is all zero: there is nothing to check",))
    if np.ptp(mean) <= 1e-6 * mean.max():
        return Faithfulness(which, failures=("the map is the same everywhere: it says nothing about places",))
    generator = torch.Generator().manual_seed(seed)
    similarity = _similarity(views, coarse, which, generator, advance)
    orders = [_order(mean, generator)]
    orders += [_order(average(views, _permuted(coarse, generator)).of(which), generator) for _ in range(RANDOM_ORDERS)]
    curves = {deletes: [_curve(views, order, deletes, advance) for order in orders] for deletes in (True, False)}
    deletion, insertion = (Curve(own, tuple(map(_area, others))) for own, *others in curves.values())
    failures = []
    if (last := similarity[QUARTERS[-1]]) > SIMILAR:
        failures.append(f"it hardly depends on the weights: rank correlation {last:.2f} with all of them shuffled")
    if (better := float(np.mean(np.array(deletion.random) > deletion.area))) < BEATEN:
        failures.append(f"deleting in its order lowers the probability more than only {better:.0%} of random orders do")
    return Faithfulness(which, similarity, deletion, insertion, tuple(failures))


def _similarity(
    views: Sequence[View],
    coarse: Sequence[Maps],
    which: Which,
    generator: torch.Generator,
    advance: Callable[[], None],
) -> dict[str, float]:
    found: dict[str, list[float]] = defaultdict(list)
    for view, maps in zip(views, coarse, strict=True):
        own = getattr(maps, which)
        for _ in range(REPEATS if own.any() else 0):
            for stage, shuffled in shuffle_from_the_head(view.classifier, generator):
                other = getattr(feature_maps(shuffled, view.volume, view.tabular), which)
                found[stage].append(rank_correlation(own, other))
        advance()
    return {stage: float(np.mean(found[stage])) for stage in ("head", "fusion", *QUARTERS) if stage in found}


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's, over all voxels; 0 if one of them is the same everywhere or not finite."""
    x, y = (each.detach().cpu().double().flatten().numpy() for each in (a, b))
    if not (np.isfinite(x).all() and np.isfinite(y).all() and np.ptp(x) and np.ptp(y)):
        return 0.0
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def shuffle_from_the_head(classifier: Classifier, generator: torch.Generator) -> Iterator[tuple[str, Classifier]]:
    """Shuffle a copy's weights within their tensors, stage by stage; yield the copy after each, by the stage's name."""
    shuffled = copy.deepcopy(classifier)
    layers = [layer for layer in shuffled.backbone.features.modules() if not any(True for _ in layer.children())]
    layers = [layer for layer in reversed(layers) if any(True for _ in layer.parameters())]
    parts = np.array_split(np.arange(len(layers)), len(QUARTERS))
    stages: list[tuple[str, list[nn.Module]]] = [("head", [shuffled.head])]
    if shuffled.modulation is not None:
        stages.append(("fusion", [shuffled.modulation]))
    stages += [(name, [layers[i] for i in part]) for name, part in zip(QUARTERS, parts, strict=True)]
    for name, stage in stages:
        for parameter in (parameter for layer in stage for parameter in layer.parameters()):
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.data = parameter.data.flatten()[order].reshape(parameter.shape)
        yield name, shuffled


def _permuted(coarse: Sequence[Maps], generator: torch.Generator) -> list[Maps]:
    """The same maps with their feature voxels in another order, one for networks of the same shape."""
    orders: dict[torch.Size, Tensor] = {}
    result = []
    for maps in coarse:
        shape = maps.before.shape
        if shape not in orders:
            orders[shape] = torch.randperm(maps.before.numel(), generator=generator)
        result.append(Maps(*(each.flatten()[orders[shape].to(each.device)].reshape(shape) for each in maps)))
    return result


def _order(saliency: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """Indices of all voxels, the largest first; ties in random order."""
    ties = torch.rand(saliency.size, generator=generator).numpy()
    return np.lexsort((ties, -saliency.ravel()))


def _curve(views: Sequence[View], order: np.ndarray, deletes: bool, advance: Callable[[], None]) -> tuple[float, ...]:
    """The networks' mean probability with 0, 1/STEPS, …, all of the voxels deleted (or inserted)."""
    rank = np.empty(len(order), int)
    rank[order] = np.arange(len(order))
    counts = np.linspace(0, len(order), STEPS + 1).astype(int)
    chosen = torch.from_numpy((rank < counts[:, None]).reshape(-1, *views[0].volume.shape[2:]))
    kept = ~chosen if deletes else chosen
    found = []
    for view in views:
        found.append(_probabilities(view, kept.to(view.volume.device)))
        advance()
    return tuple(np.average(found, axis=0, weights=[view.weight for view in views]).tolist())


def _probabilities(view: View, kept: Tensor) -> np.ndarray:
    """The probability [K] with voxels outside each mask [K, X, Y, Z] at the training patients' mean (no vessels)."""
    neutral = view.classifier.channel_mean[:, None, None, None]
    batch = max(1, BATCH_VOXELS // kept[0].numel())
    with torch.inference_mode(), full_precision():
        logits = [
            view.classifier(
                torch.where(part[:, None], view.volume, neutral),
                None if view.tabular is None else view.tabular.expand(len(part), -1),
            )
            for part in torch.split(kept, batch)
        ]
    return np.asarray(torch.cat(logits).double().sigmoid().cpu().numpy())


def _area(probabilities: Sequence[float]) -> float:
    return float(np.trapezoid(probabilities, dx=1 / STEPS))

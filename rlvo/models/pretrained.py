"""Weights that others trained: how a file's tensors fit a backbone, and starting one from them (docs/pretrained.md)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rlvo.config.model import ModelConfig
from rlvo.errors import RlvoError
from rlvo.files import file_sha256
from rlvo.models.backbones import Backbone, build_backbone

COUNTER = "num_batches_tracked"
"""Batches that a batch norm has seen: it changes nothing, and old files lack it."""
SCANS = "rlvo.scans"
"""Metadata of a file: what the scans are recognised by that its network has seen (`VolumeStore.scans`), with spaces
between."""
SHOWN = 5
FIX = "Name the backbone that the file is for (docs/pretrained.md), with model.norm: batch"

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Match:
    """How each tensor of a file and of a backbone is accounted for."""

    backbone: str
    taken: Mapping[str, str]
    """The backbone's tensors, each with its name in the file."""
    weights: int
    """Numbers in them, in the file."""
    repeated: Mapping[str, tuple[int, int]]
    """Of them, kernels of one volume that see several here: input channels in the file, and here."""
    counters: tuple[str, ...]
    """Counters of the backbone that the file lacks: they stay at 0."""
    unused: tuple[str, ...]
    """Tensors of the file that belong to other parts of its network: a head, a decoder."""

    @property
    def lines(self) -> list[str]:
        """The report in words."""
        found = f"{len(self.taken)} tensors ({self.weights:,} numbers) fit {self.backbone}"
        lines = [f"{found}: all that it has" + (f" but {len(self.counters)} counters" if self.counters else "")]
        for name, (before, now) in self.repeated.items():
            channels = "channel" if before == 1 else "channels"
            lines.append(f"{name}: {before} {channels} became {now}, each with 1/{now // before} of its kernel")
        if self.unused:
            lines.append(f"{len(self.unused)} tensors are of other parts and not used: {_some(self.unused)}")
        return lines


def match(model: ModelConfig, file: Shapes, where: object) -> Match:
    """How the tensors of a file, given by their shapes, fit the backbone of a model spec.

    Names are those of the backbone, all behind the same words or none (`module.`, `encoder.`). What belongs to a part
    that the backbone lacks is not used.

    Args:
        model: the spec; its first convolution may see several volumes, or several channels, where the file's sees one.
        file: each tensor's shape by name.
        where: names the file in errors.

    Raises:
        RlvoError: a tensor of the backbone is missing in the file, or has another shape, or the file has more layers.
    """
    with torch.device("meta"):
        backbone = build_backbone(model)
    wanted = {name: tuple(tensor.shape) for name, tensor in backbone.features.state_dict().items()}
    first = first_kernel(backbone)
    prefix = _prefix(file, wanted, first)
    named = {name.removeprefix(prefix): name for name in file if name.startswith(prefix)}
    parts = {name.partition(".")[0] for name in wanted}
    problems = list[str]()
    repeated = dict[str, tuple[int, int]]()
    for name, shape in wanted.items():
        if name not in named:
            problems += [] if name.endswith(COUNTER) else [f"{name} is missing"]
        elif (found := tuple(file[named[name]])) != shape:
            if name == first and any(found == (shape[0], fewer, *shape[2:]) for fewer in (1, model.views)):
                repeated[name] = (found[1], shape[1])
            else:
                problems.append(f"{name} is {_shape(found)}, not {_shape(shape)}")
    problems += [f"{name} is not in the network" for name in named if name not in wanted and _part(name) in parts]
    if problems:
        more = f", and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        what = f"the weights do not fit {model.backbone}: {', '.join(problems[:SHOWN])}{more}"
        raise RlvoError(what, where=where, fix=FIX)
    taken = {name: named[name] for name in wanted if name in named}
    return Match(
        backbone=model.backbone,
        taken=taken,
        weights=sum(torch.Size(file[name]).numel() for name in taken.values()),
        repeated=repeated,
        counters=tuple(name for name in wanted if name not in named),
        unused=tuple(sorted({*file} - {*taken.values()})),
    )


def match_file(model: ModelConfig, path: Path) -> Match:
    """How a file fits the backbone of a model spec; see `match`. Only its list of tensors is read."""
    return match(model, _shapes(path), path)


def seen_scans(path: Path) -> frozenset[str]:
    """What the scans are recognised by that a file's network has seen; empty if `rlvo pretrain` did not write it."""
    try:
        with safe_open(path, "pt") as file:
            return frozenset(((file.metadata() or {}).get(SCANS) or "").split())
    except (SafetensorError, OSError):
        return frozenset()


def seen_metadata(scans: Iterable[str]) -> dict[str, str] | None:
    """The metadata of a file whose network has seen scans, as `seen_scans` reads it; None if it has seen none."""
    return {SCANS: " ".join(sorted(scans))} if scans else None


def start_from(backbone: Backbone, model: ModelConfig, path: Path) -> Match:
    """Give a backbone the weights of a file, in place; `model` is its spec.

    A kernel of one channel that sees n channels here is repeated, divided by n: a volume that is the same in all
    channels gives the same maps. So is that of one volume and its mirror image, each of the two by itself.

    Raises:
        RlvoError: the file is missing, damaged or not `model.pretrained.sha256`, or it does not fit (`match`).
    """
    check_weights(path, model.pretrained.sha256)
    matched = match_file(model, path)
    own = backbone.features.state_dict()
    with torch.no_grad(), safe_open(path, "pt") as file:
        for name, there in matched.taken.items():
            tensor = file.get_tensor(there)
            check_finite(name, tensor, path)
            if name in matched.repeated:
                before, now = matched.repeated[name]
                tensor = tensor.repeat_interleave(now // before, dim=1) / (now // before)
            own[name].copy_(tensor)
    return matched


def check_weights(path: Path, sha256: str | None) -> None:
    """Raise RlvoError if a file is missing, or is not the one with this SHA-256."""
    if not path.is_file():
        raise RlvoError("there is no such file", where=path, fix="Correct model.pretrained.weights")
    if (found := file_sha256(path)) != sha256:
        fix = "Name the file that the study means, or correct model.pretrained.sha256"
        raise RlvoError(f"the file's SHA-256 is {found}, not that of model.pretrained", where=path, fix=fix)


def check_finite(name: str, tensor: Tensor, where: object) -> None:
    """Raise RlvoError if a tensor of a file holds NaN or infinity."""
    if not tensor.isfinite().all():
        raise RlvoError(f"{name} holds values that are not finite", where=where, fix="Get the file again")


def first_kernel(backbone: Backbone) -> str:
    """The name of the weights of the convolution that sees the volumes."""
    return next(f"{name}.weight" for name, layer in backbone.features.named_modules() if isinstance(layer, nn.Conv3d))


def _prefix(file: Shapes, wanted: Shapes, first: str) -> str:
    """What stands before the backbone's names in a file."""
    before = {name.removesuffix(first) for name in file if f".{name}".endswith(f".{first}")}
    return max(sorted(before), key=lambda prefix: sum(prefix + name in file for name in wanted), default="")


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        fix = "Convert a PyTorch checkpoint first (docs/pretrained.md)"
        raise RlvoError("the file is not safetensors, or is damaged", where=path, fix=fix) from None


def _part(name: str) -> str:
    return name.partition(".")[0]


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "one number"


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")

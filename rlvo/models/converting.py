"""From the checkpoint of others to a safetensors file of a backbone's weights."""

import pickle  # nosec B403 # for the name of an error; nothing is unpickled
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import permutations, product
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from rlvo.config.model import BackboneName, ModelConfig
from rlvo.errors import RlvoError
from rlvo.models.pretrained import Match, check_finite, match, seen_metadata, seen_scans

OURS = ("LR", "PA", "IS")
"""Our axes, as from where to where they run: left to right, back to front, upwards."""
AXES = tuple("".join(letters) for order in permutations(OURS) for letters in product(*order))
"""What may be given as the axes of a network: where each of its axes runs to."""


@dataclass(frozen=True)
class Converted:
    """A backbone's weights as a file."""

    data: bytes
    """The content of the file, safetensors; the same for the same weights."""
    match: Match
    """How the checkpoint's tensors are accounted for."""


def convert(checkpoint: Path, backbone: BackboneName, axes: str = "RAS") -> Converted:
    """Convert a checkpoint of PyTorch or a safetensors file, which keeps what `rlvo pretrain` noted in it.

    Nothing is unpickled: a checkpoint of PyTorch is read by `torch.load(weights_only=True)`, which makes tensors and
    plain containers and runs no code.

    Args:
        checkpoint: the file.
        backbone: the network that it is for, seeing one channel as MedicalNet and CT-FM do.
        axes: where the axes of the volumes ran to that the network was trained on, as `SPL`. Kernels are turned, so
            that the network sees ours, which run to the right, to the front and upwards (RAS), as it saw those.

    Raises:
        RlvoError: the file cannot be read without running code, or does not fit the backbone.
    """
    if axes not in AXES:
        raise RlvoError(f"{axes} names no axes", where="--axes", fix="Give three of R or L, A or P, S or I, as SPL")
    tensors = _read(checkpoint)
    model = ModelConfig(backbone=backbone, modality="CTA", fusion="none")
    matched = match(model, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, checkpoint)
    weights = dict[str, Tensor]()
    for name, there in matched.taken.items():
        tensor = tensors[there]
        check_finite(name, tensor, checkpoint)
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        weights[name] = (_turned(tensor, axes) if tensor.dim() == 5 else tensor).contiguous().clone()
    metadata = seen_metadata(seen_scans(checkpoint))
    return Converted(safetensors.torch.save(weights, metadata), replace(matched, repeated={}))


def _turned(kernel: Tensor, axes: str) -> Tensor:
    """A kernel [O, I, *axes] on axes that run as `axes` says → [O, I, X, Y, Z] on ours."""
    places = [next(i for i, letter in enumerate(axes) if letter in own) for own in OURS]
    against = [2 + i for i, own in enumerate(OURS) if axes[places[i]] == own[0]]
    return kernel.permute(0, 1, *(2 + place for place in places)).flip(against)


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file: of a checkpoint, those of the part that has most."""
    if not path.is_file():
        raise RlvoError("there is no such file", where=path)
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError:
        pass  # then it is PyTorch's
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        what = "the file holds more than tensors, or is damaged; it is not read, as that could run code"
        raise RlvoError(what, where=path, fix="Have its owner save the state_dict alone") from None
    except Exception:  # noqa: BLE001 # whatever torch's reader makes of bytes that are no checkpoint
        raise RlvoError("the file is neither PyTorch's nor safetensors, or is damaged", where=path) from None
    parts = [*_parts(content)]
    if not parts:
        raise RlvoError("the file holds no tensors by name", where=path)
    return max(parts, key=len)


def _parts(content: object) -> Iterator[dict[str, Tensor]]:
    """Every mapping of names to tensors within what a checkpoint holds."""
    if isinstance(content, Mapping):
        if own := {name: each for name, each in content.items() if isinstance(name, str) and isinstance(each, Tensor)}:
            yield own
        for inner in content.values():
            yield from _parts(inner)

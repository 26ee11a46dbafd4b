"""`rlvo convert-weights`: the checkpoint of others as a file that a study can start from."""

from pathlib import Path
from typing import Annotated

import typer

from rlvo.cli.common import JsonOption, writable_file
from rlvo.config.model import BackboneName
from rlvo.files import writing
from rlvo.report.console import print_json, print_line


def convert_weights(
    checkpoint: Annotated[Path, typer.Argument(help="PyTorch's checkpoint (.pth, .pt, .bin), or safetensors.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="File to write (safetensors).", callback=writable_file)],
    backbone: Annotated[BackboneName, typer.Option(help="The network that the weights are for.")],
    axes: Annotated[
        str, typer.Option(help="Where the axes ran to in its training, as SPL; kernels are turned to ours.")
    ] = "RAS",
    json: JsonOption = False,
) -> None:
    """Convert pretrained weights to a file that model.pretrained of a study can name; nothing in them is run.

    It says how each tensor is accounted for, and prints the lines for the study.

    Example: rlvo convert-weights resnet_10_23dataset.pth -o resnet10.safetensors --backbone medicalnet-resnet10
    """
    import hashlib

    from rlvo.errors import RlvoError
    from rlvo.files import atomic_write
    from rlvo.models.converting import convert

    if out.exists() and checkpoint.exists() and out.samefile(checkpoint):
        raise RlvoError("that is the checkpoint itself", where=out, fix="Name another file")
    converted = convert(checkpoint, backbone, axes)
    with writing(out):
        atomic_write(out, converted.data)
    sha256 = hashlib.sha256(converted.data).hexdigest()
    if json:
        matched = converted.match
        print_json(
            {
                "file": out,
                "sha256": sha256,
                "backbone": backbone,
                "tensors": len(matched.taken),
                "numbers": matched.weights,
                "counters": matched.counters,
                "unused": matched.unused,
            }
        )
        return
    for line in converted.match.lines:
        print_line(line)
    print_study_lines(out, backbone, sha256)


def print_study_lines(out: Path, backbone: BackboneName, sha256: str) -> None:
    """That a file of weights was written, and the lines of a study that starts from it."""
    print_line(f"wrote {out}; in a study:")
    for line in ("model:", f"  backbone: {backbone}", "  pretrained:", f"    weights: {out}", f"    sha256: {sha256}"):
        print_line(line)

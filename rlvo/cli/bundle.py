"""`rlvo bundle`: a registered model as one archive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlvo.cli.common import JsonOption, WorkdirOption, console, emit_json
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.files import file_sha256


def bundle(
    model: Annotated[str, typer.Argument(help="Registered model (rlvo-ensemble@champion) or its folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Archive to write: FILE.tar.gz.")],
    workdir: WorkdirOption = Path(DEFAULT),
    json: JsonOption = False,
) -> None:
    """Pack a verified model to carry into a network of its own: it loads there without a tracking server.

    The digest that is shown vouches for the archive's content: send it by another way than the archive.

    Example: rlvo bundle rlvo-ensemble@champion -o rlvo-model.tar.gz
    """
    from rlvo.registry.bundle import write_bundle
    from rlvo.registry.location import locate_model

    root = locate_model(model, Workdir(workdir.expanduser().resolve()).tracking_uri())
    archive = output.expanduser().resolve()
    digest = write_bundle(root, archive)
    if json:
        emit_json({"archive": archive, "sha256": file_sha256(archive), "digest": digest})
        return
    lines = (
        f"wrote {output}, SHA-256 {file_sha256(archive)}",
        f"to be checked where it is unpacked: python verify.py {digest}",
    )
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

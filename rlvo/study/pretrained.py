"""The pretrained weights of a study: checked before anything is trained, and kept where every trial finds them."""

from collections.abc import Iterable
from pathlib import Path

from rlvo.config.model import Configuration, ModelConfig
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.errors import RlvoError
from rlvo.files import atomic_write, file_sha256, storage_errors
from rlvo.study.specs import model_specs


def check_pretrained(config: StudyConfig, work: Workdir, *, keep: bool = False) -> tuple[str, ...]:
    """Check that the study's pretrained weights are there and fit its networks, and say how.

    Args:
        work: the work folder, which may have a copy: then the file need not be there any more.
        keep: whether to make that copy.

    Returns:
        The report, line by line; empty if no network of the study starts from such weights.

    Raises:
        RlvoError: the file is missing or another one, or does not fit one of the networks.
        StorageError: the disk takes no copy; DiskFullError if it is full.
    """
    models = _starting(config)
    if not models:
        return ()
    from rlvo.models.pretrained import match_file

    path = _found(config, work)
    lines = [line for model in models for line in match_file(model, path).lines]
    kept = work.pretrained(str(config.model.pretrained.sha256))
    if keep and path != kept:
        with storage_errors(work.path):
            atomic_write(kept, path.read_bytes())
    return tuple(dict.fromkeys(lines))


def weights_file(config: StudyConfig, work: Workdir) -> Path | None:
    """The file that the study's networks start from, or its copy; None if none starts from one. Raises RlvoError."""
    return _found(config, work) if _starting(config) else None


def seen_by(trained: Iterable[Configuration], work: Workdir) -> frozenset[str]:
    """What the scans are recognised by that trained networks have seen before, as far as their weights' files tell.

    Raises RlvoError if the work folder has no sound copy of a file any more: it could not be told then.
    """
    from rlvo.models.pretrained import seen_scans

    seen = frozenset[str]()
    for sha256 in sorted({each.model.pretrained.sha256 for each in trained} - {None}, key=str):
        kept = work.pretrained(str(sha256))
        if not kept.is_file() or file_sha256(kept) != sha256:
            what = "the weights that its networks started from are gone or damaged: what scans they saw is not known"
            raise RlvoError(what, where=kept, fix="Put the file with this SHA-256 there again")
        seen |= seen_scans(kept)
    return seen


def _starting(config: StudyConfig) -> list[ModelConfig]:
    """The networks that start from the weights: one model spec for all whose image networks are the same."""
    models = [each.model for each in model_specs(config) if each.model.pretrained.use]
    return [*{(model.backbone, model.norm, model.input_channels): model for model in models}.values()]


def _found(config: StudyConfig, work: Workdir) -> Path:
    """The sound copy, or else the file."""
    from rlvo.models.pretrained import check_weights

    pretrained = config.model.pretrained
    kept = work.pretrained(str(pretrained.sha256))
    if kept.is_file() and file_sha256(kept) == pretrained.sha256:
        return kept
    if pretrained.weights is None:
        what = f"the work folder has no sound copy of the pretrained weights (SHA-256 {pretrained.sha256})"
        raise RlvoError(what, where=config.name, fix="Name their file: model.pretrained.weights")
    check_weights(pretrained.weights, pretrained.sha256)
    return pretrained.weights

"""Registering what `rlvo bundle` packed in another registry, with what the first one says of it."""

import time
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Metric

from rlvo.errors import RlvoError
from rlvo.files import file_sha256
from rlvo.mlflow_client import Tracking
from rlvo.progress import ShowProgress, no_progress
from rlvo.registry.bundle import UnpackedBundle
from rlvo.registry.card import CARD
from rlvo.registry.gate import GATE_TAG, has_passed
from rlvo.registry.known_answers import check_known
from rlvo.registry.location import ARTIFACT_PATH, DIGEST_TAG, verify
from rlvo.registry.model import MANIFEST
from rlvo.registry.register import log_version, version_tags
from rlvo.registry.versions import Registration, registered_version

EXPERIMENT = "rlvo-imported"
"""The MLflow experiment that imported versions' runs are in."""
ARCHIVE_TAG, ORIGIN_TAG = "rlvo.archive", "rlvo.imported_from"
"""Tags of an imported version: SHA-256 of its archive, and what it was where it was packed (NAME/NUMBER)."""
UNREGISTERED = "rlvo-ensemble"
"""The name that a model gets which was in no registry."""


@dataclass(frozen=True)
class ImportedVersion:
    """A registered version."""

    name: str
    number: str
    gate: str
    is_new: bool
    """False: the same model was registered under this name already."""


def import_bundle(
    bundle: UnpackedBundle,
    tracking: Tracking,
    digest: str,
    *,
    where: Path,
    name: str | None = None,
    ungated: bool = False,
    progress: ShowProgress = no_progress,
) -> ImportedVersion:
    """Verify an unpacked model, ask it about its made-up patients again, and register it, without an alias.

    Args:
        digest: SHA-256 of its archive.
        where: the archive, for errors.
        name: to register it under; None: its own.
        ungated: also if it did not pass its gate, or answers otherwise than where it was packed; the version says so.

    Raises:
        RlvoError: it is not what was registered, or must not be registered.
        MachineError: the registry does not answer, or the model failed.
    """
    origin = bundle.registration
    verify(bundle.model, origin.tags.get(DIGEST_TAG) if origin else None)
    if origin is None:
        card = bundle.model / CARD
        text = card.read_text() if card.is_file() else ""
        origin = Registration(UNREGISTERED, "", version_tags(bundle.model / ARTIFACT_PATH), description=text)
    gate = bundle.gate
    if gate is None or not has_passed(gate):
        what = f"it did not pass its gate ({gate})" if gate else "whether it passed its gate is unknown"
        if not ungated:
            raise RlvoError(what, where=where, fix="To import it all the same: --ungated")
    if known := bundle.known:
        with progress("known answers") as advance:
            wrong, found = check_known(bundle.model, known, progress=advance)
        if wrong and not ungated:
            fix = "Install the packages that it was packed with; to import it all the same: --ungated"
            raise RlvoError(wrong, where=where, fix=fix)
        gate = f"failed: {wrong}" if wrong else gate and f"{gate}; where it was imported: {found}"
    name = name or origin.name
    manifest = file_sha256(bundle.model / MANIFEST)
    client, experiment = tracking.open_experiment(EXPERIMENT)
    if there := registered_version(tracking, name, {DIGEST_TAG: manifest}):
        return ImportedVersion(name, there, gate or "", is_new=False)
    packed = f"{origin.name}/{origin.version}" if origin.version else None
    tags = {key: value for key, value in origin.tags.items() if key != GATE_TAG}
    tags |= {DIGEST_TAG: manifest, ARCHIVE_TAG: digest.lower()}
    tags |= {key: value for key, value in {GATE_TAG: gate, ORIGIN_TAG: packed}.items() if value}
    with tracking.registry(name):
        run = client.create_run(experiment, run_name=packed, tags={"rlvo.kind": "ensemble"}).info.run_id
        now = time.time_ns() // 10**6
        client.log_batch(run, [Metric(key, value, now, 0) for key, value in origin.metrics.items()])
        number = log_version(bundle.model, tracking, run_id=run, name=name, tags=tags, card=origin.description)
        client.set_terminated(run)
    return ImportedVersion(name, number, gate or "unknown", is_new=True)

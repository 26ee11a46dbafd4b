"""Carrying a registered model to another place: packing it, and registering there what was packed."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlvo.config.workdir import Workdir
from rlvo.files import check_writable
from rlvo.progress import ShowProgress, no_progress
from rlvo.registry.bundle import unpack_bundle, write_bundle
from rlvo.registry.client import check_patients
from rlvo.registry.importing import ImportedVersion, import_bundle
from rlvo.registry.known_answers import ask_known
from rlvo.registry.location import is_folder
from rlvo.registry.versions import read_registration
from rlvo.workflows.answers import load_model, read_patients
from rlvo.workflows.study import tracking_of


@dataclass(frozen=True)
class Packed:
    """An archive that was written."""

    digest: str
    """Its SHA-256."""
    notes: Sequence[str]
    """Versions of packages that could not be those the model was registered with."""


def pack_model(
    model: str,
    archive: Path,
    workdir: Path,
    *,
    ungated: bool = False,
    wheels: Path | None = None,
    patients: Path | None = None,
    progress: ShowProgress = no_progress,
) -> Packed:
    """Write a verified model as an archive.

    Args:
        model: as `load_model` takes it.
        wheels: a folder for the wheels of all packages, to be packed too; pip fetches those that are missing.
        patients: a table of `rlvo synth`, whose volumes travel along with the model's answers.

    Raises:
        RlvoError: there is no such model, a package is not installed, or the patients are not made up.
        MachineError: the registry does not answer, the model failed, or a wheel cannot be fetched.
    """
    found = load_model(model, workdir, ungated=ungated).admitted
    registration = None
    if not is_folder(found.name):
        name, _, number = found.name.partition("/")
        registration = read_registration(tracking_of(Workdir.at(workdir, create=False)), name, number)
    known = None
    if patients is not None:
        raw, folder, _ = read_patients(patients)
        with progress("known answers") as advance:
            known = ask_known(found.folder, check_patients(found.folder, raw, folder), progress=advance)
    digest, notes = write_bundle(
        found.folder, archive, gate=found.gate, registration=registration, known=known, wheels=wheels
    )
    return Packed(digest, notes)


def import_model(
    archive: Path,
    digest: str,
    workdir: Path,
    *,
    name: str | None = None,
    ungated: bool = False,
    progress: ShowProgress = no_progress,
) -> ImportedVersion:
    """Register the model of an archive of `rlvo bundle` as a new version, without an alias.

    Args:
        digest: the archive's SHA-256, from whoever made it.
        name: to register it under; None: the name it had.
        ungated: also if it did not pass its gate, or does not answer as it did where it was packed.

    Raises:
        RlvoError: it is not that archive, holds what it must not, or its model must not be registered.
        MachineError: the registry does not answer, or the model failed.
    """
    check_writable(workdir, folder=True)
    with tempfile.TemporaryDirectory(prefix="rlvo-import-") as into:
        bundle = unpack_bundle(archive.expanduser(), digest, Path(into))
        tracking = tracking_of(Workdir.at(workdir))
        return import_bundle(bundle, tracking, digest, where=archive, name=name, ungated=ungated, progress=progress)

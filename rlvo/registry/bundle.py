"""A registered model as one archive, to carry to a machine without tracking server or network, and the way back in."""

import gzip
import io
import json
import shutil
import tarfile
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from rlvo.about import NOTICE
from rlvo.errors import RlvoError
from rlvo.files import file_sha256
from rlvo.registry.admission import RECORD
from rlvo.registry.known_answers import KNOWN, KnownAnswers, read_checked
from rlvo.registry.model import MANIFEST, model_files
from rlvo.registry.own_wheel import own_wheel
from rlvo.registry.packages import OWN, gather_wheels, lock, needed_packages, platform_name, wheel_hashes
from rlvo.registry.sbom import sbom
from rlvo.registry.verify import DAMAGED, FOLDER, ArchiveError, packed_files
from rlvo.registry.versions import Registration

README = Path(__file__).with_name("bundle_readme.md")
MODEL, WHEELS, LOCK, SBOM, REGISTRATION = "model", "wheels", "requirements.txt", "sbom.cdx.json", "registration.json"
PARTS = {MODEL, WHEELS, KNOWN, LOCK, SBOM, REGISTRATION, RECORD, "README.md", "verify.py"}
EARLIER_PARTS = {"SHA256SUMS", "wheelhouse.txt"}
"""What archives of earlier versions hold besides."""
INSTALL = {
    True: "pip install --no-index --find-links {folder}/wheels --require-hashes -r {folder}/requirements.txt",
    False: "pip install -r {folder}/requirements.txt",
}
"""How the packages are installed, by whether their wheels are in the archive."""


def write_bundle(
    model: Path,
    archive: Path,
    *,
    gate: str | None = None,
    registration: Registration | None = None,
    known: KnownAnswers | None = None,
    wheels: Path | None = None,
) -> tuple[str, list[str]]:
    """Write the archive (`.tar.gz`). The same model in the same environment always gives the same bytes.

    Args:
        model: a verified MLflow model folder.
        gate: what its gate found, which the archive says too; None if that is unknown.
        registration: what its registry says of it; None if it is in none.
        known: patients with the model's answers, to be asked again where it is imported.
        wheels: a folder for the wheels of all packages, which the archive then holds; pip fetches those that are
            missing. None: it holds rlvo's alone.

    Returns:
        SHA-256 of the archive; and notes on versions that could not be those the model was registered with.

    Raises:
        RlvoError: a package that the model needs is not installed here.
        MachineError: pip cannot fetch a wheel.
    """
    packages, notes = needed_packages((model / "requirements.txt").read_text() + f"\n{OWN}\n")
    name, wheel = own_wheel()
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as temporary:
        (own := Path(temporary) / name).write_bytes(wheel)
        own_package = next(each for each in packages if each.name == OWN)
        packed = {own_package: own}
        if wheels is not None:
            packed |= gather_wheels([each for each in packages if each.name != OWN], wheels)
        hashes = wheel_hashes(packed)
        about = (registration.name, registration.version) if registration else (model.resolve().name, "unregistered")
        install = INSTALL[wheels is not None].format(folder=FOLDER)
        written = {
            "README.md": README.read_text().format(notice=NOTICE, platform=platform_name(), install=install),
            LOCK: f"# {platform_name()}\n"
            + lock(packages, f"{FOLDER}/{WHEELS}/{name}", hashes if wheels is not None else {}),
            SBOM: sbom(*about, file_sha256(model / MANIFEST), packages, hashes),
            "verify.py": Path(__file__).with_name("verify.py").read_text(),
        }
        if gate is not None:
            written[RECORD] = f"{gate}\n"
        if registration is not None:
            written[REGISTRATION] = json.dumps(asdict(registration), indent=1) + "\n"
        files = {f"{MODEL}/{name}": model / name for name in sorted([MANIFEST, *model_files(model)])}
        if known is not None:
            written[f"{KNOWN}/answers.json"] = known.as_json()
            files |= {f"{KNOWN}/{name}": path for name, path in known.volumes().items()}
        files |= {f"{WHEELS}/{path.name}": path for path in packed.values()}
        fresh = Path(temporary) / archive.name
        # Neither weights nor wheels can be compressed much, so nothing is.
        with (
            fresh.open("wb") as raw,
            gzip.GzipFile("", "wb", compresslevel=0, fileobj=raw, mtime=0) as compressed,
            tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for name, text in written.items():
                tar.addfile(_entry(name, len(text.encode())), io.BytesIO(text.encode()))
            for name, path in files.items():
                with path.open("rb") as file:
                    tar.addfile(_entry(name, path.stat().st_size), file)
        fresh.replace(archive)
    return file_sha256(archive), notes


@dataclass(frozen=True)
class UnpackedBundle:
    """An archive that has the given digest, unpacked without its packages. The model's files are not verified yet."""

    folder: Path

    @property
    def model(self) -> Path:
        """The MLflow model folder."""
        return self.folder / MODEL

    @property
    def gate(self) -> str | None:
        """What the gate had found when it was packed; None if that was unknown."""
        record = self.folder / RECORD
        return record.read_text().strip() if record.is_file() else None

    @property
    def registration(self) -> Registration | None:
        """What its registry said; None if it was in none, or an earlier version of rlvo packed it."""
        path = self.folder / REGISTRATION
        return read_checked(path, Registration) if path.is_file() else None

    @property
    def known(self) -> KnownAnswers | None:
        """Patients with their answers; None if it has none."""
        folder = self.folder / KNOWN
        return KnownAnswers.read(folder) if folder.is_dir() else None


def unpack_bundle(archive: Path, digest: str, into: Path) -> UnpackedBundle:
    """Unpack what is needed of an archive into an empty folder, if it has the given digest.

    Raises:
        RlvoError: it has another digest, is damaged, too large, or holds anything but the files of a bundle.
    """
    fix = "Ask whoever made it for the archive and its SHA-256 again; do not use this one"
    room = shutil.disk_usage(into).free
    try:
        for name, size, content in packed_files(archive, digest):
            part = name.partition("/")[0]
            if part not in PARTS | EARLIER_PARTS or (part == name) == (part in (MODEL, WHEELS, KNOWN)):
                raise ArchiveError(f"it holds a file that is no part of a bundle: {name!r}")
            if part == WHEELS:
                continue
            if (room := room - size) < 0:
                what = f"no room to unpack it in {into.parent}"
                raise RlvoError(what, where=archive, fix="Free some space, or set TMPDIR to a larger disk")
            path = into / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                shutil.copyfileobj(content, file)
    except ArchiveError as error:
        raise RlvoError(str(error), where=archive, fix=fix) from None
    except DAMAGED as error:
        raise RlvoError(f"it is no whole gzip-compressed tar archive ({error})", where=archive, fix=fix) from None
    except OSError as error:
        raise RlvoError(
            f"cannot be unpacked ({error.strerror or error})", where=archive, fix="Check the path"
        ) from None
    if not (into / MODEL / "MLmodel").is_file():
        raise RlvoError("it holds no model", where=archive, fix=fix)
    return UnpackedBundle(into)


def _entry(name: str, size: int) -> tarfile.TarInfo:
    """An entry without owner and time."""
    entry = tarfile.TarInfo(f"{FOLDER}/{name}")
    entry.size, entry.mode = size, 0o644
    return entry

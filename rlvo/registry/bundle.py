"""A registered model as one archive, to carry to a machine without tracking server or network."""

import gzip
import hashlib
import io
import platform
import tarfile
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from rlvo.about import NOTICE
from rlvo.errors import RlvoError
from rlvo.files import file_sha256
from rlvo.registry.admission import RECORD
from rlvo.registry.model import MANIFEST, model_files
from rlvo.registry.verify import SUMS

FOLDER = "rlvo-model"
"""The folder that the archive unpacks to."""
README = Path(__file__).with_name("bundle_readme.md")


def write_bundle(model: Path, archive: Path, *, gate: str | None = None) -> str:
    """Write the archive (`.tar.gz`). The same model in the same environment always gives the same bytes.

    Args:
        model: a verified MLflow model folder.
        gate: what its gate found, which the archive says too; None if that is unknown.

    Returns:
        The digest to give to `verify.py`: SHA-256 of SHA256SUMS.

    Raises:
        RlvoError: a package that the model needs is not installed here.
    """
    requirements = (model / "requirements.txt").read_text()
    system = f"{platform.system()} {platform.machine()}"
    written = {
        "README.md": README.read_text().format(notice=NOTICE, python=platform.python_version(), system=system),
        "requirements.txt": requirements,
        "verify.py": Path(__file__).with_name("verify.py").read_text(),
        "wheelhouse.txt": "".join(f"{line}\n" for line in wheelhouse(requirements)),
    }
    if gate is not None:
        written[RECORD] = f"{gate}\n"
    files = {f"model/{name}": model / name for name in sorted([MANIFEST, *model_files(model)])}
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in written.items()}
    digests |= {name: file_sha256(path) for name, path in files.items()}
    sums = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as temporary:
        fresh = Path(temporary) / archive.name
        # Weights hardly compress, so the lowest level is as good as any.
        with (
            fresh.open("wb") as raw,
            gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for name, text in {SUMS: sums, **written}.items():
                entry = _entry(name, len(text.encode()))
                tar.addfile(entry, io.BytesIO(text.encode()))
            for name, path in files.items():
                with path.open("rb") as file:
                    tar.addfile(_entry(name, path.stat().st_size), file)
        fresh.replace(archive)
    return hashlib.sha256(sums.encode()).hexdigest()


def wheelhouse(requirements: str) -> list[str]:
    """The packages of a requirements file and all they need, each at the listed or else the installed version.

    Raises:
        RlvoError: one of them is not installed here.
    """
    pinned = [Requirement(line) for line in requirements.splitlines() if line.strip()]
    versions: dict[NormalizedName, str] = {}
    waiting = [(requirement, frozenset(requirement.extras)) for requirement in pinned]
    seen = set()
    while waiting:
        requirement, extras = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            fix = (
                "Install the model's requirements (its requirements.txt), or make the archive where they are installed"
            )
            raise RlvoError("the model needs this package, but it is not installed", where=name, fix=fix) from None
        versions[name] = installed.version.partition("+")[0]
        for needed in map(Requirement, installed.requires or ()):
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                waiting.append((needed, frozenset(needed.extras)))
    listed = {canonicalize_name(each.name): str(each.specifier) for each in pinned}
    return [f"{name}{listed.get(name, f'=={version}')}" for name, version in sorted(versions.items())]


def _entry(name: str, size: int) -> tarfile.TarInfo:
    """An entry without owner and time."""
    entry = tarfile.TarInfo(f"{FOLDER}/{name}")
    entry.size, entry.mode = size, 0o644
    return entry

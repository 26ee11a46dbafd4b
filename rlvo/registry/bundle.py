"""A registered model as one archive to carry to where there is no tracking server and no network."""

from __future__ import annotations

import gzip
import hashlib
import io
import platform
import re
import tarfile
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

from rlvo import NOTICE
from rlvo.errors import RlvoError
from rlvo.files import file_sha256
from rlvo.registry.model import MANIFEST, model_files
from rlvo.registry.verify import SUMS

FOLDER = "rlvo-model"
"""What the archive unpacks to."""
README = """\
# A registered model of rlvo

{notice}

| file | what it is |
|---|---|
| `model/` | the model as it was registered, an MLflow model with its own code |
| `verify.py` | checks every file against `SHA256SUMS`; needs Python 3.11 or later and nothing else |
| `requirements.txt` | the versions it was registered with |
| `wheelhouse.txt` | those and all that they need, for Python {python} on {system} |

1. Where there is a network: `pip download --no-deps -r wheelhouse.txt -d wheelhouse`. Carry `wheelhouse/` along with
   this folder.
2. Where there is none: `python verify.py DIGEST`, with the digest from whoever made the archive:
   what comes in the archive cannot vouch for itself. Verify before anything is installed or loaded.
3. `pip install --no-index --find-links wheelhouse -r wheelhouse.txt`
4. `mlflow.pyfunc.load_model("model").predict(table, params={{"folder": "."}})`, or where rlvo is installed:
   `rlvo predict ./model patients.csv -o answers.csv`, `rlvo serve ./model --data-root DIR`. No tracking server is
   asked.
"""


def write_bundle(model: Path, archive: Path) -> str:
    """Write the archive (`.tar.gz`); of the same model, in the same environment, always the same bytes.

    Args:
        model: a verified MLflow model folder.

    Returns:
        The digest that `verify.py` is to be given: SHA-256 of SHA256SUMS.

    Raises:
        RlvoError: a package that the model needs is not installed here.
    """
    requirements = (model / "requirements.txt").read_text()
    system = f"{platform.system()} {platform.machine()}"
    written = {
        "README.md": README.format(notice=NOTICE, python=platform.python_version(), system=system),
        "requirements.txt": requirements,
        "verify.py": Path(__file__).with_name("verify.py").read_text(),
        "wheelhouse.txt": "".join(f"{line}\n" for line in wheelhouse(requirements)),
    }
    files = {f"model/{name}": model / name for name in sorted([MANIFEST, *model_files(model)])}
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in written.items()}
    digests |= {name: file_sha256(path) for name, path in files.items()}
    sums = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as temporary:
        fresh = Path(temporary) / archive.name
        # Weights hardly compress: the lowest level is as good as any.
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
    """The packages of a requirements file and all that they need, each at the version listed, else the installed one.

    Raises:
        RlvoError: one of them is not installed here.
    """
    pinned = [Requirement(line) for line in requirements.splitlines() if line.strip()]
    versions: dict[str, str] = {}
    waiting = [(requirement, frozenset(requirement.extras)) for requirement in pinned]
    seen = set()
    while waiting:
        requirement, extras = waiting.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            fix = "Make the archive where the model's requirements are installed"
            raise RlvoError("the model needs this package, and it is not installed", where=name, fix=fix) from None
        versions[name] = installed.version.partition("+")[0]
        for needed in map(Requirement, installed.requires or ()):
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                waiting.append((needed, frozenset(needed.extras)))
    listed = {re.sub(r"[-_.]+", "-", each.name).lower(): str(each.specifier) for each in pinned}
    return [f"{name}{listed.get(name, f'=={version}')}" for name, version in sorted(versions.items())]


def _entry(name: str, size: int) -> tarfile.TarInfo:
    """A file of nobody's and no time."""
    entry = tarfile.TarInfo(f"{FOLDER}/{name}")
    entry.size, entry.mode = size, 0o644
    return entry

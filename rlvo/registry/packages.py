"""The packages that a model and rlvo need, with their versions, and the wheels of these versions."""

import platform
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.tags import sys_tags
from packaging.utils import InvalidWheelFilename, NormalizedName, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from rlvo.errors import MachineError, RlvoError, hide_passwords
from rlvo.files import file_sha256

OWN = canonicalize_name("rlvo")


def platform_name() -> str:
    """What wheels are chosen for, e.g. "Python 3.11 on Linux x86_64"."""
    return f"Python {sys.version_info.major}.{sys.version_info.minor} on {platform.system()} {platform.machine()}"


@dataclass(frozen=True)
class Package:
    """A package at one version."""

    name: NormalizedName
    version: Version
    """With its local part: torch 2.13.0+cpu is another build than 2.13.0."""
    needs: tuple[NormalizedName, ...] = ()
    """What it needs of the others, as the installed version says."""

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


def needed_packages(requirements: str) -> tuple[list[Package], list[str]]:
    """The packages of a requirements file and all they need here, by name; and where it could not be followed.

    Each has the version that is listed, or else the installed one. An installed build of the listed version
    (2.13.0+cpu for ==2.13.0) is the one that is meant. A listed version that another package does not go with gives way
    to the installed one.

    Raises:
        RlvoError: one of them is not installed here.
    """
    pinned = [Requirement(line) for line in requirements.splitlines() if line.strip()]
    listed = {canonicalize_name(each.name): each.specifier for each in pinned}
    waiting = [(requirement, frozenset(requirement.extras)) for requirement in pinned]
    packages: dict[NormalizedName, Distribution] = {}
    needs: dict[NormalizedName, set[NormalizedName]] = {}
    limits: dict[NormalizedName, list[tuple[NormalizedName, Requirement]]] = {}
    seen = set()
    while waiting:
        requirement, extras = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        packages[name] = installed = _installed(name)
        needs.setdefault(name, set())
        for needed in _needs(installed, extras):
            of = canonicalize_name(needed.name)
            needs[name].add(of)
            limits.setdefault(of, []).append((name, needed))
            waiting.append((needed, frozenset(needed.extras)))
    found, notes = [], []
    for name, installed in sorted(packages.items()):
        version = here = Version(installed.version)
        if name in listed and not listed[name].contains(here, prereleases=True):
            version = Version(next(iter(listed[name])).version)
            for other, needed in limits.get(name, ()):
                if not needed.specifier.contains(version, prereleases=True):
                    notes.append(
                        f"the model was registered with {name} {version}, {other} needs {needed}: {here} is taken"
                    )
                    version = here
                    break
        found.append(Package(name, version, tuple(sorted(needs[name]))))
    return found, notes


def find_wheels(packages: Collection[Package], folder: Path) -> dict[Package, Path]:
    """The wheel of each package in a folder, of several the one that fits this platform best."""
    rank = {tag: place for place, tag in enumerate(sys_tags())}
    found: dict[tuple[NormalizedName, Version], tuple[int, Path]] = {}
    for path in sorted(folder.glob("*.whl")):
        try:
            name, version, _, tags = parse_wheel_filename(path.name)
        except InvalidWheelFilename:
            continue
        if fitting := [rank[tag] for tag in tags if tag in rank]:
            found[name, version] = min(found.get((name, version), (len(rank), path)), (min(fitting), path))
    return {each: found[each.name, each.version][1] for each in packages if (each.name, each.version) in found}


def gather_wheels(packages: Collection[Package], folder: Path) -> dict[Package, Path]:
    """The same, with pip fetching those that are missing into the folder: from its index, as it is set up here.

    Raises:
        MachineError: pip cannot fetch one.
    """
    if missing := [str(each) for each in packages if each not in find_wheels(packages, folder)]:
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), *missing]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = find_wheels(packages, folder)
        left = [str(each) for each in packages if each not in found]
        if left:
            said = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
            why = hide_passwords(said[-1]) if said else "pip gave another build"
            fix = "Set pip up so that it finds it, or put its wheel into this folder"
            raise MachineError(f"no wheel of {left[0]} for {platform_name()} ({why})", where=folder, fix=fix)
    return find_wheels(packages, folder)


def lock(packages: Iterable[Package], own_wheel: str, hashes: Mapping[NormalizedName, str]) -> str:
    """A requirements file of exactly these versions. rlvo is named by its file, as no index has it.

    Args:
        own_wheel: path of rlvo's wheel, relative to where pip is run.
        hashes: SHA-256 of wheels by package; if there are any, there must be one for each package.
    """
    lines = {each.name: own_wheel if each.name == OWN else str(each) for each in packages}
    return "".join(f"{line} --hash=sha256:{hashes[name]}\n" if hashes else f"{line}\n" for name, line in lines.items())


def wheel_hashes(wheels: Mapping[Package, Path]) -> dict[NormalizedName, str]:
    """SHA-256 of each package's wheel."""
    return {package.name: file_sha256(path) for package, path in wheels.items()}


def _installed(name: NormalizedName) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError:
        fix = "Install the model's requirements (its requirements.txt), or make the archive where they are installed"
        raise RlvoError("the model needs this package, but it is not installed", where=name, fix=fix) from None


def _needs(installed: Distribution, extras: Iterable[str]) -> Iterator[Requirement]:
    for needed in map(Requirement, installed.requires or ()):
        if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield needed

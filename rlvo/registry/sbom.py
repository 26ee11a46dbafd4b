"""What an archive is made of, for those who watch over software: a CycloneDX 1.6 document."""

import json
from collections.abc import Iterable, Mapping
from importlib.metadata import distribution
from typing import Any

from packaging.utils import NormalizedName
from packaging.version import Version

from rlvo.about import __version__
from rlvo.registry.packages import Package

MODEL = "model"
"""The model's own reference within the document."""


def sbom(
    name: str, version: str, manifest: str, packages: Iterable[Package], hashes: Mapping[NormalizedName, str]
) -> str:
    """The document as JSON. It has neither time nor serial number, so the same archive has the same bytes.

    Args:
        name, version: of the model.
        manifest: SHA-256 of the model's manifest, which lists every file of it.
        packages: what it needs.
        hashes: SHA-256 of the packages' wheels, of those that are in the archive.
    """
    needed = list(packages)
    references = {each.name: f"pkg:pypi/{each.name}@{str(each.version).replace('+', '%2B')}" for each in needed}
    model = {"type": "machine-learning-model", "bom-ref": MODEL, "name": name, "version": version}
    tool = {"type": "application", "name": "rlvo", "version": __version__}
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"tools": {"components": [tool]}, "component": model | _hashed(manifest)},
        "components": [_component(each, references[each.name], hashes.get(each.name)) for each in needed],
        "dependencies": [
            {"ref": MODEL, "dependsOn": sorted(references.values())},
            *({"ref": references[each.name], "dependsOn": [references[of] for of in each.needs]} for each in needed),
        ],
    }
    return json.dumps(document, indent=1) + "\n"


def _component(package: Package, reference: str, digest: str | None) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": reference,
        "name": package.name,
        "version": str(package.version),
        **(_hashed(digest) if digest else {}),
        **_licences(package),
        "purl": reference,
    }


def _licences(package: Package) -> dict[str, Any]:
    """What the installed package says of itself, if it is the same version."""
    installed = distribution(package.name)
    if Version(installed.version) != package.version:
        return {}
    for expression in installed.metadata.get_all("License-Expression", ()):  # one at most
        return {"licenses": [{"expression": expression}]}
    named = [
        each.rpartition(" :: ")[2] for each in installed.metadata.get_all("Classifier", ()) if "License ::" in each
    ]
    return {"licenses": [{"license": {"name": each}} for each in named]} if named else {}


def _hashed(digest: str) -> dict[str, Any]:
    return {"hashes": [{"alg": "SHA-256", "content": digest}]}

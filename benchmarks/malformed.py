"""`python -m benchmarks.malformed`: the catalogue of malformed inputs read by rlvo, SimpleITK and MONAI, as Markdown.

Each reader runs in processes of its own, because some inputs kill them; after a death it continues with the next input.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support import catalogue


def with_simpleitk(path: Path) -> tuple[str, str]:
    """Read a path with SimpleITK: "read", and what was read."""
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    if path.is_dir():
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
        image = reader.Execute()
    else:
        image = sitk.ReadImage(str(path))
    return "read", f"{image.GetSize()} {sitk.GetArrayFromImage(image).dtype}"


def with_monai(path: Path) -> tuple[str, str]:
    """Read a path with MONAI: "read", and what was read."""
    from monai.transforms import LoadImage

    image = LoadImage(image_only=True)(str(path))
    return "read", f"{tuple(image.shape)} {image.dtype}"


READERS = {"rlvo": catalogue.with_rlvo, "SimpleITK": with_simpleitk, "MONAI": with_monai}


def read_all(reader: str, paths: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Return what became of every input: what the reader said, or the signal it died of."""
    results: dict[str, dict[str, Any]] = {}
    while left := {name: path for name, path in paths.items() if name not in results}:
        arguments = [part for name, path in left.items() for part in (name, str(path))]
        command = [sys.executable, "-m", "benchmarks.malformed", reader, *arguments]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = [json.loads(line) for line in process.stdout.splitlines() if line.startswith('{"name"')]
        results |= {line["name"]: line for line in lines}
        if process.returncode:
            name = next(name for name in left if name not in results)
            died = signal.Signals(-process.returncode).name if process.returncode < 0 else f"exit {process.returncode}"
            kind = "hangs" if died == "SIGALRM" else f"crashes ({died})"
            results[name] = {"kind": kind, "words": "", "seconds": float("nan"), "peak": 0}
    return results


def format_outcome(reader: str, result: dict[str, Any]) -> str:
    """Describe a result in a word or two."""
    kind = {"read": "read" if reader == "rlvo" else "**read**"}.get(result["kind"], result["kind"])
    slow = f", {result['seconds']:.1f} s" if result["seconds"] > 2 else ""
    large = f", {result['peak'] / 2**30:.1f} GB" if result["peak"] > 1 << 30 else ""
    return f"{kind.removeprefix('raised ')}{slow}{large}"


def main() -> None:
    """Build the catalogue, read it with each reader, print the table; with arguments, read paths with one reader."""
    if sys.argv[1:]:
        catalogue.read_paths(READERS[sys.argv[1]], *sys.argv[2:])
        return
    warnings.simplefilter("ignore")
    os.environ["PYTHONWARNINGS"] = "ignore"
    with tempfile.TemporaryDirectory() as folder:
        paths = catalogue.build_all(Path(folder))
        results = {reader: read_all(reader, paths) for reader in READERS}
    print("| input | " + " | ".join(READERS) + " |\n|" + "---|" * (1 + len(READERS)))
    for name, case in catalogue.CASES.items():
        cells = [format_outcome(reader, results[reader][name]) for reader in READERS]
        print(f"| {name}{' (good)' if case.outcome == 'read' else ''} | {' | '.join(cells)} |")
    malformed = [name for name, case in catalogue.CASES.items() if case.outcome != "read"]
    for reader, of_reader in results.items():
        counts = Counter(of_reader[name]["kind"].split(" ")[0] for name in malformed)
        longest = max(result["seconds"] for result in of_reader.values() if result["seconds"] == result["seconds"])
        peak = max(result["peak"] for result in of_reader.values()) / 2**20
        summary = ", ".join(f"{kind} {count}" for kind, count in counts.most_common())
        print(f"\n{reader}: {len(malformed)} malformed inputs: {summary}; at most {longest:.2f} s, {peak:.0f} MB")


if __name__ == "__main__":
    main()

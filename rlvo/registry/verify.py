"""Check an unpacked model archive: `python verify.py [DIGEST]`. DIGEST, the SHA-256 of SHA256SUMS, is its maker's."""

import hashlib
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SUMS = "SHA256SUMS"


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_change(digest: str | None) -> str | None:
    """What is not as it was packed; None if everything is."""
    sums = FOLDER / SUMS
    if not sums.is_file() or (digest is not None and sha256(sums) != digest.lower()):
        return f"{SUMS} is not the one that was packed"
    listed = {name: packed for packed, _, name in (line.partition("  ") for line in sums.read_text().splitlines())}
    for name, packed in listed.items():
        if not (FOLDER / name).is_file() or sha256(FOLDER / name) != packed:
            return f"{name} is missing, or was altered since it was packed"
    paths = [path for path in (FOLDER / "model").rglob("*") if path.is_symlink() or not path.is_dir()]
    there = {path.relative_to(FOLDER).as_posix() for path in paths}
    return next((f"{name} was added since the model was packed" for name in sorted(there - set(listed))), None)


if __name__ == "__main__":
    given = sys.argv[1] if len(sys.argv) > 1 else None
    if what := find_change(given):
        sys.exit(f"error: {what}. Do not use this model")
    print("every file is as it was packed" if given else "the files agree with each other; give the DIGEST to be sure")

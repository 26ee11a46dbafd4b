"""Compare this folder with the archive it was unpacked from: `python3 -I verify.py ARCHIVE DIGEST`.

DIGEST is the SHA-256 of the archive, from whoever made it and by another way than the archive. `sha256sum ARCHIVE`
before unpacking is the check that counts: somebody who can change this folder can change this file too. Nothing but
Python 3.11 or later is needed. rlvo reads archives with the same code.
"""

import sys

if __name__ == "__main__" and not sys.flags.isolated:  # else files beside this one are run in place of Python's own
    sys.exit("error: Python must not import from this folder. Run: python3 -I verify.py ARCHIVE DIGEST")

import gzip
import hashlib
import re
import tarfile
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

FOLDER = "rlvo-model"
"""The folder that an archive unpacks to."""
MOST_FILES, MOST_BYTES = 100_000, 64 * 2**30
"""What an archive may hold at most, unpacked."""
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\\:]")


DAMAGED = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile)
"""What reading an archive or a file of it raises if it is no whole gzip-compressed tar archive."""


class ArchiveError(Exception):
    """It is not the archive that is meant, or none that may be unpacked."""


def packed_files(archive: Path, digest: str) -> Iterator[tuple[str, int, BufferedReader]]:
    """The files of an archive: path below its folder, size, content to read before the next one is asked for.

    Args:
        digest: SHA-256 of the archive, hex.

    Raises:
        ArchiveError: the archive has another digest, or holds anything but files with harmless names.
        DAMAGED: it is not whole.
        OSError: it cannot be read.
    """
    if not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise ArchiveError("the digest is no SHA-256: 64 characters 0-9 and a-f")
    with archive.open("rb") as raw:
        if hashlib.file_digest(raw, "sha256").hexdigest() != digest.lower():
            raise ArchiveError("it is not the archive that this digest belongs to, or was altered")
        raw.seek(0)  # the same open file, so that what was checked is what is read
        # tarfile's own "r|gz" takes an archive that is cut off within a header for whole; gzip does not.
        with gzip.open(raw) as whole, tarfile.open(fileobj=whole, mode="r|") as tar:
            yield from _checked(tar)
            while whole.read(2**20):  # to its checksum
                pass


def _checked(tar: tarfile.TarFile) -> Iterator[tuple[str, int, BufferedReader]]:
    seen: set[str] = set()
    total = 0
    for entry in tar:
        folder, _, name = entry.name.partition("/")
        parts = name.split("/")
        if folder != FOLDER or not {"", ".", ".."}.isdisjoint(parts) or UNPRINTABLE.search(name):
            raise ArchiveError(f"it holds a file with a name that is refused: {entry.name!r}")
        if not entry.isreg() or entry.issparse():
            raise ArchiveError(f"it holds something that is no ordinary file: {entry.name!r}")
        if name.casefold() in seen or any("/".join(parts[:end]).casefold() in seen for end in range(1, len(parts))):
            raise ArchiveError(f"it holds a file twice: {entry.name!r}")
        seen.add(name.casefold())
        total += entry.size
        if len(seen) > MOST_FILES or total > MOST_BYTES:
            raise ArchiveError(f"it holds more than {MOST_FILES} files, or more than {MOST_BYTES} bytes")
        content = tar.extractfile(entry)
        assert isinstance(content, BufferedReader)  # as it is an ordinary file
        yield name, entry.size, content


def find_change(folder: Path, archive: Path, digest: str) -> str | None:
    """What is not as it was packed; None if everything is."""
    names = set()
    for name, _, content in packed_files(archive, digest):
        names.add(name)
        path = folder / name
        if path.is_symlink() or not path.is_file():
            return f"{name} is missing"
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").digest() != hashlib.file_digest(content, "sha256").digest():
                return f"{name} was altered since it was packed"
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    added = sorted({path.relative_to(folder).as_posix() for path in found} - names)
    return f"{added[0]} was added since the model was packed" if added else None


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print("usage: python3 -I verify.py ARCHIVE DIGEST", file=sys.stderr)
        sys.exit(2)
    try:
        what = find_change(Path(__file__).resolve().parent, Path(sys.argv[1]), sys.argv[2])
    except (ArchiveError, OSError, *DAMAGED) as error:
        what = f"{sys.argv[1]}: {error}"
    if what:
        sys.exit(f"error: {what}. Do not use this model")
    print("every file is as it was packed, and there is no other")

"""Which files that name patients others than their owner may read."""

import gzip
from pathlib import Path


def open_to_others(folder: Path, *names: str) -> list[str]:
    """Files below a folder that others may read or write and whose name or content holds one of these names."""
    words = [name.encode() for name in names]
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
    return [str(path) for path in files if any(word in path.name.encode() + b"\n" + _content(path) for word in words)]


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" else content

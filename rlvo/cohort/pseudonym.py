"""Pseudonyms: in MLflow a patient is named by an HMAC whose key stays beside the cohort."""

import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path

from rlvo.errors import RlvoError

KEY_FILE = ".rlvo-pseudonym-key"
KEY_BYTES = 32


def pseudonym(patient: str, key: bytes) -> str:
    """Return `p-` and the first 12 hex digits of HMAC-SHA256(key, patient id)."""
    return f"p-{hmac.new(key, patient.encode(), hashlib.sha256).hexdigest()[:12]}"


def cohort_key(folder: Path) -> bytes:
    """Read the cohort's key from `.rlvo-pseudonym-key` in the table's folder; make one (mode 0600) if there is none.

    Raises:
        RlvoError: the file cannot be read or written, or is not a key.
    """
    path = folder / KEY_FILE
    try:
        if not path.exists():
            _create(path)
        key = bytes.fromhex(path.read_text(encoding="ascii"))
    except ValueError:
        key = b""
    except OSError as error:
        what = f"the pseudonym key cannot be read or written ({error.strerror})"
        raise RlvoError(what, where=path, fix="Make the folder writable") from None
    if len(key) != KEY_BYTES:
        raise RlvoError("not a pseudonym key", where=path, fix="Restore the file; with a new key all pseudonyms change")
    return key


def _create(path: Path) -> None:
    """Write a new key, whole or not at all; a key that another process put there first stays."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mkstemp gives mode 0600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(temporary)

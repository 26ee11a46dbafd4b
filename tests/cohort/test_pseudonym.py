import hashlib
import hmac
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlvo.cohort.pseudonym import KEY_FILE, cohort_key, pseudonym
from rlvo.errors import RlvoError


def test_a_pseudonym_is_an_hmac_of_the_id() -> None:
    key = bytes(range(32))
    assert pseudonym("García-007", key) == "p-" + hmac.new(key, "García-007".encode(), hashlib.sha256).hexdigest()[:12]
    assert pseudonym("García-007", key) != pseudonym("García-007", bytes(32))


def test_the_key_is_made_once_private_and_kept(tmp_path: Path) -> None:
    key = cohort_key(tmp_path)
    assert len(key) == 32
    assert cohort_key(tmp_path) == key
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]


def test_many_at_once_agree_on_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(cohort_key, [tmp_path] * 32))) == 1


def test_a_damaged_key_or_a_missing_folder_is_refused(tmp_path: Path) -> None:
    for content in ("", "not hex", "abcd"):
        (tmp_path / KEY_FILE).write_text(content)
        with pytest.raises(RlvoError, match="not a pseudonym key"):
            cohort_key(tmp_path)
    with pytest.raises(RlvoError, match="cannot be read or written"):
        cohort_key(tmp_path / "none")

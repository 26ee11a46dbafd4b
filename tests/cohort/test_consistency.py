from pathlib import Path

import pytest
from support.malformed import IDS, VALUES, check_refused

SUSPICIOUS = {**IDS, **VALUES}


@pytest.mark.parametrize("name", SUSPICIOUS)
def test_a_table_that_is_suspicious_as_a_whole_is_refused(name: str, tmp_path: Path) -> None:
    check_refused(SUSPICIOUS[name], tmp_path)

"""A small, sound cohort to start from."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.append(str(Path(__file__).parent))  # for `malformed`, which is no test

from malformed import sound_rows


@pytest.fixture
def rows() -> pd.DataFrame:
    """40 patients, every predictor and outcome, as text; 12 rLVO."""
    return sound_rows()

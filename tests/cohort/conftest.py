"""A small, sound cohort to start from."""

import pandas as pd
import pytest
from support.malformed import sound_rows


@pytest.fixture
def rows() -> pd.DataFrame:
    """40 patients, every predictor and outcome, as text; 12 rLVO."""
    return sound_rows()

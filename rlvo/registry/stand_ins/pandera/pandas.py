"""A stand-in for the parts of pandera that models registered by earlier versions of rlvo use.

A registered model runs the copy of rlvo it was registered with. Earlier copies check the cells of a table with pandera,
which is no longer installed along with rlvo. `rlvo.registry.process` therefore offers this folder to a model's
process, behind everything that is installed, so that a real pandera is preferred.
"""

from collections.abc import Callable, Collection
from types import SimpleNamespace

import pandas as pd

Passed = Callable[[pd.Series], pd.Series]
"""Which values satisfy a check."""


class SchemaErrors(Exception):  # noqa: N818 (pandera's name)
    def __init__(self, failed: pd.Index) -> None:
        self.failure_cases = pd.DataFrame({"index": failed})


class Check:
    @staticmethod
    def isin(allowed: Collection[object]) -> Passed:
        return lambda values: values.isin(allowed)

    @staticmethod
    def in_range(low: float, high: float) -> Passed:
        return lambda values: values.between(low, high)


class SeriesSchema:
    def __init__(self, checks: Passed, nullable: bool) -> None:
        self._passed = checks

    def validate(self, values: pd.Series, lazy: bool) -> None:
        failed = values.notna() & ~self._passed(values)
        if failed.any():
            raise SchemaErrors(values.index[failed])


errors = SimpleNamespace(SchemaErrors=SchemaErrors)

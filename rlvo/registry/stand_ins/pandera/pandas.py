"""A stand-in for the parts of pandera that models registered by earlier versions of rlvo use.

A registered model runs the copy of rlvo it was registered with. Earlier copies check the cells of a table with pandera,
which is no longer installed along with rlvo. `rlvo.registry.interpreter` therefore offers this folder to a model's
process, behind everything that is installed, so that a real pandera is preferred.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import SimpleNamespace

import pandas as pd


class SchemaErrors(Exception):  # noqa: N818 (pandera's name)
    """Values fail a check; `failure_cases["index"]` says which."""

    def __init__(self, failure_cases: pd.DataFrame) -> None:
        self.failure_cases = failure_cases


errors = SimpleNamespace(SchemaErrors=SchemaErrors)


@dataclass(frozen=True)
class Check:
    """What a value must satisfy, unless it is missing."""

    passed: Callable[[pd.Series], pd.Series]

    @classmethod
    def isin(cls, allowed: Collection[object]) -> Check:
        return cls(lambda values: values.isin(allowed))

    @classmethod
    def in_range(cls, low: float, high: float) -> Check:
        return cls(lambda values: values.between(low, high))


@dataclass(frozen=True)
class SeriesSchema:
    """Applies one check to a column. Earlier copies always set both flags, so neither has an effect here."""

    checks: Check
    nullable: bool

    def validate(self, values: pd.Series, lazy: bool) -> None:
        failed = values.index[values.notna() & ~self.checks.passed(values)]
        if len(failed):
            raise SchemaErrors(pd.DataFrame({"index": failed}))

"""Predictors of one's own: columns of a table that rlvo does not know, declared in a study."""

import operator
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from rlvo.config.base import Section

PAPER_PREDICTORS = (
    "age", "sex", "hypertension", "dyslipidemia", "diabetes", "smoking", "atrial_fibrillation", "nihss", "ivt",
    "unwitnessed_onset", "occlusion_side", "occlusion_site", "cbf_lt30_ml", "tmax_gt4_ml", "tmax_gt6_ml",
    "tmax_gt10_ml", "hir", "tmax4_tmax6_ratio",
)  # fmt: skip
"""The 18 predictors of section 2.2.2; `hir` and `tmax4_tmax6_ratio` are derived."""


class OwnPredictor(Section):
    """A column that rlvo does not know, and what it may hold. It must be known before the procedure."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,49}$")]
    """Its name: small letters, digits and underscores."""
    kind: Literal["continuous", "binary", "ordinal", "categorical"]
    """A number; 0 or 1, or one of two levels; levels in an order, encoded by their rank; levels without an order."""
    unit: Annotated[str | None, Field(exclude_if=operator.not_)] = None
    """Of a continuous one, e.g. `mm3`; `points`: whole numbers only."""
    range: Annotated[tuple[float, float] | None, Field(exclude_if=operator.not_)] = None
    """The lowest and highest plausible value of a continuous one, in its unit; others are findings."""
    levels: Annotated[tuple[str, ...], Field(exclude_if=operator.not_)] = ()
    """What a cell may hold: of an ordinal one the lowest first; of a categorical one first the level that the others
    are compared with; of a binary one the second counts as 1."""
    source: Annotated[str | None, Field(exclude_if=operator.not_)] = None
    """The table's name for the column, if it has another; `cohort.columns` takes precedence."""

    @field_validator("levels", mode="before")
    @classmethod
    def _as_text(cls, levels: Any) -> Any:
        """Levels as they are written: 0 is "0"."""
        if not isinstance(levels, list | tuple):
            return levels
        if any(isinstance(level, bool) or level is None for level in levels):
            raise ValueError("a level is a word or a number; write 'true', 'false' and 'null' in quotes")
        return [str(level) if isinstance(level, int | float) else level for level in levels]

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind == "continuous":
            if self.levels:
                raise ValueError(f"{self.name}: a continuous predictor has a range, not levels")
            if self.range is None or not self.range[0] < self.range[1]:
                raise ValueError(f"{self.name}: give its range, [lowest, highest] plausible value")
            return self
        if self.unit is not None or self.range is not None:
            raise ValueError(f"{self.name}: only a continuous predictor has a unit and a range")
        if self.levels or self.kind != "binary":
            plain = [level.strip().lower() for level in self.levels]
            if [*self.levels] != [level.strip() for level in self.levels] or not all(plain):
                raise ValueError(f"{self.name}: a level is empty, or begins or ends with a blank")
            if len({*plain}) < len(plain):
                raise ValueError(f"{self.name}: two levels are the same but for capitals")
            if len(plain) < 2 or (self.kind == "binary" and len(plain) > 2):
                raise ValueError(f"{self.name}: give {'two' if self.kind == 'binary' else 'two or more'} levels")
        return self


NAME, OWN = "a name", "a declaration"


def _kind(predictor: Any) -> str:
    return OWN if isinstance(predictor, dict | OwnPredictor) else NAME


Name = Annotated[str, Field(json_schema_extra={"enum": list(PAPER_PREDICTORS)})]
Predictor = Annotated[Annotated[Name, Tag(NAME)] | Annotated[OwnPredictor, Tag(OWN)], Discriminator(_kind)]
"""A predictor's name (whether there is one of this name is checked when the table is read), or one of one's own."""

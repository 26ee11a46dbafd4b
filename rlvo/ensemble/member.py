"""A trained trial as an ensemble uses it."""

from __future__ import annotations

from rlvo.config.base import Frozen
from rlvo.config.model import Configuration, Modality


class MemberSpec(Frozen):
    """A trial (configuration × fold) and what its own validation patients say about it."""

    configuration: Configuration
    fold: int
    threshold: float
    """Youden's threshold of the member's validation probabilities."""
    tpr: float
    """True positive rate at that threshold, on the same patients."""
    tnr: float
    better_than_chance: bool
    """False where no threshold separates the classes better than chance."""

    @property
    def key(self) -> str:
        """Names the member in predictions and files."""
        return member_key(self.configuration, self.fold)

    @property
    def modality(self) -> Modality:
        return self.configuration.model.modality


def member_key(configuration: Configuration, fold: int) -> str:
    """`<configuration key>-f<fold>`, as training writes it into its predictions."""
    return f"{configuration.key}-f{fold}"

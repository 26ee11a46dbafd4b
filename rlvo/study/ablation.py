"""Models B and C of a study (section 3.2): what they go without, frozen, and the studies that train them.

Each is a study of its own in the same work folder: the configurations of the study's own ensemble, fewer predictors,
the same hold-out and folds. Model B has the same patients; Model C also trains on those whom the study excluded only
for want of what B goes without.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from rlvo.config.base import Frozen, by_path
from rlvo.config.model import AUXILIARY, Configuration, auxiliary_targets
from rlvo.config.sections import AblationConfig, SearchConfig
from rlvo.config.space import Scalar, Space
from rlvo.config.study import StudyConfig
from rlvo.errors import RlvoError
from rlvo.files import atomic_write
from rlvo.study.folder import StudyFolder

Drop = int | tuple[str, ...] | None


class AblationPlan(Frozen):
    """What was decided on validation patients, before anything was trained."""

    asked: Drop
    """`ablation.drop` at the time."""
    configurations: tuple[str, ...]
    """Keys of the study's own ensemble's configurations."""
    dropped: tuple[str, ...]
    """The predictors that go."""
    rule: str
    """How they were chosen, in words."""
    ranking: tuple[dict[str, Any], ...] = ()
    """One row per predictor, the most important first; none if the predictors were named."""
    perfusion: tuple[float, float] | None = None
    """Mean and SD of the loss of AUC if all of CT perfusion is shuffled together."""
    recovered: int
    """How many patients Model C trains on besides; if none, there is no Model C."""
    b: str
    """Name of Model B's study."""
    c: str
    """Name of Model C's."""

    @property
    def models(self) -> dict[str, str]:
        """The names of the studies that there are, by model."""
        return {"B": self.b, **({"C": self.c} if self.recovered else {})}


def write_plan(study: StudyFolder, plan: AblationPlan) -> None:
    """Freeze the plan in the folder of the study it is about."""
    atomic_write(study.ablation, plan.model_dump_json(indent=1))


def read_plan(study: StudyFolder) -> AblationPlan | None:
    """The study's plan; None if there is none. Raises RlvoError if the file is damaged."""
    try:
        return AblationPlan.model_validate_json(study.ablation.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        fix = f"Delete it: `{study.command('ablate')}` chooses the variables anew"
        raise RlvoError("damaged, or written by another version of rlvo", where=study.ablation, fix=fix) from None


def reduced_study(
    study: StudyConfig,
    name: str,
    dropped: Sequence[str],
    configurations: Sequence[Configuration],
    *,
    train_others: bool = False,
) -> StudyConfig:
    """The study that trains some of a study's configurations without some of its predictors.

    Args:
        study: as it was frozen.
        name: of the new study.
        dropped: predictors to go without.
        configurations: of the study's space.
        train_others: whether recovered patients train, too (Model C).

    Raises:
        RlvoError: the networks need a dropped predictor to turn the head to the affected side, or nothing is left that
            auxiliary heads could learn or a clinical regression be fitted to.
    """
    if "occlusion_side" in dropped and any(each.model.side != "as_is" for each in configurations):
        what = "its networks are shown the affected side (model.side) and cannot go without occlusion_side"
        raise RlvoError(what, where=study.name, fix="Name other predictors to drop, or search with model.side: as_is")
    if needed := {*dropped} & {name for each in configurations for name in each.model.looked_up}:
        what = f"its networks look at the occlusion (model.crop) and cannot go without {min(needed)}"
        raise RlvoError(what, where=study.name, fix="Name other predictors to drop, or search without that crop")
    predictors = zip(study.cohort.names, study.cohort.predictors, strict=True)
    kept = {name: predictor for name, predictor in predictors if name not in dropped}
    if any(
        each.training.auxiliary and not auxiliary_targets([*kept], each.model.side, each.model.crop)
        for each in configurations
    ):
        what = "its networks have auxiliary heads (training.auxiliary), for which no predictor would be left"
        raise RlvoError(what, where=study.name, fix=f"Keep one of {', '.join(AUXILIARY)}, or search without heads")
    if not kept and any(each.needs_clinical_logits for each in configurations):
        what = "its networks learn to add to a regression of the predictors, of which none would be left"
        raise RlvoError(what, where=study.name, fix="Keep a predictor")
    search, folds = study.search, {"of_study": study.name, "others": "train" if train_others else "leave_out"}
    return study.model_copy(
        update={
            "name": name,
            "cohort": study.cohort.model_copy(update={"predictors": tuple(kept.values())}),
            "space": Space(points=tuple(_point(study, each) for each in dict.fromkeys(configurations))),
            "search": SearchConfig(
                concurrent_trials=search.concurrent_trials, max_failures=search.max_failures, storage=search.storage
            ),
            "folds": study.folds.model_copy(update=folds),
            "ablation": AblationConfig(),
        }
    )


def _point(study: StudyConfig, configuration: Configuration) -> dict[str, Scalar]:
    """A configuration's place in the study's space."""
    values: dict[str, Any] = by_path(configuration.model_dump())
    place = {path: values[path] for path in (*study.space.enumerated, *study.space.sample)}
    return {path: value for path, value in place.items() if study.is_active(path, place)}

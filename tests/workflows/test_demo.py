"""The best AUC that an ensemble of the demo can reach."""

import pytest

from rlvo.config.loading import parse_study
from rlvo.ensemble.spec import EnsembleSpec, FoldSpec, MemberSpec
from rlvo.workflows.demo import ceiling


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ([("NCCT", "none")], "ncct"),
        ([("CTA", "daft")], "cta_clinical"),
        ([("BOTH", "none")], "both"),
        ([("NCCT", "none"), ("CTA", "none")], "both"),
        ([("NCCT", "daft"), ("BOTH", "none")], "bayes"),
    ],
)
def test_the_ceiling_is_that_of_what_the_members_see(models: list[tuple[str, str]], expected: str) -> None:
    study = parse_study({"name": "s"})
    members = tuple(
        MemberSpec(
            configuration=study.configuration({"model.modality": modality, "model.fusion": fusion}),
            fold=0,
            threshold=0.5,
            tpr=1.0,
            tnr=1.0,
            better_than_chance=True,
        )
        for modality, fusion in models
    )
    fold = FoldSpec(fold=0, members=members, threshold=0.5, better_than_chance=True)
    spec = EnsembleSpec(folds=(fold,), weighting="mean", tie="negative", split_hash="", data_hash="")
    names = ("ncct", "cta", "both", "ncct_clinical", "cta_clinical", "bayes")
    ceilings = {name: float(number) for number, name in enumerate(names)}
    assert ceiling(spec, ceilings) == ceilings[expected]

"""Table 4 of a report: Models A, B and C, if the study has them."""

from collections.abc import Iterator

from rlvo.cohort.labels import names_in_words
from rlvo.report.ablation import dropped_exhibit
from rlvo.report.exhibit import Section
from rlvo.workflows.ablation_results import read_ablation
from rlvo.workflows.study import ReadStudy


def ablation_sections(study: ReadStudy) -> Iterator[Section]:
    """What `rlvo ablate` has shown; nothing before it has ended. Raises RlvoError if files are damaged."""
    if (found := read_ablation(study)) is None:
        return
    plan, regained = found.plan, int(found.patients["training_only"].iloc[-1])
    text = f"Model B goes without {names_in_words(plan.dropped)}. "
    if regained:
        text += (
            f"Model C is Model B, also trained on {regained} patients whom the study excluded only for "
            "want of these variables; they validate and test nothing."
        )
    else:
        text += "No patient was excluded only for want of these variables, so there is no Model C."
    exhibits = [exhibit for each in (found.holdout, found.nested) if each is not None for exhibit in each.exhibits]
    variables = dropped_exhibit(plan.ranking, plan.dropped, plan.rule, plan.perfusion)
    yield Section("ablation", "Fewer variables, more patients (Models A, B and C)", [text], [*exhibits, variables])

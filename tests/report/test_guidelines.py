"""Every item of the guidelines is there once, and is answered by the page or left to the authors."""

import pandas as pd
from matplotlib.figure import Figure

from rlvo.report.exhibit import Exhibit, Section
from rlvo.report.guidelines import guidelines_section, read_items


def test_every_item_is_there_once_and_answered_or_left_to_the_authors() -> None:
    items = read_items()
    numbers = {str(name): own["item"].tolist() for name, own in items.groupby("guideline")}
    assert numbers["CLAIM 2024"] == [str(number) for number in range(1, 45)]
    tripod = numbers["TRIPOD+AI"]
    assert list(dict.fromkeys(int(item.rstrip("abcdefg")) for item in tripod)) == list(range(1, 28))
    assert len(tripod) == len(set(tripod)) == 52
    assert ((items["section"] != "") | (items["left"] != "")).all()
    assert (items.loc[items["section"] == "", "exhibits"] == "").all()


def test_an_item_is_answered_by_what_the_page_has() -> None:
    flow = Exhibit("cohort-flow", "Cohort flow", pd.DataFrame({"a": [1]}), figure=Figure())
    found = guidelines_section([Section("cohort", "Patients", exhibits=[flow])], {"trust": "How far to trust it"})
    tripod, claim = (each.shown for each in found.exhibits)
    assert tripod is not None
    assert claim is not None
    answered = tripod.set_index("Item")["On this page"]
    assert answered["6b"] == answered["20a"] == "Patients: Cohort flow"
    assert answered["12a"] == "Patients: Cohort flow"
    assert answered["23a"] == "not on this page yet"
    assert answered["17"] == ""
    assert answered["26"] == "How far to trust it"
    assert all("Compared, item by item" in each.caption for each in found.exhibits)
    assert [each.name for each in found.exhibits] == ["guideline-tripod-ai", "guideline-claim"]

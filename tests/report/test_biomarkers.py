"""The section about biomarkers: counts and quartiles of the right patients, no names, no outcome of the hold-out."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from rlvo.imaging.biomarkers import DECLARED
from rlvo.report.biomarkers import TITLES, biomarkers_section
from rlvo.report.exhibit import Section
from rlvo.report.style import svg
from rlvo.report.table_one import ABSENT

PATIENTS, HELD_OUT = 60, 12
IDS = [f"PLANTED-{number}" for number in range(PATIENTS)]
DEVELOPMENT = IDS[HELD_OUT:]


@pytest.fixture
def measured() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({name: rng.normal(0, 10, PATIENTS) for name in DECLARED}, index=IDS)
    table["doubts"], table["side"], table["unreadable"] = "", "left", 0
    table.loc[IDS[10:14], ["clot_hu", "doubts"]] = [np.nan, "no CTA: clot, filling and collaterals were not measured"]
    return table


@pytest.fixture
def label() -> pd.Series:
    return pd.Series(np.arange(PATIENTS) % 3 == 0, index=IDS).astype(int)


def text(section: Section) -> str:
    tables = [frame.to_csv(index=False) for each in section.exhibits for frame in (each.table, each.shown)]
    return "\n".join([*section.text, *tables, *(svg(each.figure) for each in section.exhibits if each.figure)])


def test_numbers_are_those_of_the_development_patients(measured: pd.DataFrame, label: pd.Series) -> None:
    section = biomarkers_section(measured, label, DEVELOPMENT, None)
    rows = section.exhibits[0].table.set_index("biomarker")
    assert [*rows.index] == [*DECLARED]
    assert rows["measured"].to_dict() == dict.fromkeys(DECLARED, PATIENTS) | {"clot_hu": PATIENTS - 4}
    assert rows.loc["clot_hu", "not_measured"] == "no CTA: 4"
    own = measured.loc[DEVELOPMENT]
    for name in DECLARED:
        for group, value in (("rlvo", 1), ("other", 0)):
            values = own.loc[label[DEVELOPMENT] == value, name]
            assert rows.loc[name, f"{group}_patients"] == values.count()
            for what, share in (("q1", 0.25), ("median", 0.5), ("q3", 0.75)):
                assert rows.loc[name, f"{group}_{what}"] == pytest.approx(values.quantile(share))
    shown = section.exhibits[0].shown
    assert shown is not None
    assert shown.iloc[0].tolist() == ["Patients", "60", "", "16", "32"]
    low, high = rows.loc["clot_hu", ["other_q1", "other_q3"]]
    assert shown.iloc[4].tolist()[-1].endswith(f"({low:.2f} to {high:.2f})")


def test_the_hold_outs_outcomes_play_no_part_and_nobody_is_named(measured: pd.DataFrame, label: pd.Series) -> None:
    flipped = label.where(label.index.isin(DEVELOPMENT), 1 - label)
    assert not flipped.equals(label)
    told = text(biomarkers_section(measured, label, DEVELOPMENT, None))
    assert told == text(biomarkers_section(measured, flipped, DEVELOPMENT, None))
    assert told != text(biomarkers_section(measured, 1 - label, DEVELOPMENT, None))
    assert "PLANTED" not in told


def test_sides_that_disagree_and_cells_that_cannot_be_are_counted(measured: pd.DataFrame, label: pd.Series) -> None:
    side = pd.Series("left", index=IDS).mask(np.arange(PATIENTS) < 7, "right").mask(np.arange(PATIENTS) > 49)
    measured.loc[IDS[0], ["side", "unreadable"]] = [np.nan, 3]
    words = "\n".join(biomarkers_section(measured, label, DEVELOPMENT, side).text)
    assert "another than occlusion_side in 6 of the 49 patients" in words
    assert "count as not measured: 3." in words
    assert "4 of the 60 included patients have a doubt" in words
    alike = pd.Series("left", index=IDS)
    assert (
        "in 0 of the 59 patients in whom both are known."
        in biomarkers_section(measured, label, DEVELOPMENT, alike).text[1]
    )


def test_what_was_measured_in_nobody_is_not_drawn(measured: pd.DataFrame, label: pd.Series) -> None:
    few = measured[["clot_hu", "collaterals", "doubts", "side", "unreadable"]].assign(collaterals=np.nan)
    table = biomarkers_section(few, label, DEVELOPMENT, None).exhibits[0]
    assert table.shown is not None
    assert table.shown.iloc[2].tolist()[2:] == ["no reason given: 56; no CTA: 4", ABSENT, ABSENT]
    assert isinstance(table.figure, Figure)
    titles = [axes.get_title() for axes in table.figure.axes]
    assert titles == [TITLES["clot_hu"], "", "", "", ""]
    assert biomarkers_section(few.assign(clot_hu=np.nan), label, DEVELOPMENT, None).exhibits[0].figure is None

"""What imaging biomarkers add to the table, and what is left of it if the place or the side of the occlusion is wrong.

`python -m benchmarks.biomarker_learning WORK` draws cohorts with heads of 1 mm, measures them as `rlvo prepare
--biomarkers` does, and fits the ridge regression of `all clinical, ridge` to the table, to the biomarkers, to both, and
to the table with those of clot and stump. Each is asked about FRESH further patients. No network is trained. A patient
takes 1 to 2 s per way to be measured; run again, it continues, and `--seeds` lets several processes share the work.
What was found stays in biomarker_learning.csv beside this file, one row per cohort, number of patients and way.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from benchmarks.biomarkers import grid_of
from rlvo.cohort.encoding import fit_encoder
from rlvo.cohort.reading import Cohort, read_cohort
from rlvo.config.predictors import PAPER_PREDICTORS
from rlvo.files import atomic_write, csv_text, read_csv
from rlvo.imaging.alignment.registration import RegisteredScan
from rlvo.imaging.biomarkers import PREFIX, declarations, measure
from rlvo.imaging.cohort_biomarkers import on_box
from rlvo.imaging.volume import Volume
from rlvo.progress import Advance
from rlvo.report.console import show_progress
from rlvo.synthetic.cohort import SyntheticPatients, draw_patients
from rlvo.synthetic.outcome import get_profile
from rlvo.synthetic.phantom import make_phantom
from rlvo.training.baseline import fit_table_model

SEEDS, FRESH_SEED = range(201, 206), 1000
STUDY, FRESH, COUNTS = 480, 2000, (120, 240, 480)
BLOCK = 40
"""Patients that are measured before a file is written."""
RIGHT = "right place"
DISPLACED_MM = {RIGHT: 0.0, "5 mm wrong": 5.0, "10 mm wrong": 10.0}
"""Ways to measure: by how much the heads lie elsewhere than registration says, in any direction."""
WRONG_SIDES, OTHER = 0.05, {"left": "right", "right": "left"}
BIOMARKERS = tuple(each.name for each in declarations())
OCCLUSION = tuple(f"biomarkers_{name}" for name in ("clot_excess_hu", "clot_mm", "taper_mm"))
TABLE, BOTH, FEW = "table", "table + biomarkers", "table + clot and stump"
PREDICTORS = {
    TABLE: PAPER_PREDICTORS,
    "biomarkers": BIOMARKERS,
    BOTH: (*PAPER_PREDICTORS, *BIOMARKERS),
    FEW: (*PAPER_PREDICTORS, *OCCLUSION),
}
FACTS = ["profile", "seed", "patients", "way"]
MEASURED = Path(__file__).with_suffix(".csv")


def draw(profile: str, seed: int) -> SyntheticPatients:
    """The patients of a cohort, or those who are new to all of them."""
    return draw_patients(FRESH if seed == FRESH_SEED else STUDY, get_profile(profile), seed)


def measure_patients(profile: str, seed: int, ways: Sequence[str], work: Path, advance: Advance) -> None:
    """Measure a cohort's patients in each of the ways that are not there yet: CSV files of `BLOCK` patients."""
    drawn = draw(profile, seed)
    for first in range(0, len(drawn.lesions), BLOCK):
        path = work / f"{profile}-{seed}" / f"{first:05d}.csv"
        known = _read(path) if path.exists() else pd.DataFrame({"way": []})
        if missing := [way for way in ways if way not in set(known["way"])]:
            numbers = range(first, min(first + BLOCK, len(drawn.lesions)))
            rows = [row for number in numbers for row in _measure(drawn, number, profile, seed, missing)]
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, csv_text(pd.concat([known, pd.DataFrame(rows)], ignore_index=True)))
        advance(min(first + BLOCK, len(drawn.lesions)), len(drawn.lesions))


def _measure(
    drawn: SyntheticPatients, number: int, profile: str, seed: int, ways: Sequence[str]
) -> Iterator[dict[str, object]]:
    """One patient's biomarkers, in each way; of those whose side the table will have wrong also with that side."""
    rng, grid, lesion = np.random.default_rng([seed, number]), grid_of(1.0), drawn.lesions[number]
    direction, is_wrong = rng.normal(size=3), bool(rng.random() < WRONG_SIDES)
    phantom = make_phantom(lesion, grid, rng, full_images=get_profile(profile).full_images)
    for way in ways:
        affine = grid.affine.copy()
        affine[:3, 3] += DISPLACED_MM[way] * direction / np.linalg.norm(direction)
        ncct, cta = (
            on_box(RegisteredScan(Volume(np.asfortranarray(hu, dtype=np.float32), affine), np.eye(4)))
            for hu in (phantom.ncct, phantom.cta)
        )
        sides = {lesion.side: False} | ({OTHER[lesion.side]: True} if is_wrong and way == RIGHT else {})
        for side, wrong in sides.items():
            values = measure(ncct, cta, side=side, site=lesion.site).values
            told = {"patient_id": drawn.table["patient_id"][number], "way": way, "wrong_side": wrong}
            yield told | {PREFIX + name: value for name, value in values.items()}


def _read(path: Path) -> pd.DataFrame:
    return read_csv(path, {"patient_id": "str", "way": "str", "wrong_side": "bool"})


def cohort(profile: str, seed: int, way: str, work: Path, *, wrong_sides: bool = False) -> Cohort:
    """The table with biomarkers, read and checked like a user's.

    Args:
        wrong_sides: the table gives `WRONG_SIDES` of the patients the other side, and so they were measured.
    """
    table = draw(profile, seed).table.set_index("patient_id")
    found = pd.concat(map(_read, sorted((work / f"{profile}-{seed}").glob("*.csv")))).set_index("patient_id")
    found = found[found["way"] == way]
    told = found[~found["wrong_side"]]
    if wrong_sides:
        wrong = found[found["wrong_side"]]
        told = pd.concat([told.drop(wrong.index), wrong])
        table.loc[wrong.index, "occlusion_side"] = table.loc[wrong.index, "occlusion_side"].map(OTHER)
    path = work / f"{profile}-{seed}.csv"
    atomic_write(path, csv_text(table.join(told.drop(columns=["way", "wrong_side"])).reset_index()))
    return read_cohort(path, (*PAPER_PREDICTORS, *BIOMARKERS), declarations(), need_volumes=False)


def evaluate(known: Cohort, fresh: Cohort, patients: int) -> dict[str, float]:
    """AUC on the fresh patients of the ridge regression fitted to the first `patients`, by what it is given."""
    table, label = known.table.iloc[:patients], known.label.iloc[:patients]
    found = {}
    for name, predictors in PREDICTORS.items():
        encoder = fit_encoder(table, predictors, declarations())
        answers = fit_table_model(encoder, table, label).predict(encoder.transform(fresh.table))
        found[name] = float(roc_auc_score(fresh.label, answers))
    return found


def rows_of(profile: str, seed: int, way: str, work: Path) -> list[dict[str, object]]:
    """What was found with a cohort measured in a way; if in the right place, with some sides wrong too."""
    rows, cases = [], {way: False}
    if way == RIGHT:
        cases[f"{WRONG_SIDES:.0%} of sides wrong"] = True
    for name, wrong_sides in cases.items():
        known, fresh = (cohort(profile, each, way, work, wrong_sides=wrong_sides) for each in (seed, FRESH_SEED))
        facts = {"profile": profile, "seed": seed, "way": name}
        rows += [facts | {"patients": patients} | evaluate(known, fresh, patients) for patients in COUNTS]
    return rows


def keep(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Write rows to biomarker_learning.csv, in place of older ones of the same cohorts; returns all that are there."""
    known = read_csv(MEASURED, {"profile": "str", "way": "str"}) if MEASURED.exists() else pd.DataFrame()
    table = pd.concat([known, pd.DataFrame(rows)]).drop_duplicates(FACTS, keep="last").sort_values(FACTS)
    table[[*FACTS, *PREDICTORS]].to_csv(MEASURED, index=False, float_format="%.4f")
    return table


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean AUC over cohorts, and the paired gain over the table alone, each with its standard error."""
    gains = {f"gain of {name}": table[name] - table[TABLE] for name in (BOTH, FEW)}
    groups = table.assign(**gains).groupby(["profile", "way", "patients"], sort=False)
    found = groups[[*PREDICTORS, *gains]].agg(["mean", "sem"])
    found["cohorts", ""] = groups.size()
    return found


def main() -> None:
    """Draw, measure, fit, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.biomarker_learning", description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--profiles", nargs="+", default=["paper", "demo"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[FRESH_SEED, *SEEDS])
    parser.add_argument("--ways", nargs="+", choices=DISPLACED_MM, default=list(DISPLACED_MM))
    parser.add_argument("--only-measure", action="store_true", help="fit nothing: another process does")
    options = parser.parse_args()
    for profile, seed in product(options.profiles, options.seeds):
        with show_progress(f"{profile}, {seed}") as advance:
            measure_patients(profile, seed, options.ways, options.work, advance)
    if not options.only_measure:
        cohorts = product(options.profiles, [seed for seed in options.seeds if seed != FRESH_SEED], options.ways)
        table = keep([row for each in cohorts for row in rows_of(*each, options.work)])
        print(summary(table).T.to_string(float_format="{:.4f}".format))


if __name__ == "__main__":
    main()

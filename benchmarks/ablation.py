"""Whether more patients help: Models B and C where those without CT perfusion carry the same signal as the others.

`python -m benchmarks.ablation WORK [--seeds N] [--patients N]` writes the demo's cohort and, for each seed, takes CT
perfusion from half of its patients at random, trains the demo's BOTH network with DAFT on those who are left (Model A),
without CT perfusion (Model B), and once more with the others back (Model C), and opens the hold-out, which the three
share. Seeds draw anew who has perfusion, the hold-out, the folds and the weights. Run again, it continues.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from rlvo.cohort.variables import CTP, PERFUSION_VOLUMES
from rlvo.config.loading import load_study
from rlvo.config.study import StudyConfig
from rlvo.report.console import print_line, show_progress
from rlvo.synthetic.cohort import write_synthetic_cohort
from rlvo.workflows.api import Study

DEMO = Path(__file__).parents[1] / "tune_configs" / "demo.yaml"


def one_network(seed: int) -> StudyConfig:
    """The demo's network that sees both scans and the table, on folds of this seed."""
    content = load_study(DEMO).model_dump() | {"name": f"seed-{seed}", "seed": seed}
    content["folds"] |= {"seed": seed, "test_fraction": 0.25}
    content["space"]["enumerate"] = {"model.modality": ["BOTH"], "model.fusion": ["daft"]}
    content["mlflow"] |= {"registered_model": f"ablation-{seed}"}
    return StudyConfig.model_validate(content)


def benchmark_ablation(work: Path, seeds: int, patients: int) -> None:
    """Train and compare, and print AUCs by seed and their differences."""
    whole = work / "cohort" / "cohort.csv"
    if not whole.exists():
        with show_progress("synthetic patients") as advance:
            write_synthetic_cohort(whole.parent, patients=patients, profile="demo", seed=1, progress=advance)
    rows = []
    for seed in range(seeds):
        cells = pd.read_csv(whole, dtype=str)
        without = np.random.default_rng(seed).permutation(len(cells)) < len(cells) // 2
        cells.loc[without, list(PERFUSION_VOLUMES)] = None
        table = whole.with_name(f"half-{seed}.csv")
        cells.to_csv(table, index=False)
        study = Study(one_network(seed), cohort=table, workdir=work)
        study.search()
        if not study.folder.declared.exists():
            study.ensemble()
            study.ablate(drop=CTP, evaluate=True, reason="another seed")
        found = study.ablate(drop=CTP)
        for compared in filter(None, (found.nested, found.holdout)):
            answers = {letter: model.answers.dropna(subset="score") for letter, model in compared.models.items()}
            rows.append(
                {"seed": seed, "out_of_fold": compared.out_of_fold, "patients": len(answers["A"])}
                | {letter: roc_auc_score(own["label"], own["score"]) for letter, own in answers.items()}
            )
            print_line(str({name: round(value, 3) for name, value in rows[-1].items()}))
    table = pd.DataFrame(rows).assign(gain=lambda rows: rows["C"] - rows["B"])
    print_line(table.to_string(float_format="{:.3f}".format))
    print_line(table.groupby("out_of_fold")[["A", "B", "C", "gain"]].agg(["mean", "std"]).to_string())
    print_line(found.patients.to_string())


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Whether the patients whom Model C regains help it.")
    parser.add_argument("work", type=Path, help="work folder to make")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--patients", type=int, default=480)
    options = parser.parse_args()
    benchmark_ablation(options.work, options.seeds, options.patients)


if __name__ == "__main__":
    main()

"""A report's tables of a search: its best configurations, how its trials ended, and what they took."""

import math
from collections.abc import Sequence

import pandas as pd

from rlvo.report.console import format_mean_sd
from rlvo.report.exhibit import Exhibit

JOULES_PER_KWH = 3.6e6
MOST = 15
"""Configurations on the page at most; the CSV has all."""


def configurations_exhibit(trials: pd.DataFrame) -> Exhibit:
    """The configurations by their mean `val/auc` over folds and repeats (`training.repeat`), best first.

    Args:
        trials: one row per trial of a finished configuration: `configuration` (the key of its first repeat), `label`,
            `fold`, `epochs`, `seconds`, and its metrics at the best epoch (`val/auc`, …).
    """
    of_metrics = [name for name in map(str, trials.columns) if name.startswith("val/")]
    whole = trials.groupby(["configuration", "label"], sort=False)
    table = whole.agg(
        folds=("fold", "nunique"), trials=("fold", "size"), epochs=("epochs", "sum"), seconds=("seconds", "sum")
    )
    table.insert(1, "repeats", table.pop("trials") // table["folds"])
    of_folds = trials.groupby(["configuration", "label", "fold"], sort=False)[of_metrics].mean()
    grouped = of_folds.groupby(["configuration", "label"], sort=False)
    for metric in of_metrics:
        table[[f"{metric}_mean", f"{metric}_sd"]] = grouped[metric].agg(["mean", "std"])
    table["val/auc_se"] = table["val/auc_sd"] / table["folds"] ** 0.5
    table = table.sort_values("val/auc_mean", ascending=False, kind="stable").reset_index()
    headings = {"val/auc": "AUC", "val/balanced_accuracy": "balanced accuracy"}
    repeats = {"repeats": table["repeats"].map(str)} if (table["repeats"] > 1).any() else {}
    shown = pd.DataFrame(
        {
            "configuration": table["label"],
            "key": table["configuration"],
            **repeats,
            **{
                f"{heading} (optimistic)": [
                    format_mean_sd(*pair) for pair in table[[f"{metric}_mean", f"{metric}_sd"]].to_numpy()
                ]
                for metric, heading in headings.items()
                if metric in of_metrics
            },
            "SE of AUC": ["" if math.isnan(error) else f"{error:.3f}" for error in table["val/auc_se"]],
            "epochs": table["epochs"].map(str),
            "minutes": (table["seconds"] / 60).map("{:.1f}".format),
        }
    ).head(MOST)
    more = f"The first {MOST} of {len(table)}. " if len(table) > MOST else ""
    caption = (
        f"{more}Mean ± SD over the folds' validation patients, at each fold's best epoch (training.checkpoint)"
        f"{', of the mean over repeats' if repeats else ''}. SE: "
        "SD/√folds; it is too small, because folds share most of their training patients."
    )
    return Exhibit("best-configurations", "Configurations, best first", table, caption, "optimistic", shown)


def compute_exhibit(trials: pd.DataFrame) -> Exhibit:
    """How the trials ended, and what they took, by how they ended.

    Args:
        trials: one row per trial: `state`, `epochs` (how many ended), `planned` (how many a whole trial has), `seconds`
            (NaN if it left no record), `joules` (NaN if none were counted).
    """
    table = trials.groupby("state", sort=False).agg(
        trials=("state", "size"),
        epochs=("epochs", "sum"),
        epochs_planned=("planned", "sum"),
        seconds=("seconds", "sum"),
        energy_kwh=("joules", lambda joules: joules.sum(min_count=1) / JOULES_PER_KWH),
    )
    table.loc["all"] = table.sum(min_count=1)
    shown = table.reset_index().astype({"trials": int, "epochs": int, "epochs_planned": int})
    hours = (shown["seconds"] / 3600).map("{:.2f}".format)
    energy = shown["energy_kwh"].map("{:.3g}".format).where(shown["energy_kwh"].notna(), "not recorded")
    shown = shown.drop(columns=["seconds", "energy_kwh"]).astype(str).assign(hours=hours, energy=energy)
    columns = ["", "trials", "epochs trained", "epochs of whole trials", "hours of training", "energy, kWh"]
    shown.columns = pd.Index(columns)
    counted = int(trials["joules"].notna().sum())
    caption = "Hours are summed over trials, several of which may have run at once. " + (
        f"Energy: of {counted} of {len(trials)} trials, what the whole processors and GPU took while they ran, times "
        "their share of the device; without memory, fans, power supplies and the preparation."
        if counted
        else "Energy was not recorded: these machines let rlvo read no counter, and no estimate is given."
    )
    return Exhibit(
        "search-compute", "How the trials ended, and what they took", table.reset_index(), caption, None, shown
    )


def settings_exhibit(name: str, title: str, rows: Sequence[tuple[str, object]], caption: str = "") -> Exhibit:
    """Names and values."""
    table = pd.DataFrame([(key, _in_words(value)) for key, value in rows], columns=["name", "value"])
    return Exhibit(name, title, table, caption, None, table.rename(columns={"name": ""}))


def _in_words(value: object) -> str:
    """A list by its items, and of a declared predictor its name and what is declared of it."""
    if isinstance(value, list):
        return ", ".join(map(_in_words, value))
    if isinstance(value, dict) and "name" in value:
        declared = [f"{key} {_in_words(each)}" for key, each in value.items() if key != "name" and each is not None]
        return f"{value['name']} ({'; '.join(declared)})"
    return str(value)

"""A study on disk: the only module that spells a path inside a study's folder. `rlvo.study.trials` reads the trials.

```
study.json                the frozen configuration          search.lock     held by the process that runs the search
split.json  inputs.json   hold-out and folds; data hash     progress.json   what only that process knows
search.heartbeat          changes while it runs
optuna.journal            Optuna's proposals (or optuna.name: the study's name in a database)
trials/<configuration key>/configuration.json
trials/<configuration key>/fold-<k>/                        one trial: see `rlvo.training.records`, `usage`
ablation.json             what Models B and C go without, and where they are
ensemble/                 declared.json, the model folder, pictures, what openings of the hold-out showed
explanations/             sections of the report that take minutes to make
```
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from rlvo.config.base import content_hash
from rlvo.config.commands import command_line
from rlvo.config.loading import load_study
from rlvo.config.model import Configuration
from rlvo.config.shipped import shipped_studies
from rlvo.config.study import DEFAULTS, StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.errors import RlvoError
from rlvo.files import atomic_write, parse_json
from rlvo.training.records import RECORD, CompletionRecord, damaged, known_configuration

if TYPE_CHECKING:
    from rlvo.ensemble.spec import EnsembleSpec

CONFIGURATION = "configuration.json"


class Inside:
    """A file or folder at a fixed place inside a study's folder."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __get__(self, study: StudyFolder, owner: type) -> Path:
        return study.path / self._place


@dataclass(frozen=True)
class StudyFolder:
    """`studies/<name>/` of a work folder."""

    path: Path

    config = Inside("study.json")
    """The study's frozen configuration, written anew at every start."""
    split = Inside("split.json")
    inputs = Inside("inputs.json")
    progress = Inside("progress.json")
    lock = Inside("search.lock")
    heartbeat = Inside("search.heartbeat")
    """Exists while a search runs, or if it died."""
    journal = Inside("optuna.journal")
    name_in_database = Inside("optuna.name")
    """Work folders can share a database."""
    tune = Inside("tune")
    """Ray Tune's own state, which the journal and the records make redundant."""
    declared = Inside("ensemble/declared.json")
    """The ensembles that the study declares, frozen before its hold-out is opened."""
    model = Inside("ensemble/model")
    """The model folder of the study's own ensemble."""
    disagreement = Inside("ensemble/disagreement.json")
    """How much the folds of each ensemble disagree, by the ensemble's content hash: measured once."""
    reliability = Inside("ensemble/reliability")
    """The ensemble's reliability curve, without a suffix."""
    image_baselines = Inside("ensemble/linear-image.csv")
    """What the linear models of the volumes say of the patients whom they were not trained on."""
    image_models = Inside("ensemble/linear-image.json")
    """These models, which may be members of the ensemble."""
    holdout_figures = Inside("ensemble/holdout.json")
    """What the last opening of the hold-out showed; the predictions of its patients lie beside it."""
    holdout_answers = Inside("ensemble/holdout-answers.csv")
    holdout_members = Inside("ensemble/holdout-members.csv")
    holdout_calibration = Inside("ensemble/holdout-calibration")
    """Pictures, without a suffix; likewise the next one."""
    holdout_benefit = Inside("ensemble/holdout-decision-curve")
    explanations = Inside("explanations")
    """What the report shows of the ensemble's networks, one folder per section: made on request."""

    ablation = Inside("ablation.json")
    """Which predictors Models B and C go without, and the names of their studies."""

    def command(self, name: str, *arguments: object) -> str:
        """A command of rlvo about this study, for the user to run."""
        return command_line(name, self.path.name, *arguments, workdir=self.path.parent.parent)

    def trial(self, configuration: str, fold: int) -> Path:
        """The folder of one trial, by the configuration's key and the fold."""
        return Path(self.trial_place(configuration, fold))

    def trial_place(self, configuration: str, fold: int) -> str:
        """The same as text, because thousands are looked at."""
        return f"{self.path}/trials/{configuration}/fold-{fold}"

    def pretrained(self, sha256: str | None) -> Path | None:
        """The work folder's copy of the pretrained weights with this SHA-256; None if it is None."""
        return None if sha256 is None else Workdir(self.path.parent.parent).pretrained(sha256)

    def configurations(self) -> list[Path]:
        """The folders of the configurations that were started, by key."""
        with suppress(FileNotFoundError, PermissionError), os.scandir(self.path / "trials") as entries:
            return [Path(path) for path in sorted(entry.path for entry in entries if entry.is_dir())]
        return []

    def trials(self) -> list[Path]:
        """The folders of the trials that were started, by configuration and fold."""
        return sorted(path for path in self.path.glob("trials/*/fold-*") if path.is_dir())


def started_studies(studies: Path) -> list[StudyFolder]:
    """The studies that were started in a work folder's `studies/`, by name."""
    return [StudyFolder(path.parent) for path in sorted(studies.glob("*/study.json"))]


def no_study(studies: Path, name: str, file: Path | None = None) -> RlvoError:
    """The error for a study that was not started in a work folder's `studies/`; `file` is its YAML file, if known."""
    others = [each.path.name for each in started_studies(studies)]
    start = command_line("search", file or "STUDY.yaml", "--cohort", "TABLE", workdir=studies.parent)
    fix = f"Studies here: {', '.join(others)}" if others else f"Name another --workdir, or start it: {start}"
    return RlvoError("no study was started here", where=studies / name, fix=fix)


def read_config(study: StudyFolder, file: Path | None = None) -> StudyConfig:
    """The study's frozen configuration. Raises RlvoError if no study was started there or the file is damaged.

    Args:
        file: its YAML file, if the user named it so.
    """
    try:
        config = StudyConfig.model_validate_json(study.config.read_bytes())
    except FileNotFoundError:
        raise no_study(study.path.parent, study.path.name, file) from None
    except ValidationError:
        raise RlvoError("damaged, or written by another version of rlvo", where=study.config) from None
    for path, (before, _) in DEFAULTS.items():
        if config.default(path) is None:
            config = config.with_setting(path, before)
    if (noted := config.cohort.table) is not None:
        config = config.with_setting("cohort.table", _found_table(noted, study))
    return config


def write_config(study: StudyFolder, config: StudyConfig) -> None:
    """Freeze the study's configuration. A table in the work folder is noted relative to it: they move together."""
    table = config.cohort.table
    if table is not None and study.path.parents[1] in table.parents:
        config = config.with_setting("cohort.table", Path(os.path.relpath(table, study.path)))
    atomic_write(study.config, config.model_dump_json(indent=1))


def _found_table(noted: Path, study: StudyFolder) -> Path:
    """Where the table is that a study's configuration notes.

    Earlier versions noted the whole path. If no table is there any more and the work folder has one whose path ends in
    the same way, both were moved.
    """
    if not noted.is_absolute():
        return (study.path / noted).resolve()
    if noted.exists():
        return noted
    work = study.path.parents[1]
    moved = (work / noted.relative_to(above) for above in reversed(noted.parents))
    return next((table for table in moved if table.is_file()), noted)


def read_or_shipped_config(study: StudyFolder) -> StudyConfig:
    """The study's frozen configuration, or if it was not started, that of the shipped study of this name."""
    shipped = None if study.config.exists() else shipped_studies().get(study.path.name)
    return read_config(study) if shipped is None else load_study(shipped)


def load_or_started(given: Path, studies: Path) -> StudyConfig:
    """The study of a YAML file or of a shipped name, or else the one of this name that was started in `studies/`.

    Raises RlvoError as `load_study`.
    """
    started = StudyFolder(studies / given.name)
    is_named = given.name == str(given) and not given.is_file() and given.name not in shipped_studies()
    return read_config(started) if is_named and started.config.is_file() else load_study(given)


def read_hashes(study: StudyFolder) -> dict[str, str]:
    """`data_hash` and `split_hash` of what the study was started with. Raises RlvoError if the file is damaged."""
    try:
        return dict(parse_json(study.inputs.read_bytes()))
    except ValueError:
        raise damaged(study.inputs, "give the study another name") from None


def study_identity(study: StudyFolder, config: StudyConfig) -> str:
    """Twelve hex digits: the study of this name on this split of these data; one of the same name elsewhere differs."""
    return content_hash({"study": config.name, **read_hashes(study)})[:12]


def read_configuration(folder: Path) -> Configuration | None:
    """The configuration whose folds lie in `folder`: from its own file, or else from a fold's record; None if lost."""
    with suppress(FileNotFoundError, ValueError):
        return known_configuration(from_json((folder / CONFIGURATION).read_bytes()))
    for path in sorted(folder.glob(f"fold-*/{RECORD}")):
        with suppress(FileNotFoundError, ValueError):
            return CompletionRecord.model_validate_json(path.read_bytes()).configuration
    return None


def write_configuration(folder: Path, configuration: Configuration) -> None:
    """Note in a configuration's folder what it is, before its first fold ends."""
    atomic_write(folder / CONFIGURATION, configuration.model_dump_json(indent=1))


def trial_place(folder: Path, fold: int) -> str:
    """The folder of one trial of a configuration, given by its folder; as text, because thousands are looked at."""
    return f"{folder}/fold-{fold}"


def write_declared(study: StudyFolder, ensembles: Mapping[str, EnsembleSpec]) -> None:
    """Freeze the study's ensembles by name, atomically."""
    atomic_write(study.declared, _ensembles().dump_json(dict(ensembles), indent=1).decode())


def read_declared(study: StudyFolder) -> dict[str, EnsembleSpec]:
    """The study's ensembles by name. Raises RlvoError if none were built or the file is damaged."""
    if not study.declared.is_file():
        fix = f"Build it: {study.command('ensemble')}"
        raise RlvoError("no ensemble was built for this study", where=study.path, fix=fix)
    try:
        return _ensembles().validate_json(study.declared.read_bytes())
    except ValidationError:
        fix = f"Build them again: {study.command('ensemble')}"
        raise RlvoError("damaged, or written by another version of rlvo", where=study.declared, fix=fix) from None


def _ensembles() -> TypeAdapter[dict[str, EnsembleSpec]]:
    from rlvo.ensemble.spec import EnsembleSpec

    return TypeAdapter(dict[str, EnsembleSpec])

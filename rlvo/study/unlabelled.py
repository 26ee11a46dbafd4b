"""Whom an image network may be pretrained on: nobody whom a study validates or tests networks on.

A patient who validates one fold trains the others, so no patient of a study's table is safe.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import ceil

import pandas as pd

from rlvo.cohort.reading import volume_paths
from rlvo.cohort.splits import read_split
from rlvo.cohort.variables import source_columns
from rlvo.config.sections import CohortConfig
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.errors import RlvoError
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target
from rlvo.study.folder import StudyFolder, read_config
from rlvo.study.inputs import StudyInputs
from rlvo.study.membership import known_as, study_table
from rlvo.study.pretrained import weights_file

HELD_BACK = 0.1
"""Share of the volumes that only measure how good the network is."""


@dataclass(frozen=True, eq=False)
class OwnTable:
    """A study's patients: its table or, if that is gone, the ids in its split."""

    study: str
    cohort: CohortConfig
    table: pd.DataFrame | None
    ids: frozenset[str]

    @classmethod
    def of(cls, config: StudyConfig, started: StudyFolder | None = None) -> "OwnTable":
        """That of a configuration which names its table, or of a study that was started."""
        ids = frozenset[str]()
        if started is not None and started.split.is_file():
            split = read_split(started.split)
            ids = frozenset((*split.test, *split.development))
        return cls(config.name, config.cohort, study_table(config.cohort), ids)

    def patients(self, table: pd.DataFrame) -> frozenset[str]:
        """Which patients of a typed table are in this one: by id, values or person."""
        found = known_as(table, self.table, source_columns(self.cohort.names))
        there = self.ids if self.table is None else {*map(str, self.table.index)}
        found = {patient: name for patient, name in found.items() if name in there}
        if "person" not in table:
            return frozenset(found)
        person = table["person"].fillna(pd.Series(table.index, index=table.index))
        own = {*self.table["person"].dropna()} if self.table is not None and "person" in self.table else set()
        theirs = own | {*person[person.index.isin(found)]}
        return frozenset(map(str, person.index[person.isin(theirs)]))

    def scans(self, store: VolumeStore, target: Target) -> tuple[frozenset[str], str | None]:
        """What its scans are recognised by (`VolumeStore.scans`), and what is not known of them, in words."""
        if self.table is None or self.cohort.table is None:
            return frozenset(), f"the table of study {self.study} is gone: its patients are known by id alone"
        found, unknown = set[str](), 0
        for files in volume_paths(self.table, self.cohort.table.parent).values():
            try:
                found |= store.scans(files, store.address(target, files))
            except RlvoError:
                unknown += 1
        what = f"the scans of {unknown} patients of study {self.study} are not there: they are known by id and values"
        return frozenset(found), what if unknown else None


def own_tables(config: StudyConfig, started: Iterable[StudyFolder]) -> list[OwnTable]:
    """The tables of the studies of a work folder, and that of the study at hand, if it names one."""
    configs = [(read_config(study), study) for study in started]
    found = [OwnTable.of(each, study) for each, study in configs]
    if config.cohort.table not in (None, *(each.cohort.table for each, _ in configs if each.name == config.name)):
        found.append(OwnTable.of(config))
    return found


def hold_back(addresses: Mapping[str, str], person: Mapping[str, str], seed: int) -> frozenset[str]:
    """Every tenth patient, chosen by the content of the volumes, whatever their order and ids; a person as a whole.

    Args:
        addresses: of each patient's volumes in the store.
        person: whose row each is.
    """
    groups: dict[str, list[str]] = {}
    for patient in addresses:
        groups.setdefault(person[patient], []).append(patient)

    def rank(group: Sequence[str]) -> str:
        return sha256(f"{seed}/{min(addresses[patient] for patient in group)}".encode()).hexdigest()

    chosen = set[str]()
    for group in sorted(groups.values(), key=rank):
        if len(chosen) >= ceil(HELD_BACK * len(addresses)):
            break
        chosen |= {*group}
    return frozenset(chosen)


def refuse_seen(config: StudyConfig, work: Workdir, inputs: StudyInputs) -> None:
    """Raise RlvoError if the weights that the study starts from have seen scans of patients whom it validates or tests.

    A file that `rlvo pretrain` wrote tells which scans its network has seen; of others that is not known.
    """
    from rlvo.models.pretrained import seen_scans

    file = weights_file(config, work)
    if file is None or not (seen := seen_scans(file)):
        return
    store, files = VolumeStore(work.store), volume_paths(inputs.table, inputs.cohort_folder)
    validated = (*inputs.split.test, *inputs.split.validated)
    known = [p for p in validated if seen & store.scans(files[p], inputs.volumes[p].name)]
    if known:
        what = f"the pretrained weights have seen scans of {len(known)} of its patients, so figures would be too good"
        fix = "Pretrain again with the study's table (--cohort), whose patients are left out then"
        raise RlvoError(what, where=config.name, fix=fix)

"""The trials of one study on disk, as the searcher reads and ends them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlvo.config.model import Configuration
from rlvo.errors import RlvoError
from rlvo.files import file_sha256
from rlvo.search.inputs import StudyInputs
from rlvo.search.results import trial_folder
from rlvo.training.records import (
    EPOCHS,
    CompletionRecord,
    EpochMetrics,
    read_epochs,
    read_record,
    write_epochs,
    write_record,
)


@dataclass(frozen=True)
class TrialFolders:
    """The folders of a study's trials."""

    inputs: StudyInputs
    folder: Path
    """The study folder."""

    def record(self, configuration: Configuration, fold: int) -> CompletionRecord | None:
        """The completion record of this study's trial. Raises RlvoError for a damaged one."""
        found = read_record(trial_folder(self.folder, configuration, fold))
        return found if found is not None and found.identity == self.inputs.identity(configuration, fold) else None

    def epochs(self, configuration: Configuration, fold: int) -> Sequence[EpochMetrics]:
        """The metrics of every epoch so far; none where the file is damaged: the trial's next epoch writes it anew."""
        try:
            return read_epochs(trial_folder(self.folder, configuration, fold))
        except RlvoError:
            return []

    def prune(self, configuration: Configuration, fold: int, reason: str) -> None:
        """End a trial where its last checkpoint stands. Raises RlvoError where that is damaged."""
        from rlvo.training.checkpoint import Progress, drop_previous, load_last  # torch: only where something is pruned

        folder, identity = trial_folder(self.folder, configuration, fold), self.inputs.identity(configuration, fold)
        checkpoint = load_last(folder)
        progress = checkpoint.progress if checkpoint is not None else Progress(identity.key)
        write_epochs(folder, progress.epochs)
        record = CompletionRecord(
            identity=identity,
            configuration=configuration,
            status="pruned",
            reason=reason,
            best_epoch=progress.best_epoch,
            epochs=len(progress.epochs),
            metrics=progress.best,
            files={EPOCHS: file_sha256(folder / EPOCHS)},
            seconds=progress.seconds,
        )
        write_record(folder, record)
        drop_previous(folder)

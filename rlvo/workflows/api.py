"""Where a notebook starts: a study in a work folder. docs/api.md shows it, from a cohort to answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from rlvo.config.loading import named_study
from rlvo.config.model import Modality
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.progress import ShowProgress, no_progress
from rlvo.search.forecast import read_forecast
from rlvo.study.folder import StudyFolder, read_config, read_or_shipped_config
from rlvo.study.state import StudyState
from rlvo.study.trials import read_ended_trials, started_trials
from rlvo.training.records import read_epochs

if TYPE_CHECKING:
    from rlvo.search.plan import StudyPlan
    from rlvo.search.verdict import Verdict
    from rlvo.workflows.ablation_results import AblationResults
    from rlvo.workflows.ensemble import BuiltEnsemble
    from rlvo.workflows.holdout import Evaluation
    from rlvo.workflows.pretrain import Pretrained
    from rlvo.workflows.report import Report
    from rlvo.workflows.study import OpenStudy


class Study:
    """A study in a work folder. Its methods do what the commands of the same names do, and return values.

    Every method raises RlvoError, in one line, for what the input can cause, and its subclass MachineError for what the
    machine or a service can.

    Args:
        config: a YAML file, a `StudyConfig`, or a name: of a study of the work folder, or of a shipped one.
        cohort: the cohort table; None: the one that the configuration, or the study when it was started, names.
        workdir: work folder: MLflow, prepared volumes, studies.
        progress: shows how far long work is, e.g. `rlvo.show_progress`; by default nothing is shown.

    Example:
        ```python
        study = rlvo.Study("demo", cohort="cohort.csv", progress=rlvo.show_progress)
        study.search()
        study.trials.groupby("model.modality")["val/auc"].mean()
        ```
    """

    def __init__(
        self,
        config: str | Path | StudyConfig,
        cohort: str | Path | None = None,
        workdir: str | Path = "rlvo-work",
        *,
        progress: ShowProgress = no_progress,
    ) -> None:
        self.name, self._given = named_study(config)
        self.work = Workdir.at(Path(workdir), create=False)
        self._cohort = None if cohort is None else Path(cohort)
        self._progress = progress

    @property
    def folder(self) -> StudyFolder:
        """The study's folder in the work folder."""
        return StudyFolder(self.work.study(self.name))

    @property
    def config(self) -> StudyConfig:
        """The configuration that was given, or the one that the study was started with, or the shipped study's."""
        return self._given or read_or_shipped_config(self.folder)

    def plan(self) -> StudyPlan:
        """What the study would run, without running it: trials, epochs, and what its models and volumes need."""
        from rlvo.workflows.search import plan

        return plan(self.config, self._cohort, self.work, progress=self._progress)[0]

    @property
    def verdict(self) -> Verdict:
        """Whether the study fits this machine, and about how long it takes, if trials like its own were measured."""
        from rlvo.workflows.search import plan

        return plan(self.config, self._cohort, self.work)[1]

    def search(self, *, configurations: int | None = None, address: str | None = None) -> StudyState:
        """Train every configuration on every fold; called again, it continues, and repeats no trial.

        Args:
            configurations: how many in all; more than a finished study has extend it.
            address: Ray cluster, e.g. "auto" or "ray://head:10001"; None: `RAY_ADDRESS`, or else this machine.
        """
        from rlvo.workflows.search import search, with_configurations

        config = self.config if configurations is None else with_configurations(self.config, configurations)
        return search(config, self._cohort, self.work, address=address, progress=self._progress)[1]

    def pretrain(
        self,
        table: str | Path,
        out: str | Path,
        *,
        modality: Modality | None = None,
        epochs: int | None = None,
        address: str | None = None,
    ) -> Pretrained:
        """Pretrain the image network on the volumes of a table, outcomes unread; called again, it continues.

        Args:
            table: patients with NCCT or CTA; those of the study, and of any other of the work folder, are left out.
            out: safetensors file to write, which `model.pretrained` can name.
            modality: which of the study's networks; None: the one with the fewest channels.
            epochs: how often each patient is seen; None: the study's.
            address: Ray cluster, as for `search`.
        """
        from rlvo.workflows.pretrain import pretrain

        return pretrain(
            self.config,
            Path(table),
            self.work,
            Path(out),
            cohort=self._cohort,
            modality=modality,
            epochs=epochs,
            address=address,
            progress=self._progress,
        )

    def status(self) -> StudyState:
        """Where the study stands, from its folder alone: also while another process searches, and after a crash."""
        return read_forecast(self.folder)

    @property
    def trials(self) -> pd.DataFrame:
        """One row per trial of a configuration that was started.

        The columns are those of `rlvo.workflows.trials.trial_table`: parameters, state, metrics, times, folder.
        """
        from rlvo.workflows.trials import trial_table

        return trial_table(self.status(), self.folder)

    @property
    def epochs(self) -> pd.DataFrame:
        """One row per epoch that has ended: `configuration`, `fold`, `epoch` (from 1) and its metrics."""
        return pd.DataFrame(
            [
                {"configuration": trial.configuration.key, "fold": trial.identity.fold, **metrics}
                for trial in started_trials(self.folder, read_config(self.folder))
                for metrics in read_epochs(trial.folder)
            ]
        )

    @property
    def predictions(self) -> pd.DataFrame:
        """The finished trials' stored predictions for their validation patients, who are out of each fold's training.

        `patient`, `member` (configuration's key and fold), `fold`, `split`, `probability`, `label`.
        """
        return read_ended_trials(self.folder).predictions

    def compare(self) -> pd.DataFrame:
        """Every way to select and weight trials, on out-of-fold patients: `optimistic` and `nested` estimates."""
        from rlvo.workflows.ensemble_comparison import compare

        return compare(self.name, self.work)[1]

    def ensemble(
        self, *, partial: bool = False, reduced: str | None = None, check_bfloat16: bool = False
    ) -> BuiltEnsemble:
        """Build the study's ensembles and register its own, which becomes the champion if it passes its gate.

        Args:
            partial: build even if trials or modalities are missing.
            reduced: name of a study of fewer predictors, whose ensemble answers for patients without CT perfusion.
            check_bfloat16: also measure what reduced precision changes.
        """
        from rlvo.workflows.ensemble import build_and_register

        return build_and_register(
            self._open(), partial=partial, reduced=reduced, check_bfloat16=check_bfloat16, progress=self._progress
        )

    def evaluate(self, *, reason: str | None = None) -> Evaluation:
        """Open the hold-out for all declared ensembles and the clinical baselines. Every opening is counted.

        Args:
            reason: why it is opened again; it must be given if the hold-out was opened before.
        """
        from rlvo.workflows.evaluate import check_evaluation, evaluate

        check_evaluation(self._given or self.name, self.work, reason)
        return evaluate(self._open(), reason=reason, progress=self._progress)

    @property
    def evaluation(self) -> Evaluation | None:
        """What the last opening of the hold-out showed, opening nothing; None if its ensembles were not evaluated."""
        from rlvo.workflows.holdout import kept_evaluation
        from rlvo.workflows.study import read_study

        return kept_evaluation(read_study(self.name, self.work, cohort=self._cohort))

    def ablate(
        self,
        *,
        drop: int | Sequence[str] | None = None,
        evaluate: bool = False,
        reason: str | None = None,
        address: str | None = None,
    ) -> AblationResults:
        """Compare the study's ensemble (Model A) with one of fewer variables (B), and with B on more patients (C).

        Called again, it continues.

        Args:
            drop: which predictors B and C go without, or how many of the ranking's last; None: `ablation.drop` of the
                configuration, else the least predictive.
            evaluate: whether to open the hold-out, once for all three models.
            reason: why it is opened again; it must be given if the hold-out was opened before.
            address: Ray cluster, as for `search`.
        """
        from rlvo.workflows.ablation import ablate

        chosen = drop if drop is None or isinstance(drop, int) else (drop,) if isinstance(drop, str) else tuple(drop)
        return ablate(
            self._open(), drop=chosen, evaluate=evaluate, reason=reason, address=address, progress=self._progress
        )

    def report(
        self, page: str | Path = "report.html", *, explain: bool = False, patients: Sequence[str] = ()
    ) -> Report:
        """Write one page about the study, and its tables and figures into a folder beside it; the hold-out stays shut.

        MLflow shows the page at the ensemble's run, if there is one.

        Args:
            page: the HTML file to write.
            explain: look at the ensemble's networks first, which takes minutes: saliency, importance of variables.
                Later reports show it too, as long as the ensemble is the same.
            patients: development patients, each of whom gets a page in `<page's stem>_patients`, which names them.
        """
        from rlvo.workflows.ensemble_artifacts import attach_report
        from rlvo.workflows.patient_pages import write_patient_pages
        from rlvo.workflows.report import write_report
        from rlvo.workflows.report_explanations import explain_study
        from rlvo.workflows.study import read_study

        if explain or patients:
            opened, folder = self._open(), Path(page).with_name(f"{Path(page).stem}_patients")
            write_patient_pages(opened, patients, folder, progress=self._progress)
            if explain:
                explain_study(opened, progress=self._progress)
        study = read_study(self.name, self.work, cohort=self._cohort)
        written = write_report(study, Path(page), progress=self._progress)
        attach_report(study, written.page)
        return written

    def _open(self) -> OpenStudy:
        from rlvo.workflows.study import open_searched_study

        given = self._given or self.name
        return open_searched_study(given, self.work, cohort=self._cohort, progress=self._progress)

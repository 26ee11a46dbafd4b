"""What must not reach MLflow is replaced here: patient ids by pseudonyms, paths by an ellipsis."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from rlvo.config.study import StudyConfig


def without_identities(text: str, patients: Iterable[str], pseudonymise: Callable[[str], str]) -> str:
    """`text` up to the first path (which may hold spaces, so its end is unknown), patient ids replaced."""
    text = re.sub(r"\S*[/\\].*", "…", text, flags=re.DOTALL)
    ids = "|".join(re.escape(patient) for patient in sorted(patients, key=len, reverse=True))
    return re.sub(rf"(?<!\w)(?:{ids})(?!\w)", lambda match: pseudonymise(match[0]), text) if ids else text


def shareable(study: StudyConfig) -> dict[str, object]:
    """The study's configuration without the path of the cohort and the address of the server."""
    return study.model_dump(
        mode="json",
        exclude={"cohort": {"table"}, "atlas": True, "folds": {"test_patients"}, "mlflow": {"tracking_uri"}},
    )

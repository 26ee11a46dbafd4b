"""A work folder that was moved or copied: its database names the artifacts beside it again, and no other folder's."""

import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import sqlalchemy
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

PLACES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}
"""The columns in which MLflow (3.17) keeps where artifacts lie: absolute addresses, or paths."""
LOCKED_SECONDS = 60
"""How long another process may hold the database."""


def sqlite_file(address: str) -> Path | None:
    """The file that a database is, by its address; None if it is of another kind of database, or of a server."""
    if not address.startswith(("sqlite:", "sqlite+")):
        return None
    database = sqlalchemy.make_url(address).database
    return Path(database) if database else None


def local_path(address: str) -> Path | None:
    """The path of a `file:` address or of one without a scheme; None if it is another."""
    parts = urlsplit(address)
    return Path(url2pathname(parts.path)) if parts.scheme in ("", "file") and not parts.netloc else None


def claim_artifacts(address: str, artifacts: Path) -> None:
    """Have the database in a work folder say that its artifacts lie in `artifacts`, beside it.

    Where the folder was before is told by what its experiments say. Artifacts in a folder that is no work folder with
    a database of its own, but is there, were put there on purpose and stay.

    Args:
        address: of the database, which has MLflow's tables.
        artifacts: the work folder's.

    Raises:
        SQLAlchemyError: the folder was moved and its database cannot be written.
    """
    engine = sqlalchemy.create_engine(address, poolclass=NullPool, connect_args={"timeout": LOCKED_SECONDS})
    with engine.begin() as connection:
        known = connection.execute(text("SELECT DISTINCT artifact_location FROM experiments")).scalars()
        inside = re.compile(rf"(.*/{re.escape(artifacts.name)})(?:/.*)?")
        found = {match[1] for location in known if (match := inside.fullmatch(location or ""))}
        for place in sorted(found - {artifacts.as_uri()}):
            if _is_left_behind(place, artifacts):
                try:
                    _rename(connection, place, artifacts.as_uri())
                except SQLAlchemyError as error:
                    what = "the work folder was moved or copied: use it once where it can be written"
                    raise SQLAlchemyError(f"{what} ({error.__cause__})") from None


def _is_left_behind(place: str, artifacts: Path) -> bool:
    """Whether artifacts that the database names at `place` came along with it."""
    path = local_path(place)
    if path is None or (path.parent.exists() and path.parent.samefile(artifacts.parent)):
        return False
    return not path.exists() or (path.parent / "mlflow.db").exists()


def _rename(connection: Connection, before: str, now: str) -> None:
    for table, columns in PLACES.items():
        for column in columns:
            below = f"substr({column}, 1, length(:before) + 1) = :before || '/'"
            after = f":now || substr({column}, length(:before) + 1)"
            change = f"UPDATE {table} SET {column} = {after} WHERE {column} = :before OR {below}"  # nosec B608 # names above
            connection.execute(text(change), {"before": before, "now": now})

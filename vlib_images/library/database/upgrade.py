"""Bringing the schema of an older database up to date. Imported only when it is not: Alembic is slow to import."""

from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from vlib_images.library.database import schema, sqlite
from vlib_images.library.database.errors import StateDamaged

log = structlog.get_logger(__name__)


def configuration(connection: Connection | None = None) -> Config:
    """Alembic's, for our migrations, on an open connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection, path: Path, found: str | None) -> None:
    """From revision `found` to the newest, in one transaction. Raises StateDamaged: not a revision that we know."""
    config = configuration(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found not in known:
        raise StateDamaged(
            path,
            f"its schema is {found}, which this version does not know",
            "Use the version of Tapebay that wrote it, or a newer one",
        )
    with connection.execution_options(**{sqlite.WRITER: True}).begin():
        command.upgrade(config, "head")
    log.warning("the schema of the database was brought up to date", path=str(path), old=found, new=schema.REVISION)

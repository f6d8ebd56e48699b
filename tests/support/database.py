"""Databases for tests."""

from pathlib import Path

from vlib_images.library.database.database import FILE_NAME, Database


def new_database(directory: Path) -> Database:
    """A new one in `directory`, which is made when it is missing. Nothing needs to close it: no thread, no lock."""
    directory.mkdir(exist_ok=True)
    return Database.create(directory / FILE_NAME)


def open_again(directory: Path) -> Database:
    """The one in `directory`, opened once more: what another start of the library would find."""
    return Database.open(directory / FILE_NAME)

"""What can be wrong with the database of a library."""

from pathlib import Path


class StateDamaged(Exception):
    """A state file cannot be trusted; str() names the file, what is wrong and what to do."""

    def __init__(self, path: Path, problem: str, remedy: str = "Restore the file from a backup of the library") -> None:
        super().__init__(f"{path}: {problem}. {remedy}.")
        self.path = path


class DatabaseMissing(StateDamaged):
    """There is no database where there was a library; a new one would forget everything in silence."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            path,
            "missing; a new one would forget where every cartridge is, and change every serial number",
            "Mount its file system, or restore it from a backup; if there never was a library, run tapebay init",
        )


class StorageFailed(OSError):
    """The database could not be read or written: errno and a message that names the file. Nothing has changed."""


class DatabaseClosed(StorageFailed):
    """An earlier change failed to commit, and the database could not be opened anew since: changes are refused."""

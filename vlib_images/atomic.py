"""Replacing a whole file so that a crash leaves either the old content or the new, never a mixture.

The engine does it, so that tests can make any step of it fail and record all of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datamover.engine import (
    storage_put_off_syncs,
    storage_replace,
    storage_sync_directory,
    storage_sync_file_system,
)


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable. Raises OSError."""
    storage_sync_directory(str(directory))


def write_atomically(path: Path, content: bytes, mode: int | None = None) -> None:
    """Replace `path` by `content`, durable when this returns. Raises OSError, and then `path` is as it was.

    mode: the file's permissions; None: what the umask leaves of 0640. The directory may be reached through links, which
    are the operator's; the name itself is replaced, never what a link of that name leads to. The temporary name is
    fixed, so a crash leaves at most one stray file, which the next call overwrites. Callers see to it that one file has
    one writer at a time.
    """
    storage_replace(str(path.parent.resolve()), path.name, content, False, -1 if mode is None else mode)


@contextmanager
def synchronized_together(directory: Path) -> Iterator[None]:
    """What this thread makes on the file system of `directory` becomes durable when the block ends, all at once.

    For many small files that nothing refers to before that: a crash may leave any of them missing, empty or half.
    Raises OSError.
    """
    storage_put_off_syncs(True)
    try:
        yield
    finally:
        storage_put_off_syncs(False)
    storage_sync_file_system(str(directory))

"""Replacing a whole file so that a crash leaves either the old content or the new, never a mixture."""

import os
from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes, mode: int = 0o640) -> None:
    """Replace `path` by `content`, durable when this returns. Raises OSError, and then `path` is as it was.

    The temporary name is fixed, so a crash leaves at most one stray file, which the next call overwrites. Callers
    see to it that one file has one writer at a time.
    """
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)

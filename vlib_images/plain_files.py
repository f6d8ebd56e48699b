"""Opening files of a folder that somebody else may have filled: a cartridge that was copied in, a tape to be imported.

Such a folder may hold links, pipes and devices. Nothing outside it is ever opened: the folder and then the file are
opened by their own names without following links (openat(2) with O_NOFOLLOW), only a regular file passes, and no pipe
is waited for. The engine does the same for what it opens itself.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

LINK = "it is a symbolic link, which Tapebay does not follow here; put the file itself there"
NO_FILE = "it is no regular file"
MANY_NAMES = "it has other names (hard links), and they may belong to something else; copy it first (cp -a, not cp -al)"
DOCUMENT_BYTES_MAX = 64 << 20
"""No file that is read whole is larger: a manifest of 900,000 segments is as large."""


def open_plain(path: Path, *, only_name: bool = False) -> BinaryIO:
    """A regular file, for reading, whose folder is no link either; what leads to the folder is the operator's.

    only_name: refuse a file that has other names (hard links) too. Raises OSError (ELOOP: a link; ENXIO: a pipe, device
    or directory; EMLINK).
    """
    directory = _open_folder(path.parent)
    try:
        descriptor = os.open(path.name, _FLAGS, dir_fd=directory)
    except OSError as error:
        raise _named(error, path) from None
    finally:
        os.close(directory)
    return _checked(descriptor, path, only_name)


def open_named(path: Path) -> BinaryIO:
    """A regular file that an operator named, for reading: links on the way are theirs. Raises OSError (ENXIO)."""
    return _checked(os.open(path, _FLAGS & ~os.O_NOFOLLOW), path, only_name=False)


def read_plain(path: Path, length_max: int = DOCUMENT_BYTES_MAX) -> bytes:
    """All of a small file of a folder. Raises OSError; EFBIG for one larger than length_max."""
    with open_plain(path) as file:
        content = file.read(length_max + 1)
    if len(content) > length_max:
        raise OSError(errno.EFBIG, f"it has more than {length_max} bytes", str(path))
    return content


def is_folder(path: Path) -> bool:
    """Whether `path` is a directory itself, not a link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


# O_NONBLOCK: opening a pipe would wait for somebody to write; it does nothing to a regular file.
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def _open_folder(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError as error:
        if path.is_symlink():
            raise OSError(errno.ELOOP, LINK, str(path)) from None
        raise error


def _named(error: OSError, path: Path) -> OSError:
    words = LINK if error.errno == errno.ELOOP else NO_FILE if error.errno == errno.ENXIO else error.strerror
    return OSError(error.errno, words, str(path))


def _checked(descriptor: int, path: Path, only_name: bool) -> BinaryIO:
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.ENXIO, NO_FILE, str(path))
        if only_name and status.st_nlink > 1:
            raise OSError(errno.EMLINK, MANY_NAMES, str(path))
        return open(path, "rb", opener=lambda *_: descriptor)  # so that its name is the path
    except BaseException:
        os.close(descriptor)
        raise

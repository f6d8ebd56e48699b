"""Where the control socket is: what may be replaced there, and names that fit into a socket address."""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SUN_PATH_BYTES = 107  # unix(7): sun_path is 108 bytes with its terminating null


@contextmanager
def reachable(path: Path) -> Iterator[str]:
    """A name for `path` that fits into a socket address, however deep the library lies."""
    if len(os.fsencode(path)) <= _SUN_PATH_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def refuse_another_file(path: Path) -> None:
    """What is at the socket's name is replaced only where nothing is lost: a socket or an empty file. Raises
    FileExistsError, OSError."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    empty = stat.S_ISREG(status.st_mode) and not status.st_size
    if not stat.S_ISSOCK(status.st_mode) and not empty:
        message = "is there and is no socket; give another library.control_socket, or remove it"
        raise FileExistsError(errno.EEXIST, message, str(path))


def bind(listener: socket.socket, path: Path) -> None:
    """Raises OSError, which names the path."""
    try:
        with reachable(path) as name:
            listener.bind(name)
    except OSError as error:
        # "AF_UNIX path too long" is Python's own, and has no number.
        raise OSError(error.errno or errno.ENAMETOOLONG, error.strerror or str(error), str(path)) from None

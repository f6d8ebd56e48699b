"""One process for each library: a lock file that the kernel frees when its holder ends, however it ends."""

import errno
import fcntl
import os
import stat
from pathlib import Path

from appliance.failures import Failure, OperatorError


class LibraryLock:
    """Holds the library until release(). The file stays; who reads it finds the holder's process id in it."""

    def __init__(self, path: Path, *, create: bool = True) -> None:
        """create: make the file where there is none. Raises OperatorError IN_USE when another process holds the
        library, REFUSED when it is no plain file; OSError."""
        self._descriptor = _open(path, create=create)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            message = f"the library is in use by process {holder} (lock file {path}); only one daemon may serve it"
            raise OperatorError(Failure.IN_USE, message) from None
        os.truncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._descriptor)


def _open(path: Path, *, create: bool) -> int:
    """The process id is written into it, so it must be a file of this directory alone: no link, no second name."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    try:
        descriptor = os.open(path, flags, 0o640)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise OperatorError(Failure.REFUSED, f"{path} is no plain file; remove it") from None
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise OperatorError(Failure.REFUSED, f"{path} is no plain file with this one name; remove it")
    return descriptor

"""One process for each library: a lock file that the kernel frees when its holder ends, however it ends."""

import fcntl
import os
from pathlib import Path

from appliance.failures import Failure, OperatorError


class LibraryLock:
    """Holds the library until release(). The file stays; who reads it finds the holder's process id in it."""

    def __init__(self, path: Path, *, create: bool = True) -> None:
        """create: make the file where there is none. Raises OperatorError IN_USE when another process holds the
        library, OSError."""
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        self._descriptor = os.open(path, flags, 0o640)
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

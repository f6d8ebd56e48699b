"""Holding file systems still while a snapshot of their disks is made, and never for longer than a limit.

A held file system makes every writer on it wait, databases among them, so three rules stand above the backup:

1. A watchdog lets it go after the limit whatever happens: it is a process of its own, forked before anything is held,
   which never execs, has its memory locked and writes to no file system. It also acts at once when the agent is gone.
   A hold that comes after the watchdog has acted (FIFREEZE may wait long for others' writes) is let go again too.
2. The snapshot counts only if this agent's own FITHAW succeeded on each file system and the watchdog did not act. Had
   somebody else let it go in between, the snapshot might have been made after that, in the middle of a write.
3. What somebody holds already (EBUSY) is refused: who holds it will let it go when he likes.
"""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Final, Protocol, cast

from appliance.agent import kernel as linux

LIMIT_SECONDS: Final = 8.0
_AGAIN_SECONDS: Final = 0.1
_DONE, _ACTED = b"d", b"a"


class FreezeFailed(Exception):
    """A file system was not held still, or not until the end; what was made meanwhile is no snapshot of it."""


class Kernel(Protocol):
    """What holding file systems still asks of the kernel; appliance.agent.kernel does it, tests have their own."""

    def freeze(self, descriptor: int) -> None: ...
    def thaw(self, descriptor: int) -> None: ...
    def sync_file_system(self, descriptor: int) -> None: ...
    def lock_memory(self) -> None: ...
    def unlock_memory(self) -> None: ...


class FreezeWatch(Protocol):
    """What lets go what is held for too long."""

    def dismiss(self) -> bool:
        """End it; whether it had to act."""


FreezeWatcher = Callable[[Sequence[int], float, Kernel], FreezeWatch]


def synchronized(mount_points: Sequence[Path], kernel: Kernel | ModuleType = linux) -> None:
    """Write out what waits, which may take long, so that holding the file systems still does not. Raises OSError."""
    kernel = cast(Kernel, kernel)
    for path in mount_points:
        descriptor = _opened(path)
        try:
            kernel.sync_file_system(descriptor)
        finally:
            os.close(descriptor)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _watchdog(descriptors: Sequence[int], limit_seconds: float, kernel: Kernel) -> FreezeWatch:
    return _Watchdog(descriptors, limit_seconds, kernel)


@contextmanager
def held_still(
    mount_points: Sequence[Path], *, limit_seconds: float = LIMIT_SECONDS, kernel: Kernel | ModuleType = linux,
    watcher: FreezeWatcher = _watchdog,
) -> Iterator[None]:  # fmt: skip
    """The file systems are still while the block runs. What the block makes counts only if no FreezeFailed comes of it.

    Raises FreezeFailed, before the block or after it; OSError, with everything let go."""
    kernel = cast(Kernel, kernel)
    descriptors = [_opened(path) for path in mount_points]
    try:
        for descriptor in descriptors:  # before the limit counts: this is what may take long
            kernel.sync_file_system(descriptor)
        with suppress(OSError):  # without the right to, a page that has to be read again is still read
            kernel.lock_memory()
        watchdog = watcher(descriptors, limit_seconds, kernel)
        held: list[int] = []
        try:
            for descriptor, path in zip(descriptors, mount_points, strict=True):
                _hold(kernel, descriptor, path)
                held.append(descriptor)
            yield
        finally:
            let_go_by_others = [path for path, d in zip(mount_points, held, strict=False) if not _let_go(kernel, d)]
            acted = watchdog.dismiss()
            kernel.unlock_memory()
        if acted:
            raise FreezeFailed(f"the file systems were let go after {limit_seconds:g} s, before the snapshot was made")
        if let_go_by_others:
            named = ", ".join(map(str, let_go_by_others))
            raise FreezeFailed(f"somebody else let {named} go before the snapshot was made")
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _hold(kernel: Kernel, descriptor: int, path: Path) -> None:
    try:
        kernel.freeze(descriptor)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise FreezeFailed(f"somebody holds {path} still already (fsfreeze); let it go there first") from None
        if error.errno == errno.EOPNOTSUPP:
            raise FreezeFailed(f"the file system of {path} cannot be held still") from None
        raise


def _let_go(kernel: Kernel, descriptor: int) -> bool:
    """Whether it was this that let it go."""
    try:
        kernel.thaw(descriptor)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    return True


class _Watchdog:
    """The process that lets go what is held for too long."""

    def __init__(self, descriptors: Sequence[int], limit_seconds: float, kernel: Kernel) -> None:
        its_end, self._tell = os.pipe()
        self._hear, its_voice = os.pipe()
        self._process = os.fork()
        if self._process == 0:
            try:
                os.close(self._tell)
                os.close(self._hear)
                _watch(its_end, its_voice, descriptors, limit_seconds, kernel)
            finally:
                os._exit(0)
        os.close(its_end)
        os.close(its_voice)

    def dismiss(self) -> bool:
        """End it; whether it had to act."""
        with suppress(BrokenPipeError):  # it was killed: nothing was watched, and nothing was let go by it
            os.write(self._tell, _DONE)
        os.close(self._tell)
        acted = os.read(self._hear, 1) == _ACTED
        os.close(self._hear)
        os.waitpid(self._process, 0)
        return acted


def _watch(done: int, voice: int, descriptors: Sequence[int], limit_seconds: float, kernel: Kernel) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a Ctrl-C is the agent's, and what it leaves held is let go here
    with suppress(OSError):  # without the right to lock memory it still watches
        kernel.lock_memory()
    if _says(done, limit_seconds) and os.read(done, 1) == _DONE:
        return
    acted = False
    while True:  # until the agent is done or gone, since a hold may come later than this
        for descriptor in descriptors:
            with suppress(OSError):
                kernel.thaw(descriptor)
        if not acted:
            acted = True
            with suppress(OSError):  # nobody hears it where the agent is gone
                os.write(voice, _ACTED)
        if _says(done, _AGAIN_SECONDS):
            return


def _says(descriptor: int, seconds: float) -> bool:
    """Whether there is something to read, or nobody left to write it, within that time."""
    looking = select.poll()
    looking.register(descriptor, select.POLLIN)
    return bool(looking.poll(1000 * seconds))

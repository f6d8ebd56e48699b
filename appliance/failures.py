"""What goes wrong for an operator: a code for programs, a message for people, an exit status for scripts."""

import errno
import os
from enum import Enum
from pathlib import Path


class Failure(Enum):
    """The codes of the control protocol and their exit statuses (docs/cli.md lists them)."""

    REFUSED = ("refused", 1)  # the library cannot do that now: a full slot, a loaded cartridge, a full disk
    USAGE = ("usage", 2)  # the command line, or a request, is not understood
    CONFIGURATION = ("configuration", 3)
    NOT_RUNNING = ("not-running", 4)
    IN_USE = ("in-use", 5)  # another process has the library open
    NOT_FOUND = ("not-found", 6)  # no such cartridge, element or disk
    NOT_PERMITTED = ("not-permitted", 7)  # no token that opens anything, or one whose scope is too small
    CHANGED = ("changed", 8)  # it is no longer what whoever asks has seen
    BUSY = ("busy", 9)  # too many requests at once; the same may be asked again
    INTERNAL = ("internal", 70)  # a fault of Tapebay's own; the daemon's log has the details

    def __init__(self, code: str, exit_status: int) -> None:
        self.code = code
        self.exit_status = exit_status

    @classmethod
    def of_code(cls, code: object) -> "Failure":
        return next((failure for failure in cls if failure.code == code), cls.INTERNAL)


class OperatorError(Exception):
    """Something an operator asked for did not happen; str() says what was wrong and what to do."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


class NoAnswer(OperatorError):
    """Nobody knows whether it was done: the question or its answer was lost on the way, or takes too long."""


def explained(error: OSError) -> str:
    """What the operating system refused: with whom it refused it, where that is the reason, and what to do."""
    if error.filename is None or not isinstance(error.filename, str | bytes | os.PathLike):
        return error.strerror or str(error)
    path = Path(os.fsdecode(error.filename))
    if error.errno in (errno.EACCES, errno.EPERM):
        return not_permitted(path)
    words = {
        errno.ENOSPC: "its file system is full",
        errno.EROFS: "its file system is mounted read-only",
        errno.EFBIG: "its file system holds no file of that size; choose a smaller one",
    }
    return f"{path}: {words.get(error.errno or 0, error.strerror)}"


def not_permitted(path: Path) -> str:
    """Why this process may not work on `path`, and what to do."""
    asked = path
    while not _exists(path) and path != path.parent:
        path = path.parent
    user, group = os.geteuid(), os.getegid()
    who = f"this process, which is user {user}, group {group}, may not use {path}"
    try:
        status = path.stat()
    except OSError:
        return f"{who}, nor look at it; run it as the library's owner"
    whose = f"user {status.st_uid}, group {status.st_gid}, mode {status.st_mode & 0o777:03o}"
    if path not in (asked, asked.parent):  # too far above for its owner to be changed
        return f"{who} ({whose}), so it cannot get to {asked}"
    return f"{who} ({whose}); as root: chown -R {user}:{group} {path}, or run it as that user"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return False

"""What goes wrong for an operator: a code for programs, a message for people, an exit status for scripts."""

from enum import Enum


class Failure(Enum):
    """The codes of the control protocol and their exit statuses (docs/cli.md lists them)."""

    REFUSED = ("refused", 1)  # the library cannot do that now: a full slot, a loaded cartridge, a full disk
    USAGE = ("usage", 2)  # the command line, or a request, is not understood
    CONFIGURATION = ("configuration", 3)
    NOT_RUNNING = ("not-running", 4)
    IN_USE = ("in-use", 5)  # another process has the library open
    NOT_FOUND = ("not-found", 6)  # no such cartridge, element or disk
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

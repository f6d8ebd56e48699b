"""The agent in two processes: this one is root's and touches no network; the other asks the appliance, without a right.

Whatever comes by the network (TLS, HTTP, JSON) is taken apart in a process that was forked for it before anything else
was done: another user, no group, no capability and no way to get one back. Each call has a socket of its own, whose
other end that process is given: one line of JSON goes there, and lines come back. What it answers is believed no
more than what an appliance says: names that lead to files or programs are checked where they are used.
"""

from __future__ import annotations

import ctypes
import encodings.idna  # noqa: F401 - what a connection imports late, that process may not be able to read any more
import json
import os
import pwd
import resource
import signal
import socket
import threading
import time
import urllib.parse  # noqa: F401
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from appliance.agent.asking import Api
from appliance.failures import Failure, NoAnswer, OperatorError

USERS: Final = ("tapebay-agent", "nobody")  # the first that there is
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


class NetworkProcessEnded(OperatorError):
    """Nothing can be asked any more by this process."""

    def __init__(self) -> None:
        super().__init__(Failure.INTERNAL, "the agent's network process has ended; its messages say why")


class NetworkProcess:
    """An Api by way of that process. Thread-safe. close() ends it; it ends with this process, too."""

    host: str

    def __init__(self, api: Api, user: pwd.struct_passwd | None) -> None:
        """Before there are threads. api: what the other process asks. user: whom it becomes; None: nobody else."""
        self.host = str(getattr(api, "host", ""))
        self._give, its_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        self._process = os.fork()
        if self._process == 0:
            try:
                self._give.close()
                _become(user)
                _serve(its_end, api)
            finally:
                os._exit(0)
        its_end.close()

    def close(self) -> None:
        """End it."""
        self._give.close()
        with suppress(ChildProcessError):
            os.waitpid(self._process, 0)

    def cost(self) -> tuple[int, float]:
        """(bytes over the network, seconds of the processor) of the other process so far. Raises OperatorError."""
        length_bytes, seconds = self._answer({"cost": True})
        return int(length_bytes), float(seconds)

    def call(self, verb: str, /, **parameters: Any) -> Any:
        """As Api has it."""
        return self._answer({"verb": verb, "parameters": parameters})

    def events(self, subject: str, /, *, timeout_seconds: float) -> Iterator[object]:
        """As Api has it."""
        for row in self._rows({"events": subject, "timeout_seconds": timeout_seconds}):
            if "result" in row:
                return
            yield row["event"]

    def _answer(self, question: dict[str, Any]) -> Any:
        return next(self._rows(question))["result"]

    def _rows(self, question: dict[str, Any]) -> Iterator[dict[str, Any]]:
        try:
            mine, its_end = socket.socketpair()
            with mine, mine.makefile("rw", encoding="utf-8") as line:
                with its_end, self._lock:
                    socket.send_fds(self._give, [b"c"], [its_end.fileno()])
                line.write(json.dumps(question, default=str) + "\n")
                line.flush()
                for text in line:
                    row = json.loads(text)
                    if "failure" in row:
                        raise _error(row)
                    yield row
        except (OSError, ValueError):
            pass  # it is gone, in the middle of a line perhaps
        raise NetworkProcessEnded


def user_of_network() -> pwd.struct_passwd | None:
    """Whom root has it become; None: this process is not root's."""
    if os.geteuid():
        return None
    for name in USERS:
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise OperatorError(
        Failure.CONFIGURATION, f"there is no user {' nor '.join(USERS)} for the agent's network process"
    )


def _error(row: dict[str, Any]) -> OperatorError:
    kind = NoAnswer if row.get("no_answer") else OperatorError
    return kind(Failure.of_code(row["failure"]), str(row["message"]))


# ---- the process itself ----------------------------------------------------------------------------------------------


def _become(user: pwd.struct_passwd | None) -> None:
    """Raises OSError; then there is no such process."""
    library = ctypes.CDLL(None, use_errno=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if user is not None:
        os.setgroups([])
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)  # its capabilities go with that: capabilities(7)
    for option, value in ((_PR_SET_NO_NEW_PRIVS, 1), (_PR_SET_PDEATHSIG, signal.SIGKILL)):
        if library.prctl(option, value, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the other process's, which may want to say something yet


def _serve(control: socket.socket, api: Api) -> None:
    """Until the other process is gone."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        for descriptor in descriptors:
            connection = socket.socket(fileno=descriptor)
            threading.Thread(target=_one, args=(connection, api), name="question", daemon=True).start()


def _one(connection: socket.socket, api: Api) -> None:
    with suppress(OSError, ValueError), connection, connection.makefile("rw", encoding="utf-8") as line:
        question = json.loads(line.readline())
        try:
            for row in _rows_of(question, api):
                line.write(json.dumps(row) + "\n")
                line.flush()
        except OperatorError as error:
            no_answer = isinstance(error, NoAnswer)
            line.write(
                json.dumps({"failure": error.failure.code, "message": str(error), "no_answer": no_answer}) + "\n"
            )


def _rows_of(question: dict[str, Any], api: Api) -> Iterator[dict[str, Any]]:
    if "cost" in question:
        traffic = getattr(api, "traffic", None)
        yield {"result": [0 if traffic is None else traffic.bytes, time.process_time()]}
    elif "events" in question:
        for event in api.events(question["events"], timeout_seconds=question["timeout_seconds"]):
            yield {"event": event}
        yield {"result": None}
    else:
        yield {"result": api.call(question["verb"], **question["parameters"])}

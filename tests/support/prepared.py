"""Daemons that need not read their modules: they fork from an interpreter that has.

One such interpreter belongs to each process of tests and ends with it; daemons that are left end with it too.
What starts from nothing is tested by those tests that run the command itself, `tapebay demo` for example.
"""

import functools
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NoReturn

from appliance.own_program import own_environment

ROOT = Path(__file__).resolve().parents[2]
MESSAGE_BYTES = 1 << 17
PRELOADED = "LD_PRELOAD"
IGNORABLE = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


class Process:
    """`tapebay ARGUMENTS`, as subprocess.Popen would have it; its standard error goes to a file."""

    def __init__(self, arguments: Sequence[str], stderr: IO[bytes], **environment: str) -> None:
        self.returncode: int | None = None
        environment = {**own_environment(), **environment}
        status, other_end = os.pipe()
        self._status = os.fdopen(status, "r")
        ignored = [number for number in IGNORABLE if signal.getsignal(number) == signal.SIG_IGN]  # by nohup(1)
        message = {
            "arguments": arguments, "environment": environment, "directory": str(Path.cwd()), "ignored": ignored,
        }  # fmt: skip
        socket.send_fds(_interpreter(), [json.dumps(message).encode()], [stderr.fileno(), other_end])
        os.close(other_end)
        started = self._status.readline()
        assert started, "the prepared interpreter has ended; its standard error says why"
        self.pid = int(started)

    def poll(self) -> int | None:
        """Its exit status, or minus the signal that ended it; None while it runs."""
        if self.returncode is None and self._has_ended(0):
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The same, when it has ended. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            if not self._has_ended(timeout):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            with self._status:
                self.returncode = int(self._status.readline())
        return self.returncode

    def _has_ended(self, timeout: float | None) -> bool:
        looking = select.poll()
        looking.register(self._status, select.POLLIN)
        return bool(looking.poll(None if timeout is None else 1000 * timeout))

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended just now
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@functools.cache
def _interpreter() -> socket.socket:
    """What the prepared interpreter of this process is told by."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    subprocess.Popen(
        [sys.executable, "-m", "tests.support.prepared", str(theirs.fileno())],
        cwd=ROOT,
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the tests, which stop what they have started
    )
    theirs.close()
    return ours


class Interpreter:
    """Forks a process for each message that comes, and tells how it ended, until nobody is there any more."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._running: dict[int, tuple[int, int]] = {}  # pidfd: process, where its status goes

    def run(self) -> None:
        """Returns in each of the processes, ready to be the command, and in this one at the end."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor != self._channel.fileno():
                    poll.unregister(descriptor)
                    self._tell(descriptor)
                    continue
                message, descriptors, _, _ = socket.recv_fds(self._channel, MESSAGE_BYTES, 2)
                if not message:
                    return self._end()
                if (started := self._fork(*descriptors)) is None:
                    return become(**json.loads(message))
                poll.register(started, select.POLLIN)

    def _fork(self, stderr: int, status: int) -> int | None:
        """The pidfd of a new process; None: this is it."""
        if process := os.fork():
            os.close(stderr)
            os.write(status, b"%d\n" % process)
            pidfd = os.pidfd_open(process)
            self._running[pidfd] = process, status
            return pidfd
        os.dup2(stderr, sys.stderr.fileno())
        mine = [stderr, status, self._channel.detach(), *self._running, *(told for _, told in self._running.values())]
        for descriptor in mine:
            os.close(descriptor)
        return None

    def _tell(self, pidfd: int) -> None:
        process, status = self._running.pop(pidfd)
        os.write(status, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
        os.close(status)
        os.close(pidfd)

    def _end(self) -> NoReturn:
        for process, _ in self._running.values():
            os.kill(process, signal.SIGKILL)
        sys.exit()


def become(arguments: Sequence[str], environment: Mapping[str, str], directory: str, ignored: Sequence[int]) -> None:
    """The rest of what a new process would find."""
    os.chdir(directory)
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    if environment.get(PRELOADED) != os.environ.get(PRELOADED):  # only what starts from nothing loads a library first
        os.execve(sys.executable, [sys.executable, "-P", "-m", "appliance", *arguments], dict(environment))
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = arguments


def main() -> None:
    import appliance.daemon
    from appliance.__main__ import main as command
    from appliance.operations import VERBS
    from tests.support import killed_threads

    assert appliance.daemon
    list(VERBS)  # imports what they are made of
    gc.freeze()
    Interpreter(socket.socket(fileno=int(sys.argv[1]))).run()
    killed_threads.install()
    command()


if __name__ == "__main__":
    main()

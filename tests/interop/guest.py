"""A real Linux initiator in a test: boots User-Mode Linux, runs steps in it, brings back what each one said.

No KVM, no disk image, no root: the guest's root is the host's file system with a tmpfs over it, so it has the host's
programs. A boot takes about 3 seconds and every program 25 ms or more, so a test groups what it has to ask. 10.0.2.2
in the guest is 127.0.0.1 here.
"""

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import packages

HERE = Path(__file__).parent
HOST_ADDRESS = "10.0.2.2"
INITIATOR_NAME = "iqn.2026-01.org.example:guest"
PACKAGES = ("user-mode-linux", "libslirp-helper", "open-iscsi", "kmod", "iproute2", "busybox-static", "lsscsi")
PACKET_BYTES = 32000
SOCKET_BUFFER_BYTES = 16 << 20
_SO_SNDBUFFORCE = 32
_READY = "tapebay: ready"
# What a device, a file system or the initiator of the kernel says when something went wrong, at whatever level it is
# logged.
_COMPLAINTS = re.compile(
    r"I/O error|Sense Key|Add. Sense|timing out|timed out|Unhandled|Unexpected|conn error|connection\d+:0:|reset|abort"
    r"|offline|rejected|corrupt|EXT4-fs (error|warning)"
    r"|\b(st|sd|ch|sg|scsi|iscsi)\b.*(fail|error|warn|unknown|invalid)",
    re.IGNORECASE,
)
_HOST_IS_BUSY = "hrtimer: interrupt took"  # the host gave the guest no processor for a while
_HARMLESS = (
    # The power-on unit attention (29h/00h) that a new session meets on each logical unit.
    "Power-on or device reset occurred",
    # The ch driver asks for the SCSI bus addresses of the drives, which element descriptors have not had since SMC-3.
    "ID/LUN unknown",
)


@dataclass(frozen=True, slots=True)
class Step:
    """One named piece of bash; all steps run in one shell. An unexpected status ends the run."""

    name: str
    script: str
    status: int | None = 0  # None: any


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step printed (standard output and error together) and its exit status."""

    name: str
    script: str
    output: str
    status: int


@dataclass(slots=True)
class GuestRun:
    """What came back from one boot."""

    outcomes: dict[str, Outcome]
    kernel_log: list[str]
    console: str
    seconds: float
    expected: list[Step] = field(default_factory=list)

    def __getitem__(self, name: str) -> str:
        """What the step of that name printed."""
        return self.outcomes[name].output

    def require_success(self) -> None:
        """Raise AssertionError with the transcript unless every step ran and ended with its expected status."""
        for step in self.expected:
            outcome = self.outcomes.get(step.name)
            if outcome is None or step.status not in (None, outcome.status):
                said = f"ended with status {outcome.status}" if outcome else "did not run"
                raise AssertionError(f"guest step {step.name!r} {said}\n{self.transcript()}")

    def require_quiet_kernel(self, *, allowed: str | None = None) -> None:
        """Raise AssertionError when the kernel logged a warning or a complaint after start-up that `allowed` does not
        match.
        """
        bad = [
            line
            for line in self.kernel_log
            if (re.match(r"\S+\s*:(emerg|alert|crit|err|warn)", line) or _COMPLAINTS.search(line))
            and not line.endswith(_HARMLESS)
            and _HOST_IS_BUSY not in line
            and not (allowed and re.search(allowed, line))
        ]
        assert not bad, "the guest's kernel complained:\n" + "\n".join(bad) + "\n" + self.transcript()

    def transcript(self) -> str:
        parts = [f"--- {o.name} (status {o.status})\n$ {o.script}\n{o.output}" for o in self.outcomes.values()]
        return "\n".join([*parts, "--- kernel", *self.kernel_log[-30:], "--- console", self.console[-2000:]])


def run(
    steps: Iterable[Step],
    *,
    portal: str,
    target: str,
    files: Iterable[Path] = (),
    initiator_name: str = INITIATOR_NAME,
    memory: str = "512M",
    timeout_seconds: float = 200,
) -> GuestRun:
    """Boot a guest, run the steps and check their statuses. `files` are copied to /mnt/share.

    Skips the test (fails it in CI) when a Debian package is missing. Raises AssertionError with a transcript.
    """
    packages.require(*PACKAGES)
    steps = list(steps)
    folder = Path(tempfile.mkdtemp(prefix="guest."))
    try:
        for file in (HERE / "guest_init.sh", HERE / "guest_library.sh", *files):
            shutil.copy(file, folder)
        (folder / "guest_init.sh").chmod(0o755)
        (folder / "steps.sh").write_text(_steps_script(steps, portal, target))
        started = time.monotonic()
        console = _boot(folder, initiator_name, memory, timeout_seconds)
        result = _collect(folder, steps, console, time.monotonic() - started)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result.require_success()
    return result


def _steps_script(steps: list[Step], portal: str, target: str) -> str:
    # Braces, not a subshell: variables and the working folder carry over from step to step.
    lines = [f"PORTAL={shlex.quote(portal)} TARGET={shlex.quote(target)}", ". /mnt/share/guest_library.sh"]
    for number, step in enumerate(steps):
        lines += ["{", step.script, f"}} >/mnt/share/{number}.output 2>&1"]
        lines += ["status=$?", f"echo $status >/mnt/share/{number}.status"]
        if step.status is not None:
            lines.append(f"[ $status = {step.status} ] || exit")
    return "\n".join(lines) + "\n"


def _collect(folder: Path, steps: list[Step], console: str, seconds: float) -> GuestRun:
    outcomes = {}
    for number, step in enumerate(steps):
        status = folder / f"{number}.status"
        output = folder / f"{number}.output"
        if output.exists():
            text = output.read_bytes().decode(errors="backslashreplace")
            code = int(status.read_text()) if status.exists() else -1
            outcomes[step.name] = Outcome(step.name, step.script, text, code)
    log = (folder / "dmesg").read_text(errors="backslashreplace") if (folder / "dmesg").exists() else ""
    after_start = log.partition(_READY)[2].splitlines()[1:]
    return GuestRun(outcomes, after_start, console, seconds, steps)


def _boot(folder: Path, initiator_name: str, memory: str, timeout_seconds: float) -> str:
    """Run the kernel until it switches itself off; return its console. A guest that hangs is ended."""
    with _network() as descriptor, (folder / "console").open("w+b") as console:
        kernel = subprocess.Popen(
            [
                *("linux.uml", f"mem={memory}", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"),
                *("loglevel=3", f"init={folder}/guest_init.sh", f"tapebay.share={folder}", f"uml_dir={folder}/uml"),
                *(f"tapebay.initiator={initiator_name}", "con=null", "con0=null,fd:1"),
                f"vec0:transport=fd,fd={descriptor},mtu={PACKET_BYTES}",
            ],
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
        )
        os.close(descriptor)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                kernel.wait(timeout_seconds)
        finally:
            # The kernel runs each of its processes in one of ours: end the whole group, which is this guest's alone.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(kernel.pid, signal.SIGKILL)
            kernel.wait()
        console.seek(0)
        return console.read().decode(errors="backslashreplace")


@contextlib.contextmanager
def _network() -> Iterator[int]:
    """Start a user-mode network for one guest; yield the descriptor of its Ethernet frames, for the guest to own."""
    # A SEQPACKET pair is bounded by its buffer; a DGRAM pair would hold ten frames.
    guest_side, host_side = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for side in (guest_side, host_side):
        try:
            side.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, SOCKET_BUFFER_BYTES)
        except PermissionError:
            side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    helper = subprocess.Popen(
        ["libslirp-helper", "--fd", str(host_side.fileno()), "--mtu", str(PACKET_BYTES), "--disable-ipv6"],
        pass_fds=[host_side.fileno()],
        stdin=subprocess.DEVNULL,
    )
    host_side.close()
    try:
        yield guest_side.detach()
    finally:
        helper.terminate()
        helper.wait()

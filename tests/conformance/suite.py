"""libiscsi's conformance suite (iscsi-test-cu), one process for each test, so that a hang or a crash costs one test.

CUnit alone cannot be believed: a test that skips itself counts as passed. The verdict comes from what the test
printed as well.
"""

import enum
import functools
import os
import re
import signal
import subprocess
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROGRAM = "iscsi-test-cu"
PACKAGE = "libiscsi-bin"
_RAN = re.compile(r"^\s+tests\s+\d+\s+(?P<ran>\d+)\s+\d+\s+(?P<failed>\d+)\s+\d+", re.MULTILINE)
_ASSERTS = re.compile(r"^\s+asserts\s+\d+\s+(?P<ran>\d+)", re.MULTILINE)
_SKIPPED = re.compile(r"\[SKIPPED\]\s*(.*)")
_FAILED = re.compile(r"\[FAILED\]\s*(.*)")
_ASSERTION = re.compile(r"^\s+\d+\.\s+(\S+:\d+\s+-\s+.*)$", re.MULTILINE)
# Before and after each suite the tool looks for reservations to clear away; where there is no PERSISTENT RESERVE IN
# it says so.
_CLEAN_UP = re.compile(r"\s*Send PRIN/READ_KEYS\s*(\[SKIPPED\] PERSISTENT RESERVE IN is not implemented\.)?\s*\Z")


class Verdict(enum.StrEnum):
    """What one test of the suite came to."""

    PASS = "pass"
    SKIP = "skip"  # the test found that it does not apply, and said so, or did nothing at all
    PART = "part"  # passed, with some of its assertions skipped
    FAIL = "fail"
    TIMEOUT = "timeout"
    CRASH = "crash"  # the tool died of a signal
    SETUP = "setup"  # the tool gave up before the test began


@dataclass(frozen=True, slots=True)
class Report:
    """A test's verdict, why (the tool's own words), and everything it printed."""

    verdict: Verdict
    reasons: tuple[str, ...]
    log: str


@functools.cache
def test_names() -> tuple[str, ...]:
    """All tests as SUITE.TEST, in the tool's order; none when the tool is not installed."""
    try:
        listing = subprocess.run([PROGRAM, "--list"], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ()
    names = (line.strip().removeprefix("ALL.") for line in listing.splitlines() if line.strip().startswith("ALL."))
    return tuple(dict.fromkeys(name for name in names if "." in name))


def run(
    test: str, urls: Sequence[str], *, sanitize: bool = False, preload: Path | None = None, timeout_seconds: float = 60
) -> Report:
    """Run one test, destructively, and judge it. `preload` is for logical units that the tool would not start on."""
    command = [PROGRAM, "--dataloss", "--normal", "--Verbose-scsi", *(["--allow-sanitize"] if sanitize else [])]
    environment = dict(os.environ, LD_PRELOAD=str(preload)) if preload else None
    process = subprocess.Popen(
        [*command, f"--test=ALL.{test}", *urls],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    timed_out = False
    try:
        output, _ = process.communicate(timeout=timeout_seconds)
    except subprocess.TimeoutExpired:
        timed_out = True
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    log = output.decode(errors="backslashreplace")
    return Report(*judge(log, process.returncode, timed_out=timed_out), log)


def judge(log: str, return_code: int, *, timed_out: bool = False) -> tuple[Verdict, tuple[str, ...]]:
    """Return the verdict and its reasons from what the tool printed and how it ended."""
    body = _body(log)
    failed, skipped = _unique(_FAILED, body), _unique(_SKIPPED, body)
    if timed_out:
        return Verdict.TIMEOUT, (*failed, *skipped) or ("no answer",)
    if return_code < 0:
        return Verdict.CRASH, (signal.Signals(-return_code).name, *failed)
    summary = _RAN.search(log)
    if summary is None or summary["ran"] == "0":
        return Verdict.SETUP, tuple(line.strip() for line in log.splitlines() if line.strip())[-3:]
    if summary["failed"] != "0":
        return Verdict.FAIL, (*failed, *_unique(_ASSERTION, log))
    if skipped:
        partly = all("Skipping assert" in reason for reason in skipped)
        return (Verdict.PART if partly else Verdict.SKIP), skipped
    return _judge_silence(log, body)


def _judge_silence(log: str, body: str) -> tuple[Verdict, tuple[str, ...]]:
    asserts = _ASSERTS.search(log)
    said = [line for line in body.splitlines()[1:] if line.strip()]
    if (not said and (asserts is None or int(asserts["ran"]) <= 1)) or "No version descriptor tests" in body:
        return Verdict.SKIP, ("the test did nothing",)
    return Verdict.PASS, ()


def _body(log: str) -> str:
    """What the test itself printed: behind CUnit's banner, before the summary, less the tool's own clean-up."""
    _, banner, after = log.partition("http://cunit.sourceforge.net/")
    body = after if banner else log
    return _CLEAN_UP.sub("", body.partition("Run Summary:")[0])


def _unique(pattern: re.Pattern[str], text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(found.strip() for found in pattern.findall(text)))


def build_shim(folder: Path) -> Path:
    """Compile the shim that lets the tool start on a tape drive or a changer; return the library."""
    library = folder / "not_a_disk.so"
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    source = Path(__file__).with_name("not_a_disk.c")
    command = [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    return library

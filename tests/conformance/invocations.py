"""How the suite is run: each invocation has the logical unit that its tests need."""

import re
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from tests.conformance import suite
from tests.conformance.suite import Verdict
from tests.support.appliance import Disk

EXPECTATIONS = Path(__file__).with_name("expectations.toml")
# Tests that mean something to a logical unit of any type: they send no READ (10) and ask for no page of a disk's.
_ANY_DEVICE = (
    r"TestUnitReady\.|ReportSupportedOpcodes\.|Reserve6\.|Prin|Prout(?!Reserve\.Access)|iSCSIcmdsn\."
    r"|Inquiry\.(?!BlockLimits|MandatoryVPDSBC|VersionDescriptors)|ModeSense6\.(?!Control-)"
)


@dataclass(frozen=True, slots=True)
class Invocation:
    """A kind of logical unit and the tests that are run against it (a regular expression over SUITE.TEST)."""

    name: str
    device: str
    tests: str
    disk: Disk | None = None
    sanitize: bool = False
    paths: int = 1
    timeout_seconds: float = 60

    @property
    def needs_shim(self) -> bool:
        return self.disk is None


# What is run on a disk of its own instead of the plain one.
_ELSEWHERE = (
    r"PreventAllow\.|StartStopUnit\.|NoMedia\.|ReadOnly\.|Sanitize\.|MultipathIO\.|Read6\.BeyondEol$|WriteAtomic16\.VPD$"
    r"|.*\.UnmapUnaligned$|.*\.InvalidDataOutSize$|WriteSame10\.UnmapUntilEnd$"
)

INVOCATIONS = (
    Invocation("disk", "disk", rf"(?!{_ELSEWHERE})", Disk("disk", "2 GiB")),
    # READ (6) reaches block 2^21 - 1: on a larger disk there is nothing beyond its end.
    Invocation("small", "disk", r"Read6\.", Disk("disk", "64 MiB")),
    # Several logical blocks to a physical one: what is not aligned, and what is not a whole one.
    Invocation(
        "512e",
        "disk",
        r"CompareAndWrite\.|WriteSame|WriteAtomic16\.|Unmap\.|ReadCapacity16\.",
        Disk("disk", "2 GiB", "physical_block_size = 4096\nread_zeros = false"),
    ),
    Invocation("4Kn", "disk", r"(Read|Write|Verify)1[026]\.|ReadCapacity", Disk("disk", "64 MiB", "block_size = 4096")),
    Invocation(
        "removable", "disk", r"PreventAllow\.|StartStopUnit\.|NoMedia\.", Disk("disk", "64 MiB", "removable = true")
    ),
    Invocation("read-only", "disk", r"ReadOnly\.", Disk("disk", "64 MiB", "read_only = true")),
    Invocation("sanitize", "disk", r"Sanitize\.(?!Reset)", Disk("disk", "64 MiB"), sanitize=True),
    # It starts a SANITIZE, sleeps three seconds, resets three times with a second of sleep each, wants it to be still
    # going on, and then looks once a minute whether it is over.
    Invocation(
        "slow sanitize",
        "disk",
        r"Sanitize\.Reset$",
        Disk("disk", "64 MiB", 'erase_rate = "6 MiB"'),
        sanitize=True,
        timeout_seconds=110,
    ),
    Invocation("multipath", "disk", r"MultipathIO\.", Disk("disk", "64 MiB"), paths=2),
    Invocation("tape", "drive0", _ANY_DEVICE),
    Invocation("changer", "changer", _ANY_DEVICE),
)


@dataclass(frozen=True, slots=True)
class Expectation:
    """A test that does not pass, and why that is right or when it will."""

    invocation: str
    test: str
    verdict: Verdict
    reason: str


def expectations() -> list[Expectation]:
    """The entries of expectations.toml."""
    document = tomllib.loads(EXPECTATIONS.read_text())
    return [
        Expectation(entry["invocation"], test, Verdict(entry["verdict"]), entry["reason"])
        for entry in document.get("expected", [])
        for test in entry["tests"]
    ]


def expected(invocation: Invocation, test: str) -> tuple[Verdict, str]:
    """The verdict that a test has to have, and the reason where it is not PASS."""
    for entry in expectations():
        if fnmatchcase(invocation.name, entry.invocation) and fnmatchcase(test, entry.test):
            return entry.verdict, entry.reason
    return Verdict.PASS, ""


def selected(invocation: Invocation) -> list[str]:
    """The tests of an invocation, in the tool's order."""
    return [test for test in suite.test_names() if re.match(invocation.tests, test)]

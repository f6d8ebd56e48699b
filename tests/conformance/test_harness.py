"""The runner itself, against an independent target whose verdicts are known.

When this fails, it is not Tapebay's fault.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance import suite
from tests.conformance.suite import Verdict
from tests.support import packages
from tests.support.tgt import TgtTarget


@pytest.fixture(scope="module")
def target() -> Iterator[TgtTarget]:
    packages.require("tgt", "libiscsi-bin", "libiscsi-dev", "gcc")
    with TgtTarget(disk_megabytes=2048) as running:
        yield running


@pytest.mark.parametrize(
    ("test", "verdict", "reason"),
    [
        ("Read10.Simple", Verdict.PASS, None),
        ("TestUnitReady.Simple", Verdict.PASS, None),
        ("Unmap.Simple", Verdict.SKIP, "Logical unit is fully provisioned. Skipping test"),
        ("Read6.BeyondEol", Verdict.SKIP, "the test did nothing"),
        ("NoMedia.NoMediaSBC", Verdict.SKIP, "LUN is not removable. Skipping test."),
        ("Reserve6.2Initiators", Verdict.FAIL, "MODESENSE6 successful but should have failed"),
    ],
)
def test_verdicts(target: TgtTarget, test: str, verdict: Verdict, reason: str | None) -> None:
    report = suite.run(test, [f"iscsi://{target.portal}/{target.target_name}/{target.disk_lun}"])
    assert report.verdict is verdict, report.log
    assert reason is None or any(reason in said for said in report.reasons), report.reasons


def test_nobody_there_is_a_failed_set_up() -> None:
    packages.require("libiscsi-bin")
    report = suite.run("Read10.Simple", ["iscsi://127.0.0.1:1/iqn.2012-08.org.example:nobody/0"])
    assert report.verdict is Verdict.SETUP


def test_the_shim_lets_the_tool_start_on_a_tape_drive(target: TgtTarget, tmp_path: Path) -> None:
    url = f"iscsi://{target.portal}/{target.target_name}/{target.tape_lun}"
    assert suite.run("TestUnitReady.Simple", [url]).verdict is Verdict.SETUP
    assert suite.run("TestUnitReady.Simple", [url], preload=suite.build_shim(tmp_path)).verdict is Verdict.PASS


def test_all_230_tests_are_known() -> None:
    packages.require("libiscsi-bin")
    assert len(suite.test_names()) == 230


def test_a_crash_and_a_hang_are_told_apart() -> None:
    assert suite.judge("", -11)[0] is Verdict.CRASH
    assert suite.judge("", -9, timed_out=True) == (Verdict.TIMEOUT, ("no answer",))

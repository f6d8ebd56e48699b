"""A backup that is stopped in the middle, in a library within this process: it stands before one of its writes, or what
reads the file system before one of its questions, when it happens. Each goes on at its last checkpoint."""

import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.backup.filesystems import isolated
from appliance.backup.filesystems.isolated import IsolatedFileSystem
from appliance.backup.job import BackupProgress
from appliance.backup.records import Backup, BackupState
from appliance.failures import OperatorError
from tests.unit.backup.test_faults import FIRST, Gate, Site, make_site, site

__all__ = ["make_site", "site"]

MEBIBYTE = 1 << 20


def standing(site: Site, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[int, Gate]:
    """The number of a backup that stands before its tenth write, on drive0; and what lets it go on."""
    gate = Gate(site.library.drives["drive0"], monkeypatch, 10)
    number = site.begin(FIRST, **options)
    assert gate.reached.wait(120)
    return number, gate


def cancelled(site: Site, number: int, gate: Gate | None = None) -> Any:
    """What the operator is told who cancels it."""
    reports: list[Any] = []
    job = site.library.backups.job(number)  # which may soon be over
    asking = threading.Thread(target=lambda: reports.append(site.do("backup.cancel", number=number)))
    asking.start()
    assert job.cancelled.wait(60)
    if gate is not None:
        gate.may_go_on.set()
    asking.join(120)
    (report,) = reports
    assert (report["state"], report["reason"]) == ("cancelled", "cancelled by the operator")
    assert site.space_is_given_back()
    return report


def reset_while_it_stands(site: Site, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """LOGICAL UNIT RESET of drive0; the write at hand ends once the copy is aborted."""
    drive = site.library.drives["drive0"]
    await_end = drive.tasks.await_end

    def go_on(*given: Any) -> None:
        gate.may_go_on.set()
        await_end(*given)

    monkeypatch.setattr(drive.tasks, "await_end", go_on)
    drive.reset()


def goes_on(site: Site, backup: Backup) -> None:
    assert site.resume(backup).state is BackupState.DONE
    assert site.on_tape(backup) == site.expected
    assert site.space_is_given_back()


def test_cancelled_and_resumed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    number, gate = standing(site, monkeypatch)
    report = cancelled(site, number, gate)
    assert 0 < report["content_bytes"] < report["total_bytes"]
    assert site.do("cartridge.show", barcode=FIRST)["place"] == "slot:1"
    with pytest.raises(OperatorError, match="does not run"):
        site.do("backup.cancel", number=number)
    goes_on(site, site.library.backups.records.get(number))
    with pytest.raises(OperatorError, match="is done"):
        site.do("backup.resume", number=number)


def test_a_drive_that_is_reset(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    number, gate = standing(site, monkeypatch, drive="drive0")  # so that it may not go on on the other by itself
    reset_while_it_stands(site, gate, monkeypatch)
    backup = site.ended(number)
    assert backup.state is BackupState.FAILED
    assert "another initiator has reset the unit" in backup.reason
    assert site.space_is_given_back()
    goes_on(site, backup)


def test_a_drive_that_is_reset_is_left_for_another(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    number, gate = standing(site, monkeypatch)
    reset_while_it_stands(site, gate, monkeypatch)
    backup = site.ended(number)
    assert backup.state is BackupState.DONE, backup.reason
    assert {drive.cartridge for drive in site.library.drives.values()} == {None}
    assert site.on_tape(backup) == site.expected
    assert site.do("verify", number=number)["equal"]


def test_how_long_it_will_still_take_is_shown(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    number, gate = standing(site, monkeypatch)
    assert site.do("backup.show", number=number)["seconds_left"] > 0
    assert cancelled(site, number, gate)["seconds_left"] is None


def test_how_long_it_will_still_take() -> None:
    """At the pace of this run: 40 of 100 MiB are there, 20 of them in the last 1000 s; files cost something too."""
    progress = BackupProgress(total_bytes=100 * MEBIBYTE, content_bytes=20 * MEBIBYTE)
    assert progress.seconds_left is None
    progress.copies()
    assert progress.seconds_left is None  # it has no pace yet
    progress.content_bytes, progress.copy_began = 40 * MEBIBYTE, time.monotonic() - 1000
    assert progress.seconds_left == pytest.approx(3000, rel=0.1)
    progress.total_files, progress.files = 2000, 200
    assert progress.seconds_left == pytest.approx(1000 * (60 + 1800 / 32) / (20 + 200 / 32), rel=0.1)
    progress.ended = time.monotonic()
    assert progress.seconds_left is None


# ---- what reads the file system --------------------------------------------------------------------------------------


@pytest.fixture
def at_a_question(monkeypatch: pytest.MonkeyPatch) -> Callable[[signal.Signals], Callable[[], subprocess.Popen[bytes]]]:
    """Sends a signal to the process that reads a file system, when it asks for bytes in its first walk. Gives what
    waits until that was done, and answers the process."""

    def arranged(number: signal.Signals) -> Callable[[], subprocess.Popen[bytes]]:
        answer, sent = IsolatedFileSystem._answer, threading.Event()
        processes: list[subprocess.Popen[bytes]] = []

        def answered(self: IsolatedFileSystem, offset: int, length: int) -> None:
            if self._walking and not processes:
                assert self._process is not None
                processes.append(self._process)
                self._process.send_signal(number)
                sent.set()
            answer(self, offset, length)

        monkeypatch.setattr(IsolatedFileSystem, "_answer", answered)

        def wait() -> subprocess.Popen[bytes]:
            assert sent.wait(120)
            return processes[0]

        return wait

    return arranged


def test_cancelled_while_what_reads_the_file_system_is_silent(site: Site, at_a_question: Any) -> None:
    wait = at_a_question(signal.SIGSTOP)
    number = site.begin(FIRST)
    process = wait()
    began = time.monotonic()
    cancelled(site, number)
    assert time.monotonic() - began < isolated.SILENCE_SECONDS / 4
    assert process.poll() is not None and not Path(f"/proc/{process.pid}").exists()
    goes_on(site, site.library.backups.records.get(number))


def test_what_reads_the_file_system_is_killed(site: Site, at_a_question: Any) -> None:
    wait = at_a_question(signal.SIGKILL)
    number = site.begin(FIRST)
    wait()
    backup = site.ended(number)
    assert backup.state is BackupState.FAILED
    assert "what reads it has ended" in backup.reason
    assert site.space_is_given_back()
    goes_on(site, backup)

"""The operator's commands on a cartridge that an initiator writes, and what the initiator learns when its files go."""

import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from datamover.initiator import InitiatorError, InitiatorSession
from tests.support import packages
from tests.support.appliance import FIRST_BARCODE, Appliance
from tests.support.scsi import CHECK_CONDITION, REWIND, Device, read_6, write_6, write_filemarks
from tests.unit.appliance.test_cli import as_json, tapebay

BLOCK = random.Random(3).randbytes(262_144)
WRITE_ERROR = (0x03, 0x0C, 0x00)


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[Appliance]:
    packages.require("libiscsi7")
    with Appliance.with_loaded_drive(tmp_path, drives=1, cartridges=1) as running:
        yield running


@contextmanager
def tape(appliance: Appliance) -> Iterator[Device]:
    with InitiatorSession(appliance.portal, appliance.target_name, timeout_seconds=60) as session:
        yield Device(session, appliance.lun("drive0"))


def test_verify_beside_a_backup_that_writes_and_overwrites(appliance: Appliance) -> None:
    """Never a false alarm, whatever the backup cuts off behind the reader's back."""
    done = threading.Event()
    failures: list[AssertionError | InitiatorError] = []
    reports: list[dict[str, Any]] = []

    def back_up() -> None:
        try:
            with tape(appliance) as drive:
                while not done.is_set():
                    for blocks in (300, 40, 120):
                        for _ in range(blocks):
                            drive.good(write_6(len(BLOCK)), BLOCK)
                        drive.good(write_filemarks())
                    drive.good(REWIND)
                    drive.good(read_6(len(BLOCK)), data_in_length=len(BLOCK))
        except (AssertionError, InitiatorError) as error:
            failures.append(error)

    writer = threading.Thread(target=back_up)
    writer.start()
    try:
        while len(reports) < 15 or sum(report["objects"] > 0 for report in reports) < 5:
            assert writer.is_alive()
            reports.append(as_json("cartridge", "verify", FIRST_BARCODE, TAPEBAY_CONFIG=str(appliance.config)))
    finally:
        done.set()
        writer.join()
    assert not failures
    assert all(report["damages"] == [] for report in reports)


@pytest.mark.parametrize("command", ["recover", "export", "delete", "protect"])
def test_what_would_disturb_the_backup_is_refused(appliance: Appliance, tmp_path: Path, command: str) -> None:
    more = {"recover": ["NEW001L6"], "export": [tmp_path / "t", "--format", "simh"], "delete": ["--yes"], "protect": []}
    refused = tapebay("cartridge", command, FIRST_BARCODE, *more[command], TAPEBAY_CONFIG=str(appliance.config))
    assert refused.exit_code == 1
    assert "in use" in refused.stderr or "unload it first" in refused.stderr
    assert not (tmp_path / "t").exists()


def test_a_vanished_cartridge_is_a_write_error_and_never_good(appliance: Appliance) -> None:
    with tape(appliance) as drive:
        drive.good(write_6(len(BLOCK)), BLOCK)
        drive.good(write_filemarks())
        shutil.rmtree(appliance.folder / "cartridges" / FIRST_BARCODE)
        drive.good(write_6(len(BLOCK)), BLOCK)
        for _ in range(2):
            result = drive.command(write_filemarks())
            assert result.status == CHECK_CONDITION
            assert (result.sense[2] & 0x0F, result.sense[12], result.sense[13]) == WRITE_ERROR

"""SIGKILL at any moment.

What was promised is there, what was not is whole or absent, every cartridge is in one place.
"""

import itertools
import random
import threading
import time
from pathlib import Path

import pytest

from appliance.failures import OperatorError
from datamover.initiator import InitiatorError, InitiatorSession
from tests.support import packages
from tests.support.appliance import Appliance, Disk
from tests.support.scsi import CHECK_CONDITION, REWIND, Device, read_6, read_10, write_6, write_10, write_filemarks

BLOCK = 20_000
SYNCHRONIZE_CACHE_10 = bytes([0x35]) + bytes(9)
SEED = 99


def tape_block(number: int) -> bytes:
    return random.Random(number).randbytes(BLOCK)


def read_tape(tape: Device) -> tuple[list[list[bytes]], tuple[int, int, int]]:
    """Every file on the tape, as its blocks, and the sense (key, ASC, ASCQ) that ended it."""
    tape.good(REWIND)
    files: list[list[bytes]] = [[]]
    while True:
        result = tape.command(read_6(BLOCK), data_in_length=BLOCK)
        if result.status == 0:
            files[-1].append(bytes(result.data))
            continue
        assert result.status == CHECK_CONDITION
        if not result.sense[2] & 0x80:  # FILEMARK
            return files, (result.sense[2] & 0x0F, result.sense[12], result.sense[13])
        files.append([])


def kill_after(appliance: Appliance, seconds: float) -> threading.Thread:
    """The moment of the crash is what is random here."""

    def crash() -> None:
        time.sleep(seconds)
        appliance.kill()

    thread = threading.Thread(target=crash)
    thread.start()
    return thread


@pytest.mark.parametrize("delay", [0.02, 0.1, 0.3])
def test_a_filemark_is_a_promise(tmp_path: Path, delay: float) -> None:
    packages.require("libiscsi7")
    with Appliance.with_loaded_drive(tmp_path) as appliance:
        promised = written = 0
        with pytest.raises(InitiatorError), InitiatorSession(appliance.portal, appliance.target_name) as session:
            tape = Device(session, appliance.lun("drive0"))
            crash = kill_after(appliance, delay)
            for number in itertools.count():
                written = number + 1
                tape.good(write_6(BLOCK), tape_block(number))
                if number % 10 == 9:
                    tape.good(write_filemarks())
                    promised = number + 1
        crash.join()
        appliance.start()
        with InitiatorSession(appliance.portal, appliance.target_name) as session:
            files, end = read_tape(Device(session, appliance.lun("drive0")))
        blocks = [block for file in files for block in file]
        assert promised <= len(blocks) <= written
        assert blocks == [tape_block(number) for number in range(len(blocks))]
        assert [len(file) for file in files[:-1]] == [10] * (len(files) - 1)
        assert end == (0x08, 0x00, 0x05)  # BLANK CHECK, END-OF-DATA DETECTED
        assert not appliance.problems(), appliance.log_text()


def places_of_cartridges(appliance: Appliance) -> list[str]:
    return [element["barcode"] for element in appliance.call("status")["elements"] if element["barcode"]]


@pytest.mark.parametrize("delay", [0.01, 0.05, 0.2])
def test_a_move_happened_or_did_not(tmp_path: Path, delay: float) -> None:
    packages.require("libiscsi7")
    rng = random.Random(SEED)
    with Appliance(tmp_path) as appliance:
        barcodes = sorted(places_of_cartridges(appliance))
        crash = kill_after(appliance, delay)
        moved = 0
        with pytest.raises((OperatorError, OSError)):
            while True:
                appliance.call("move", cartridge=rng.choice(barcodes), to=f"slot:{5 + moved % 16}")
                moved += 1
        crash.join()
        appliance.start()
        assert sorted(places_of_cartridges(appliance)) == barcodes
        # And it goes on working.
        appliance.load(barcodes[0])
        appliance.call("unload", drive="drive:0")


def persistent_reserve_out(action: int, type_: int = 0) -> bytes:
    return bytes([0x5F, action, type_, 0, 0, 0, 0, 0, 24, 0])


def reservation_parameters(key: int, action_key: int, *, aptpl: bool) -> bytes:
    return key.to_bytes(8, "big") + action_key.to_bytes(8, "big") + bytes(4) + bytes([aptpl, 0, 0, 0])


@pytest.mark.parametrize("aptpl", [True, False])
@pytest.mark.parametrize("name", ["disk", "drive0", "changer"])
def test_a_persistent_reservation_survives_when_it_is_to(tmp_path: Path, name: str, aptpl: bool) -> None:
    """REGISTER with APTPL, RESERVE, SIGKILL: keys and holder are there again (SPC-5 5.14.5)."""
    packages.require("libiscsi7")
    register, reserve, exclusive_access = 0, 1, 3
    with Appliance(tmp_path, disks=[Disk("disk", "16 MiB")]) as appliance:
        with InitiatorSession(appliance.portal, appliance.target_name) as session:
            device = Device(session, appliance.lun(name))
            device.good(persistent_reserve_out(register), reservation_parameters(0, 0xABC, aptpl=aptpl))
            parameters = reservation_parameters(0xABC, 0, aptpl=False)
            device.good(persistent_reserve_out(reserve, exclusive_access), parameters)
            appliance.kill()
            session.close()
        appliance.start()
        with InitiatorSession(appliance.portal, appliance.target_name) as session:
            device = Device(session, appliance.lun(name))
            keys = device.good(bytes([0x5E, 0, 0, 0, 0, 0, 0, 0, 64, 0]), data_in_length=64)
            reservation = device.good(bytes([0x5E, 1, 0, 0, 0, 0, 0, 0, 64, 0]), data_in_length=64)
    assert keys[4:] == ((8).to_bytes(4, "big") + (0xABC).to_bytes(8, "big") if aptpl else bytes(4))
    assert reservation[4:8] == (16 if aptpl else 0).to_bytes(4, "big")
    if aptpl:
        assert (int.from_bytes(reservation[8:16], "big"), reservation[21]) == (0xABC, exclusive_access)


def test_a_synchronized_disk_keeps_its_blocks(tmp_path: Path) -> None:
    packages.require("libiscsi7")
    with Appliance(tmp_path, disks=[Disk("disk", "16 MiB")], cartridges=0) as appliance:
        with InitiatorSession(appliance.portal, appliance.target_name) as session:
            disk = Device(session, appliance.lun("disk"))
            for number in range(64):
                disk.good(write_10(number * 8, 8), bytes([number]) * 4096)
            disk.good(SYNCHRONIZE_CACHE_10)
            appliance.kill()
            session.close()
        appliance.start()
        with InitiatorSession(appliance.portal, appliance.target_name) as session:
            disk = Device(session, appliance.lun("disk"))
            for number in range(64):
                assert disk.good(read_10(number * 8, 8), data_in_length=4096) == bytes([number]) * 4096

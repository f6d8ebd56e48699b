"""tshark reads a whole session as it went over the wire and finds nothing wrong with it."""

import subprocess
from pathlib import Path

import pytest

from datamover.initiator import InitiatorSession
from tests.support import packages
from tests.support.appliance import Appliance, Disk
from tests.support.recorder import RecordingProxy
from tests.support.scsi import (
    MODE_SENSE_6,
    REWIND,
    CopyEndpoint,
    Device,
    disk_to_tape,
    extended_copy,
    inquiry,
    read_6,
    read_10,
    read_element_status,
    receive_copy_status,
    write_6,
    write_10,
    write_filemarks,
)

REPORT_LUNS = bytes([0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0])
BLOCK = 64 << 10


def talk(portal: str, appliance: Appliance, *, header_digest: bool) -> None:
    """Login, disk, tape, changer and copy, all through one session."""
    with InitiatorSession(portal, appliance.target_name, header_digest=header_digest) as session:
        devices = {name: Device(session, appliance.lun(name)) for name in ("changer", "drive0", "disk")}
        for device in devices.values():
            device.good(inquiry(), data_in_length=255)  # tells the dissector what kind of device this is
            device.good(inquiry(0x00), data_in_length=255)
            device.good(MODE_SENSE_6, data_in_length=255)
            device.good(REPORT_LUNS, data_in_length=256)
        talk_to_disk(devices["disk"])
        talk_to_tape(devices["drive0"])
        devices["changer"].good(read_element_status(), data_in_length=0xFFFF)
        copy(devices["disk"], devices["drive0"])
        session.ping()
        assert session.command(77, inquiry(), data_in_length=255).status in (0, 2)
        session.logical_unit_reset(appliance.lun("disk"))


def talk_to_disk(disk: Device) -> None:
    data = bytes(range(256)) * 2048
    disk.good(write_10(0, len(data) // 512), data)
    assert disk.good(read_10(0, len(data) // 512), data_in_length=len(data)) == data
    assert disk.command(read_10(0xFFFFFF00, 8), data_in_length=4096).status == 2


def talk_to_tape(tape: Device) -> None:
    tape.good(REWIND)
    for number in range(4):
        tape.good(write_6(BLOCK), bytes([number]) * BLOCK)
    tape.good(write_filemarks())
    tape.good(REWIND)
    assert tape.good(read_6(BLOCK), data_in_length=BLOCK) == bytes(BLOCK)
    assert tape.command(read_6(BLOCK * 2), data_in_length=BLOCK * 2).status == 2  # a short block


def copy(disk: Device, tape: Device) -> None:
    endpoints = CopyEndpoint(disk.designator(), 0x00, 512), CopyEndpoint(tape.designator(), 0x01, BLOCK)
    parameters = disk_to_tape(*endpoints, 1024)
    disk.good(extended_copy(len(parameters)), parameters)
    disk.good(receive_copy_status(1), data_in_length=64)


def dissect(capture: Path, *arguments: str) -> str:
    command = ["tshark", "-r", str(capture), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("header_digest", [False, True], ids=["plain", "header digest"])
def test_no_packet_is_malformed(tmp_path: Path, header_digest: bool) -> None:
    packages.require("tshark", "libiscsi7")
    capture = tmp_path / "session.pcap"
    with Appliance.with_loaded_drive(tmp_path, disks=[Disk("disk", "16 MiB")]) as appliance:
        with RecordingProxy(("127.0.0.1", appliance.port)) as proxy:
            talk(proxy.portal, appliance, header_digest=header_digest)
        proxy.write_capture(capture)
    assert dissect(capture, "-Y", "_ws.malformed || _ws.expert.severity >= error") == ""
    # And it did see the session: commands of every kind, their answers, the logout.
    seen = dissect(capture, "-Y", "iscsi")
    for word in (
        "Login Response (Success)",
        "Write(10)",
        "Read(10)",
        "Ready To Transfer",
        "Inquiry",
        "Logout Response",
    ):
        assert word in seen, seen
    assert "Extended Copy" in seen or "0x83" in seen, seen

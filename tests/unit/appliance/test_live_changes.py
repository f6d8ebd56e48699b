"""Adding, removing and growing what a library contains while initiators are logged in."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.failures import Failure, OperatorError
from appliance.operations import setup
from datamover.initiator import CommandResult, Credentials, InitiatorError, InitiatorSession
from scsi_targets.t10 import spc
from tests.support import packages
from tests.support.scsi import inquiry, read_10, write_10
from tests.support.waiting import eventually
from tests.unit.appliance.daemon_process import ROOT, Daemon

LUNS_CHANGED, CAPACITY_CHANGED, MODE_CHANGED = (0x3F, 0x0E), (0x2A, 0x09), (0x2A, 0x01)


@dataclass(frozen=True)
class Device:
    """A logical unit, with the unit attentions that wait on it."""

    session: InitiatorSession
    lun: int

    def command(self, cdb: bytes, data_out: bytes | None = None, data_in_length: int = 0) -> CommandResult:
        return self.session.command(self.lun, cdb, data_out, data_in_length)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    packages.require("libiscsi7")
    directory = tmp_path / "lib"
    setup.create(directory, setup.plan(directory, portal="127.0.0.1:0", slots=4, disks=[("one", "1 MiB")]))
    daemon = Daemon(directory)
    try:
        daemon.wait_ready()
        yield daemon
    finally:
        status = daemon.stop()
        print(*daemon.log, sep="\n")
        assert status == 0
    assert not [line for line in daemon.log if line.get("level") == "error"], daemon.log


@pytest.fixture
def session(daemon: Daemon) -> Iterator[InitiatorSession]:
    status = daemon.call("status")
    with InitiatorSession(
        daemon.wait_ready()["portals"][0], status["targets"][0]["iqn"], timeout_seconds=60
    ) as session:
        for lun in luns(session):
            settle(Device(session, lun))
        yield session


def luns(session: InitiatorSession) -> list[int]:
    """What REPORT LUNS says now, whatever unit attention comes first."""
    device = Device(session, 0)
    for _ in range(5):
        result = device.command(spc.ReportLuns.encode(select_report=0, allocation_length=4096), data_in_length=4096)
        if result.status == 0:
            data = bytes(result.data)
            length = int.from_bytes(data[:4], "big")
            return [int.from_bytes(data[at : at + 2], "big") & 0x3FFF for at in range(8, 8 + length, 8)]
    raise AssertionError(result.sense.hex())


def settle(device: Device) -> list[tuple[int, int]]:
    """The unit attentions that wait on a logical unit, taken."""
    found = []
    for _ in range(10):
        result = device.command(bytes(6))  # TEST UNIT READY
        if result.status != 2 or result.sense[2] & 0x0F != 6:
            return found
        found.append((result.sense[12], result.sense[13]))
    raise AssertionError(found)


def tapebay(daemon: Daemon, *arguments: object, given: str = "") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-P", "-m", "appliance", *map(str, arguments), "--config", str(daemon.directory)]
    done = subprocess.run(
        command,
        env={"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_a_disk_comes_and_is_used(daemon: Daemon, session: InitiatorSession) -> None:
    before = luns(session)
    assert tapebay(daemon, "disk", "create", "two", "1 MiB").stdout.rstrip().endswith("served")
    eventually(lambda: luns(session) == [*before, 4])
    assert LUNS_CHANGED in settle(Device(session, 1))
    two = Device(session, 4)
    settle(two)
    assert two.command(write_10(0, 1), b"x" * 512).status == 0
    assert (daemon.directory / "disks" / "two.img").read_bytes()[:512] == b"x" * 512


def test_a_disk_goes_and_its_image_stays(daemon: Daemon, session: InitiatorSession) -> None:
    before = luns(session)
    disk = Device(session, 3)
    assert disk.command(write_10(0, 1), b"y" * 512).status == 0
    tapebay(daemon, "disk", "remove", "one", "--yes")
    eventually(lambda: luns(session) == before[:-1])
    result = disk.command(read_10(0, 1), data_in_length=512)
    assert (result.sense[2] & 0x0F, result.sense[12]) == (5, 0x25)  # LOGICAL UNIT NOT SUPPORTED
    assert (daemon.directory / "disks" / "one.img").read_bytes()[:512] == b"y" * 512
    # Its name is free again, and so is its image for whoever opens it.
    with pytest.raises(OperatorError, match="exists already"):
        daemon.call("disk.create", name="one", size="1 MiB")
    (daemon.directory / "disks" / "one.img").unlink()
    daemon.call("disk.create", name="one", size="1 MiB")
    eventually(lambda: luns(session) == before)


RESERVE_6, RELEASE_6 = bytes([0x16, 0, 0, 0, 0, 0]), bytes([0x17, 0, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("name", "lun", "change"),
    [
        ("changer", 0, ["changer", "resize", "--slots", "3"]),
        ("drive1", 2, ["drive", "remove", "drive1", "--yes"]),
        ("one", 3, ["disk", "remove", "one", "--yes"]),
    ],
)
def test_what_an_initiator_has_reserved_stays(
    daemon: Daemon, session: InitiatorSession, name: str, lun: int, change: list[str]
) -> None:
    device, before = Device(session, lun), luns(session)
    assert device.command(RESERVE_6).status == 0
    with pytest.raises(AssertionError, match=rf"(?s){name} is in use: iqn.*reservation break {name}"):
        tapebay(daemon, *change)
    assert luns(session) == before
    assert settle(device) == []
    tapebay(daemon, "reservation", "break", name, "--yes")
    tapebay(daemon, *change)


def test_a_disk_under_load_goes_without_a_hang(daemon: Daemon, session: InitiatorSession) -> None:
    disk = Device(session, 3)
    waiting = [session.submit(3, read_10(0, 1), data_in_length=512) for _ in range(30)]
    daemon.call("disk.remove", name="one")
    statuses = {session.wait(command).status for command in waiting}
    assert statuses <= {0, 2}
    eventually(lambda: disk.command(bytes(6)).sense[12:13] == b"\x25")


def test_a_disk_that_was_added_grows(daemon: Daemon, session: InitiatorSession) -> None:
    daemon.call("disk.create", name="two", size="1 MiB")
    eventually(lambda: 4 in luns(session))
    settle(Device(session, 4))
    assert daemon.call("disk.grow", name="two", size="2 MiB")["size_bytes"] == 2 << 20
    assert CAPACITY_CHANGED in settle(Device(session, 4))
    with pytest.raises(OperatorError, match="can only grow"):
        daemon.call("disk.grow", name="two", size="1 MiB")


def test_a_drive_comes_is_used_and_goes(daemon: Daemon, session: InitiatorSession) -> None:
    daemon.call("cartridge.create", barcode="A00001L6")
    made = daemon.call("drive.create", name="extra")
    assert (made["place"], made["served"]) == ("drive:2", True)
    eventually(lambda: luns(session) == [0, 1, 2, 3, 4])
    assert MODE_CHANGED in settle(Device(session, 0))
    assert daemon.call("load", cartridge="A00001L6", drive="extra")["to"] == "drive:2"
    drive = Device(session, 4)
    settle(drive)
    assert drive.command(bytes(6)).status == 0
    assert bytes(drive.command(inquiry(), data_in_length=36).data)[8:11] == b"IBM"
    with pytest.raises(OperatorError, match="unload it first"):
        daemon.call("drive.remove", name="extra")
    with pytest.raises(OperatorError, match="unload it first"):  # those behind it would move up
        daemon.call("drive.remove", name="drive0")
    daemon.call("unload", drive="extra")
    daemon.call("drive.remove", name="extra")
    eventually(lambda: luns(session) == [0, 1, 2, 3])
    assert [row["name"] for row in daemon.call("drive.list")] == ["drive0", "drive1"]


def test_slots_come_and_go(daemon: Daemon, session: InitiatorSession) -> None:
    settle(Device(session, 0))
    assert tapebay(daemon, "changer", "resize", "--slots", 8).stdout == "8 slots, 2 import/export slots\n"
    assert MODE_CHANGED in settle(Device(session, 0))
    daemon.call("cartridge.create", barcode="A00001L6", count=6)
    with pytest.raises(OperatorError, match="A00005L6 is in slot:5, which would go"):
        daemon.call("changer.resize", slots=4)
    for number in (5, 6):
        daemon.call("move", cartridge=f"A0000{number}L6", to="shelf")
    assert daemon.call("changer.resize", slots=4, import_export=0)["import_export"] == 0
    assert [row["place"] for row in daemon.call("status")["elements"] if row["place"].startswith(("slot", "ie"))] == [
        f"slot:{number}" for number in range(1, 5)
    ]
    with pytest.raises(OperatorError) as caught:
        daemon.call("changer.resize", slots=0)
    assert (caught.value.failure, str(caught.value)) == (Failure.USAGE, "slots: must be at least 1, not 0")


def test_targets_come_and_go(daemon: Daemon, session: InitiatorSession) -> None:
    portal, iqn = daemon.wait_ready()["portals"][0], "iqn.2026-11.io.tapebay:second"
    daemon.call("target.create", iqn=iqn.upper())
    with pytest.raises(OperatorError, match="already"):
        daemon.call("target.create", iqn=iqn)
    with InitiatorSession(portal, iqn, timeout_seconds=60) as second:
        assert luns(second) == luns(session)
        daemon.call("target.change", iqn=iqn, initiators="iqn.2026-11.example:nobody")
        eventually(lambda: ended(second))
        second.close()  # a logout would race with the end of the session
    with pytest.raises(InitiatorError):
        InitiatorSession(portal, iqn, timeout_seconds=60)
    daemon.call("target.remove", iqn=iqn)
    assert len(daemon.call("target.list")) == 1
    assert luns(session)
    with pytest.raises(OperatorError, match="at least 1"):  # the last one
        daemon.call("target.remove", iqn=daemon.call("target.list")[0]["iqn"])


def ended(session: InitiatorSession) -> bool:
    """Whether a session sees nothing any more."""
    try:
        return bool(session.command(0, bytes(6), None, 0).status)
    except InitiatorError:
        return True


def sees_nothing(session: InitiatorSession) -> bool:
    """Whether REPORT LUNS has nothing to report."""
    try:
        answer = session.command(0, bytes([0xA0, *bytes(5), 0, 0, 1, 0, 0, 0]), data_in_length=256)
        return answer.status != 0 or not int.from_bytes(answer.data[:4], "big")
    except InitiatorError:
        return True


def test_accounts_come_and_go(daemon: Daemon, session: InitiatorSession) -> None:
    portal, iqn = daemon.wait_ready()["portals"][0], daemon.call("target.list")[0]["iqn"]
    made = tapebay(daemon, "account", "create", "backup", given="twelve chars\n")
    assert "twelve chars" not in made.stdout
    assert [(row["user"], row["mutual"]) for row in daemon.call("account.list")] == [("backup", False)]
    with pytest.raises(InitiatorError):
        InitiatorSession(portal, iqn, timeout_seconds=60)
    eventually(lambda: ended(session))  # it proved nothing
    with pytest.raises(OperatorError, match="secret: must have at least 12 characters, not this"):
        daemon.call("account.create", user="other", secret="short")
    proved = InitiatorSession(portal, iqn, credentials=Credentials("backup", "twelve chars"), timeout_seconds=60)
    assert luns(proved)
    daemon.call("account.delete", user="backup")
    eventually(lambda: sees_nothing(proved))  # nobody is that account now, though nobody is asked for one either
    with InitiatorSession(portal, iqn, timeout_seconds=60) as again:
        assert luns(again)


def test_apply_carries_out_at_once(daemon: Daemon, session: InitiatorSession) -> None:
    path = daemon.directory / "tapebay.toml"
    text = path.read_text().replace('size = "1 MiB"', 'size = "2 MiB"').replace("slots = 4", "slots = 6")
    path.write_text(text + '[[disks]]\nname = "declared"\nsize = "1 MiB"\n')
    planned = daemon.call("configuration.plan")
    assert planned["changes"] == [
        "~ changer: slots 4 -> 6",
        "~ disk one: size 1 MiB -> 2 MiB",
        "+ disk declared: size 1 MiB",
    ]
    done = daemon.call("configuration.apply")
    assert done["changes"] == planned["changes"]
    eventually(lambda: 4 in luns(session))
    assert CAPACITY_CHANGED in settle(Device(session, 3))
    path.write_text(text)
    assert daemon.call("configuration.plan")["removals"] == ["- disk declared"]
    pruned = daemon.call("configuration.apply", prune=True)
    assert (pruned["changes"], pruned["removals"]) == (["- disk declared"], [])
    eventually(lambda: 4 not in luns(session))


def product(session: InitiatorSession, lun: int) -> str:
    data = bytes(Device(session, lun).command(inquiry(length=36), data_in_length=36).data)
    return data[8:32].decode().rstrip()


def test_another_library_and_other_drives_at_once(daemon: Daemon, session: InitiatorSession) -> None:
    """The models of the library and of a drive, and the order of the drives: other devices, where nothing is loaded."""
    path = daemon.directory / "tapebay.toml"
    text = path.read_text().replace('model = "IBM 3573-TL"', 'model = "QUANTUM Scalar i6"')
    first, second = text.index('name = "drive0"'), text.index('name = "drive1"')
    text = f'{text[:first]}name = "drive1"{text[first + 15 : second]}name = "drive0"{text[second + 15 :]}'
    text = text.replace('model = "IBM ULT3580-TD6"', 'model = "HP Ultrium 6-SCSI"', 1)  # of drive1, the first now
    daemon.call("cartridge.create", barcode="A00001L6")
    daemon.call("load", cartridge="A00001L6", drive="drive1")
    path.write_text(text)
    with pytest.raises(OperatorError, match="A00001L6 is in drive1; unload it first"):
        daemon.call("configuration.apply")
    daemon.call("unload", drive="drive1")
    daemon.call("configuration.apply")
    eventually(lambda: product(session, 0) == "QUANTUM Scalar i6")
    assert {LUNS_CHANGED} <= set(settle(Device(session, 1)))
    names = {device["name"]: device["model"] for device in daemon.call("status")["devices"]}
    assert (names["drive1"], names["drive0"]) == ("HP Ultrium 6-SCSI", "IBM ULT3580-TD6")
    drives = {row["name"]: row["place"] for row in daemon.call("drive.list")}
    assert drives == {"drive1": "drive:0", "drive0": "drive:1"}
    daemon.call("load", cartridge="A00001L6", drive="drive1")
    assert daemon.call("cartridge.show", barcode="A00001L6")["place"] == "drive:0"


def test_a_disk_that_becomes_read_only_is_another_one(daemon: Daemon, session: InitiatorSession) -> None:
    path = daemon.directory / "tapebay.toml"
    path.write_text(path.read_text().replace("# read_only = false", "read_only = true"))
    assert daemon.call("configuration.apply")["changes"] == ["~ disk one: read_only false -> true"]
    disk = Device(session, 3)
    eventually(lambda: settle(disk) == [])
    result = disk.command(write_10(0, 1), b"z" * 512)
    assert (result.sense[2] & 0x0F, result.sense[12]) == (7, 0x27)  # WRITE PROTECTED

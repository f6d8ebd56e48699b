"""A daemon that is killed in mid-copy: the next one says so, and the tape ends at a whole block."""

import subprocess
import sys

import pytest

from datamover.engine import crc32c
from datamover.initiator import InitiatorSession
from scsi_targets.client.copy_manager import CopyingUnit
from scsi_targets.client.disk import Disk
from scsi_targets.client.tape import END_OF_DATA, Tape
from scsi_targets.t10 import copy_descriptors as copy
from scsi_targets.t10 import sense_data
from tests.conformance.test_backup_examples import example
from tests.support import packages
from tests.support.appliance import Appliance
from tests.support.appliance import Disk as DiskOptions
from tests.support.waiting import eventually
from tests.unit.devices.copying.support import content

SIZE = 8 << 20
BLOCK = 65536


@pytest.fixture
def appliance(tmp_path):
    packages.require("libiscsi7")
    appliance = Appliance.with_loaded_drive(
        tmp_path,
        disks=[DiskOptions("one", "8 MiB"), DiskOptions("two", "8 MiB")],
        more='[limits]\ncopy_rate = "512 KiB"',
    )
    with appliance.image("one").open("r+b") as image:
        image.write(content(SIZE))
    yield appliance
    if appliance.is_running():
        appliance.stop()


def copies(appliance):
    return appliance.call("copies.list")


def whole_disk():
    return copy.BlockToStream.encode(
        source=0, destination=1, stream_device_transfer_length=BLOCK, number_of_blocks=SIZE // 512
    )


def told_after_power_on(manager):
    """Sense keys and additional sense codes of RECEIVE COPY STATUS, asked twice."""
    told = []
    for _ in range(2):
        result = manager.session.command(
            manager.lun, copy.ReceiveCopyStatusLid1.encode(list_identifier=7, allocation_length=12), data_in_length=12
        )
        code = sense_data.decode(result.sense).code
        told.append((code.key, code.asc))
    return told


def test_killed_in_mid_copy(appliance):
    with InitiatorSession(appliance.portal, appliance.target_name) as session:
        disk = Disk(session, appliance.lun("one"))
        tape = Tape(session, appliance.lun("drive0"))
        manager = CopyingUnit(session, tape.lun)
        manager.test_unit_ready()
        data = copy.parameter_list([disk.cscd(), tape.cscd()], [whole_disk()], list_identifier=7)
        session.submit(tape.lun, copy.ExtendedCopyLid1.encode(parameter_list_length=len(data)), data)
        eventually(lambda: session.ping() or (copies(appliance) and copies(appliance)[-1]["bytes_written"]))
        appliance.kill()
        session.close()
    appliance.start()
    cut_off = [entry for entry in appliance.log if "cut off" in entry["event"]]
    assert [(entry["device"], entry["list_identifier"]) for entry in cut_off] == [("drive0", 7)]
    (told,) = copies(appliance)
    assert (told["state"], told["device"], told["list_identifier"]) == ("failed", "drive0", 7)
    assert "ended in mid-copy" in told["reason"]
    with InitiatorSession(appliance.portal, appliance.target_name) as session:
        manager = CopyingUnit(session, appliance.lun("drive0"))
        assert told_after_power_on(manager) == [(0x6, 0x29), (0x5, 0x24)]  # SPC-5 6.22: no results after a reset
        tape = Tape(session, appliance.lun("drive0"))
        tape.rewind()
        tape.space(END_OF_DATA)
        blocks = tape.position().logical_object_number
        tape.rewind()
        into = bytearray(BLOCK)
        written = b"".join(bytes(into[: tape.read_block(into)]) for _ in range(blocks))
    assert written == content(SIZE)[: blocks * BLOCK]
    appliance.stop()
    appliance.start()
    assert copies(appliance) == []  # it was told


def test_the_asking_connection_drops(appliance):
    """Nobody waits for the copy any more: it ends at a block, and its drive is free."""
    session = InitiatorSession(appliance.portal, appliance.target_name)
    disk, tape = Disk(session, appliance.lun("one")), Tape(session, appliance.lun("drive0"))
    CopyingUnit(session, tape.lun).test_unit_ready()
    data = copy.parameter_list([disk.cscd(), tape.cscd()], [whole_disk()], list_identifier=7)
    session.submit(tape.lun, copy.ExtendedCopyLid1.encode(parameter_list_length=len(data)), data)
    eventually(lambda: session.ping() or (copies(appliance) and copies(appliance)[-1]["bytes_written"]))
    session.close()
    eventually(lambda: copies(appliance)[-1]["state"] == "failed")
    with InitiatorSession(appliance.portal, appliance.target_name) as again:
        tape = Tape(again, appliance.lun("drive0"))
        tape.rewind()
        into = bytearray(BLOCK)
        assert tape.read_block(into) == BLOCK
        assert into == content(BLOCK)


def test_the_checksum_of_each_file_as_the_document_has_it(appliance):
    files = {"a": [(10, 7), (100, 3)], "b": [(500, 16)], "c": []}
    seen = []
    space = example(
        -1, appliance.portal, TARGET=appliance.target_name, DISK=appliance.lun("one"), DRIVE=appliance.lun("drive0"),
        SOCKET=appliance.folder / "tapebay.sock", FILES=files, BLOCK=4096, report=seen.append,
    )  # fmt: skip
    whole = content(SIZE)
    data = {
        name: b"".join(whole[first * 512 : (first + blocks) * 512] for first, blocks in extents)
        for name, extents in files.items()
    }
    assert space["checksums"] == {name: crc32c(found) for name, found in data.items()}


# ---- tapebay copy, as a process -------------------------------------------------------------------------------------


def tapebay(appliance, *arguments):
    command = [sys.executable, "-m", "appliance", *arguments, "--config", str(appliance.config)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_copy_by_the_command_line(appliance):
    done = tapebay(appliance, "copy", "disk:one@0+2048", "disk:two", "--json")
    assert done.wait(60) == 0, done.stderr.read()
    assert '"bytes_copied": 1048576' in done.stdout.read()
    failed = tapebay(appliance, "copy", "disk:one", "drive:drive1")
    assert failed.wait(60) == 1
    assert "medium not present" in failed.stderr.read()


def test_ctrl_c_stops_a_copy_at_a_block(appliance):
    running = tapebay(appliance, "copy", "disk:one", "drive:drive0", "--block-length", str(BLOCK))
    eventually(lambda: copies(appliance) and copies(appliance)[-1]["bytes_written"])
    running.send_signal(2)
    assert running.wait(60) == 1
    assert "a tape ends at a whole block" in running.stderr.read()
    eventually(lambda: copies(appliance)[-1]["state"] == "failed")
    assert copies(appliance)[-1]["reason"] == "it was stopped"
    assert copies(appliance)[-1]["bytes_written"] % BLOCK == 0

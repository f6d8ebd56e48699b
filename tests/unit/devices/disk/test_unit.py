"""START STOP UNIT, PREVENT ALLOW, removable disks, growing."""

import pytest

from scsi_targets.t10 import sbc, spc
from tests.support.waiting import eventually
from tests.unit.devices.disk.support import BLOCKS, make_disk, read, write
from tests.unit.devices.support import ALPHA, BETA, data_of, send, sense_of
from vlib_images.disk.raw import DiskImage

NO_MEDIUM = (2, 0x3A, 0)


@pytest.fixture
def removable(tmp_path):
    device = make_disk(tmp_path, removable=True)
    for nexus in (ALPHA, BETA):
        device.nexus_established(nexus)
        send(device, bytes(6), nexus=nexus)
    yield device
    device.close()


def start_stop(disk, **fields):
    nexus = fields.pop("nexus", ALPHA)
    return send(disk, sbc.StartStopUnit.encode(**fields), nexus=nexus)


def prevent(disk, value, nexus=ALPHA):
    return send(disk, spc.PreventAllowMediumRemoval.encode(prevent=value), nexus=nexus)


def test_a_stopped_disk_needs_a_start(disk):
    assert start_stop(disk, start=0).status == 0
    for cdb in (bytes(6), sbc.Read10.encode(transfer_length=1), sbc.ReadCapacity10.encode()):
        assert sense_of(send(disk, cdb)) == (2, 4, 2)
    assert data_of(send(disk, spc.RequestSense.encode(allocation_length=18)))[2] == 2
    assert data_of(send(disk, spc.Inquiry.encode(allocation_length=36)))
    assert start_stop(disk, start=1).status == 0
    assert send(disk, bytes(6)).status == 0


def test_idle_and_standby_are_told_and_end_with_the_next_access(disk):
    for condition, ascq in ((2, 3), (3, 4), (0xA, 3), (0xB, 4)):
        assert start_stop(disk, power_condition=condition).status == 0
        assert send(disk, bytes(6)).status == 0
        told = data_of(send(disk, spc.RequestSense.encode(allocation_length=18)))
        assert (told[2], told[12], told[13]) == (0, 0x5E, ascq)
        assert read(disk, 0) == bytes(512)
        assert data_of(send(disk, spc.RequestSense.encode(allocation_length=18)))[12] == 0


def test_eject_and_load(removable):
    write(removable, 0, b"m" * 512)
    assert start_stop(removable, load_eject=1, start=0).status == 0
    needing = [
        bytes(6), sbc.Read6.encode(), sbc.Read10.encode(transfer_length=1), sbc.ReadCapacity10.encode(),
        sbc.ReadCapacity16.encode(allocation_length=32), sbc.GetLbaStatus16.encode(allocation_length=24),
        sbc.SynchronizeCache10.encode(), sbc.PreFetch16.encode(), sbc.Verify12.encode(), sbc.Unmap.encode(),
        sbc.WriteSame16.encode(), sbc.OrWrite16.encode(), sbc.CompareAndWrite.encode(), sbc.ReadDefectData10.encode(),
    ]  # fmt: skip
    for cdb in needing:
        assert sense_of(send(removable, cdb)) == NO_MEDIUM
    assert start_stop(removable, load_eject=1, start=0).status == 0  # ejecting nothing is done already
    assert start_stop(removable, load_eject=1, start=1).status == 0
    assert read(removable, 0) == b"m" * 512
    assert sense_of(send(removable, bytes(6), nexus=BETA)) == (6, 0x28, 0)


def test_any_power_condition_leaves_the_medium_in(removable):
    for condition in range(1, 16):
        assert start_stop(removable, power_condition=condition, load_eject=1).status == 0
        assert send(removable, bytes(6)).status == 0


def test_a_removable_disk_starts_by_itself(removable):
    for no_flush in (0, 1):
        assert start_stop(removable, start=0, no_flush=no_flush).status == 0
        assert data_of(send(removable, spc.RequestSense.encode(allocation_length=18)))[12:14] == bytes([0x5E, 4])
        assert send(removable, bytes(6)).status == 0
        assert read(removable, 0) == bytes(512)


def test_a_fixed_disk_cannot_be_ejected(disk):
    assert sense_of(start_stop(disk, load_eject=1)) == (5, 0x24, 0)
    assert read(disk, 0) == bytes(512)


@pytest.mark.parametrize("free", ["allow", "nexus loss", "reset"])
def test_prevented_removal(removable, free):
    assert prevent(removable, 1).status == 0
    for nexus in (ALPHA, BETA):
        assert sense_of(start_stop(removable, load_eject=1, nexus=nexus)) == (5, 0x53, 2)
    assert prevent(removable, 0, BETA).status == 0
    assert sense_of(start_stop(removable, load_eject=1)) == (5, 0x53, 2)
    {
        "allow": lambda: prevent(removable, 0),
        "nexus loss": lambda: removable.nexus_lost(ALPHA),
        "reset": removable.reset,
    }[free]()
    while (response := start_stop(removable, load_eject=1, nexus=BETA)).status == 2:
        assert sense_of(response)[0] == 6
    assert sense_of(send(removable, bytes(6), nexus=BETA)) == NO_MEDIUM
    assert sense_of(prevent(removable, 2, BETA)) == (5, 0x24, 0)
    assert prevent(removable, 1, BETA).status == 0
    assert sense_of(start_stop(removable, load_eject=1, start=1, nexus=BETA)) == (5, 0x53, 2)


def test_the_operator_changes_the_medium(tmp_path, removable):
    prevent(removable, 1)
    removable.remove().close()
    assert sense_of(send(removable, bytes(6))) == NO_MEDIUM
    assert prevent(removable, 0).status == 0
    assert sense_of(start_stop(removable, load_eject=1, start=1)) == NO_MEDIUM
    removable.insert(DiskImage.create(tmp_path / "other.img", 4096 * 512))
    assert sense_of(send(removable, bytes(6))) == (6, 0x28, 0)
    assert int.from_bytes(data_of(send(removable, sbc.ReadCapacity10.encode()))[:4], "big") == 4095
    with pytest.raises(ValueError, match="cannot be inserted"):
        removable.insert(DiskImage.create(tmp_path / "third.img", 4096))


@pytest.mark.image_file
def test_growing_tells_every_initiator(disk):
    for nexus in (ALPHA, BETA):
        disk.nexus_established(nexus)
        send(disk, bytes(6), nexus=nexus)
    disk.grow(2 * BLOCKS * 512)
    for nexus in (ALPHA, BETA):
        assert sense_of(send(disk, bytes(6), nexus=nexus)) == (6, 0x2A, 9)
    assert write(disk, 2 * BLOCKS - 1, b"e" * 512).status == 0
    with pytest.raises(ValueError, match="cannot become"):
        disk.grow(512)
    with disk.image.path.open("ab") as file:
        file.truncate(3 * BLOCKS * 512)
    assert disk.refresh_capacity()
    assert not disk.refresh_capacity()
    assert sense_of(send(disk, bytes(6))) == (6, 0x2A, 9)
    assert int.from_bytes(data_of(send(disk, sbc.ReadCapacity10.encode()))[:4], "big") == 3 * BLOCKS - 1


@pytest.mark.image_file
def test_a_block_device_that_its_own_tools_have_lengthened_is_taken_over_by_growing(disk):
    disk.image.is_block_device = True
    disk.nexus_established(ALPHA)
    send(disk, bytes(6), nexus=ALPHA)
    with pytest.raises(ValueError, match="cannot become"):
        disk.grow(2 * BLOCKS * 512)
    with disk.image.path.open("ab") as file:
        file.truncate(2 * BLOCKS * 512)
    disk.grow(2 * BLOCKS * 512)
    assert sense_of(send(disk, bytes(6), nexus=ALPHA)) == (6, 0x2A, 9)
    assert send(disk, bytes(6), nexus=ALPHA).status == 0  # told once
    assert write(disk, 2 * BLOCKS - 1, b"e" * 512).status == 0


def test_a_reset_waits_for_what_other_connections_are_doing(disk, monkeypatch):
    order = []
    write_image = disk.image.write

    def slow(buffer, offset, **options):
        started.set()
        assert go.wait(60)
        write_image(buffer, offset, **options)
        order.append("written")

    import threading

    started, go = threading.Event(), threading.Event()
    monkeypatch.setattr(disk.image, "write", slow)
    writer = threading.Thread(target=lambda: write(disk, 0, b"w" * 512))
    writer.start()
    assert started.wait(60)
    resetter = threading.Thread(target=lambda: (disk.reset(), order.append("reset")))
    resetter.start()
    eventually(lambda: disk.gate.waiting)
    go.set()
    writer.join(60)
    resetter.join(60)
    assert order == ["written", "reset"]


def test_reservations_leave_only_starting_and_allowing_to_others(removable):
    assert send(removable, spc.Reserve6.encode()).status == 0
    for fields in ({"start": 0}, {"start": 1, "load_eject": 1}, {"start": 1, "power_condition": 2}):
        assert start_stop(removable, nexus=BETA, **fields).status == 0x18
    assert prevent(removable, 1, BETA).status == 0x18
    assert start_stop(removable, nexus=BETA, start=1).status == 0
    assert prevent(removable, 0, BETA).status == 0

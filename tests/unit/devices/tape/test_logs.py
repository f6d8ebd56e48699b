"""Log pages: every listed one reads, the numbers are counted, LOG SELECT resets (SSC-3 8.2)."""

import pytest

from scsi_targets.devices.tape.base import CleaningCartridge
from scsi_targets.devices.unit.state_store import MemoryStore
from scsi_targets.t10 import spc, ssc
from tests.unit.devices.support import BETA, data_of, send, sense_of
from tests.unit.devices.tape.support import good, loaded_drive, make_drive, moved, quiet, read, rewind, write

MEGABYTE, MEBIBYTE = 10**6, 1 << 20


def log_sense(drive, page, subpage=0, **kwargs):
    cdb = spc.LogSense.encode(page_control=1, page_code=page, subpage_code=subpage, allocation_length=65535)
    return data_of(send(drive, cdb, **kwargs))


def parameters(drive, page, subpage=0, **kwargs):
    data = log_sense(drive, page, subpage, **kwargs)
    assert data[0] & 0x3F == page
    assert int.from_bytes(data[2:4], "big") == len(data) - 4
    found, at = {}, 4
    while at < len(data):
        code, length = int.from_bytes(data[at : at + 2], "big"), data[at + 3]
        found[code] = data[at + 4 : at + 4 + length]
        at += 4 + length
    assert at == len(data)
    return found


def numbers(drive, page, subpage=0):
    return {code: int.from_bytes(value, "big") for code, value in parameters(drive, page, subpage).items()}


PAGES = [0x00, 0x02, 0x03, 0x0C, 0x0D, 0x11, 0x12, 0x14, 0x17, 0x1B, 0x2E, 0x30, 0x31, 0x32, 0x37]


def test_supported_pages(drive):
    assert list(log_sense(drive, 0)[4:]) == PAGES
    for page in PAGES[1:]:
        assert parameters(drive, page)


def test_every_page_reads_without_a_cartridge():
    drive = make_drive()
    for page in PAGES[1:]:
        assert parameters(drive, page)
    assert numbers(drive, 0x17) == {0: 0}
    drive.close()


def test_error_counters_and_bytes_of_the_mount(drive):
    for _ in range(3):
        good(write(drive, bytes(1000)))
    rewind(drive)
    for _ in range(2):
        good(read(drive, 1000))
    assert numbers(drive, 0x02) == {0: 0, 1: 0, 2: 0, 3: 0, 4: 0, 5: 3000, 6: 0}
    assert numbers(drive, 0x03)[5] == 2000
    page = numbers(drive, 0x0C)
    assert (page[0], page[1], page[2], page[3], page[0x100]) == (3000, 3000, 2000, 2000, 0)
    drive.unload_and_load = drive.load(drive.unload())
    quiet(drive)
    assert numbers(drive, 0x02)[5] == 0


def test_the_last_mount_is_remembered_until_the_next(drive):
    good(write(drive, bytes(5000)))
    cartridge = drive.unload()
    assert numbers(drive, 0x02)[5] == 5000
    drive.load(cartridge)
    quiet(drive)


def test_log_select_resets(drive):
    good(write(drive, bytes(5000)))
    good(send(drive, spc.LogSelect.encode(parameter_code_reset=1, page_control=1, page_code=0x02)))
    assert numbers(drive, 0x02)[5] == 0
    assert sense_of(send(drive, bytes(6), nexus=BETA)) == (6, 0x2A, 0x02)
    good(write(drive, bytes(10)))
    assert numbers(drive, 0x02)[5] == 10
    good(send(drive, spc.LogSelect.encode(parameter_code_reset=1, page_control=1)))
    assert numbers(drive, 0x14)[0x0D] == 0


def test_capacities_of_page_0c(tmp_path):
    drives = loaded_drive(tmp_path, capacity_bytes=100 * MEGABYTE, early_warning_bytes=2 * MEGABYTE)
    drive = next(drives)
    for _ in range(4):
        good(write(drive, bytes(MEGABYTE)))
    page = numbers(drive, 0x0C)
    assert (page[4], page[5], page[6], page[7]) == (4, 98, 2, 4)
    rewind(drive)
    assert numbers(drive, 0x0C)[7] == 0
    good(read(drive, MEGABYTE))
    assert numbers(drive, 0x0C)[7] == 0xFFFFFFFF  # in the middle: not known
    drives.close()


def test_volume_statistics_have_what_ltfs_reads(tmp_path):
    drives = loaded_drive(tmp_path, capacity_bytes=1000 * MEGABYTE, partitions=2, early_warning_bytes=10 * MEGABYTE)
    drive = next(drives)
    for _ in range(7):
        good(write(drive, bytes(MEGABYTE)))
    page = parameters(drive, 0x17)
    assert {*range(1, 0x12), 0x0101, 0x0102, 0x0200, 0x0202, 0x0203, 0x0204} <= set(page)
    assert page[0x0202] == bytes([7, 0, 0, 0]) + (500).to_bytes(4, "big") + bytes([7, 0, 0, 1]) + (500).to_bytes(
        4, "big"
    )
    assert page[0x0203][:8] == bytes([7, 0, 0, 0]) + (7).to_bytes(4, "big")
    assert page[0x0204][:8] == bytes([7, 0, 0, 0]) + (482).to_bytes(4, "big")
    assert page[0x0200][:10] == bytes([9, 0, 0, 0]) + b"\xff" * 6
    assert int.from_bytes(page[0x0010], "big") == 7
    assert page[0x0042] == b"TAP001L8".ljust(32)
    assert (page[0x0080], page[0x0081]) == (b"\0", b"\0")
    drives.close()


def test_volume_statistics_tell_worm_and_protection(tmp_path):
    drives = loaded_drive(tmp_path, medium="LTO-8 WORM")
    drive = next(drives)
    drive.medium.write_protected = True
    page = numbers(drive, 0x17)
    assert (page[0x80], page[0x81]) == (1, 1)
    drives.close()


def test_tape_capacity_of_lto_5(tmp_path):
    """LTFS asks page 31h of an LTO-5 drive for four four-byte numbers in MiB; elsewhere it returned nothing."""
    capacity = 1000 * MEBIBYTE
    drives = loaded_drive(tmp_path, "IBM ULT3580-TD5", medium="LTO-5", capacity_bytes=capacity, partitions=2)
    drive = next(drives)
    good(write(drive, bytes(3 * MEBIBYTE)))
    page = parameters(drive, 0x31)
    assert [len(value) for value in page.values()] == [4, 4, 4, 4]
    assert [int.from_bytes(value, "big") for value in page.values()] == [496, 500, 500, 500]
    drives.close()


def test_performance_pages_of_ltfs(drive):
    assert parameters(drive, 0x37)[0x0001] == b"\0"
    assert parameters(drive, 0x37, 0x64) == {0x7113: bytes(4)}


def test_device_status_follows_the_cartridge(drive):
    def status():
        return parameters(drive, 0x11)[0]

    assert status()[:2] == bytes([0x20 | 0x01, 0x17])  # MACC DINIT; MPRSNT MSTD MTHRD MOUNTED
    good(send(drive, spc.PreventAllowMediumRemoval.encode(prevent=1)))
    assert status()[0] & 0x80
    good(send(drive, spc.PreventAllowMediumRemoval.encode()))
    good(send(drive, ssc.LoadUnload.encode()))
    assert status()[:2] == bytes([0x40 | 0x20 | 0x01, 0x20 | 0x10])  # HUI; RAA MPRSNT
    drive.load(drive.unload())


def test_device_statistics_survive_a_restart(tmp_path):
    store = MemoryStore()
    first = make_drive(store=store, state_key="drive-1")
    first.load(CleaningCartridge("CLN001L8"))
    first.unload()
    first.close()
    second = make_drive(store=store, state_key="drive-1")
    page = numbers(second, 0x14)
    assert (page[0x00], page[0x01], page[0x0C]) == (0, 1, 2)
    assert parameters(second, 0x14)[0x41] == b"TB00000001"
    second.close()


def test_compression_page(drive):
    for _ in range(3):
        good(write(drive, bytes(MEGABYTE // 2)))
    page = numbers(drive, 0x1B)
    assert (page[0x01], page[0x06], page[0x07], page[0x100]) == (100, 1, 500_000, 0)


# ---- TapeAlert -----------------------------------------------------------------------------------------------------


def flags(drive, **kwargs):
    page = parameters(drive, 0x2E, **kwargs)
    assert list(page) == list(range(1, 65))
    assert all(len(value) == 1 for value in page.values())
    return {code for code, value in page.items() if value != b"\0"}


def test_tape_alert_is_cleared_by_reading_for_who_read_it(drive):
    drive.medium.write_protected = True
    assert sense_of(write(drive, b"x")) == (7, 0x27, 0)
    assert int.from_bytes(parameters(drive, 0x12)[0], "big") == 1 << (64 - 9)
    assert flags(drive) == {9}
    assert flags(drive) == set()
    assert flags(drive, nexus=BETA) == {9}
    assert write(drive, b"x").status == 2
    assert flags(drive) == {9}  # it happened again


def test_tape_alert_ends_with_the_next_load(drive):
    good(send(drive, spc.PreventAllowMediumRemoval.encode(prevent=1)))
    assert send(drive, ssc.LoadUnload.encode()).status == 2
    good(send(drive, spc.PreventAllowMediumRemoval.encode()))
    drive.load(drive.unload())
    quiet(drive)
    assert flags(drive) == set()


def test_tape_alert_of_removal_and_worm(tmp_path):
    drives = loaded_drive(tmp_path, medium="LTO-8 WORM")
    drive = next(drives)
    good(send(drive, spc.PreventAllowMediumRemoval.encode(prevent=1)))
    assert send(drive, ssc.LoadUnload.encode()).status == 2
    good(write(drive, b"x"))
    rewind(drive)
    assert write(drive, b"y").status == 2
    assert flags(drive) == {10, 60}
    assert moved(read(drive, 1)) == b"x"
    drives.close()


def test_supported_flags(drive):
    data = data_of(send(drive, bytes([0x12, 1, 0xB2, 0, 255, 0])))
    assert data[:4] == bytes([1, 0xB2, 0, 8])
    supported = {n for n in range(1, 65) if int.from_bytes(data[4:], "big") >> (64 - n) & 1}
    assert {3, 4, 5, 6, 9, 10, 11, 60} == supported


@pytest.mark.parametrize(("page", "subpage"), [(0x3F, 0), (0x02, 1), (0x37, 0x10)])
def test_other_pages_are_refused(drive, page, subpage):
    cdb = spc.LogSense.encode(page_code=page, subpage_code=subpage, allocation_length=255)
    assert sense_of(send(drive, cdb)) == (5, 0x24, 0)

"""How long each setting of a drive lives: the table of docs/drives.md, row by row."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from scsi_targets.devices.tape.tape_drive import TapeDrive
from scsi_targets.devices.unit.state_store import MemoryStore
from scsi_targets.t10 import spc, ssc
from tests.unit.devices.support import ALPHA, BETA, send, sense_of
from tests.unit.devices.tape.encryption_support import set_encryption
from tests.unit.devices.tape.support import (
    filemarks,
    good,
    make_cartridge,
    make_drive,
    position,
    quiet,
    read,
    rewind,
    send_slow,
    set_block_length,
    write,
)
from tests.unit.devices.tape.test_mode import allow_overwrite, append_only, mode_select_10, page_of

DOCUMENT = Path(__file__).parents[4] / "docs" / "drives.md"
CAPACITY = 1200 * 10**9


def change(page: int, subpage: int, byte: int, value: int, *, save: bool = False) -> Callable[[TapeDrive], None]:
    """MODE SELECT(10) of one page with one byte changed; the header and its buffered mode stay as they are."""

    def select(drive: TapeDrive) -> None:
        raw = bytearray(page_of(drive, page, subpage))
        raw[0] &= 0x7F
        raw[byte] = value
        cdb = spc.ModeSelect10.encode(page_format=1, save_pages=save, parameter_list_length=8 + len(raw))
        good(send(drive, cdb, data=bytes([0, 0, 0, drive.modes.device_specific_parameter() & 0x70, 0, 0, 0, 0]) + raw))

    return select


def shown(page: int, subpage: int, byte: int, mask: int = 0xFF) -> Callable[[TapeDrive], object]:
    return lambda drive: page_of(drive, page, subpage)[byte] & mask


def sends(cdb: bytes, data: bytes | None = None) -> Callable[[TapeDrive], None]:
    return lambda drive: void(good(send(drive, cdb, data=data)))


def void(_: object) -> None:
    """What a setting returns is nobody's business."""


def select_two_partitions(drive: TapeDrive) -> None:
    page = bytearray(page_of(drive, 0x11))
    page[0] &= 0x3F
    page[3], page[4] = 1, page[4] & 0x1F | 0x20
    page[8:12] = bytes([0xFF, 0xFF, 0, 100])
    good(mode_select_10(drive, bytes([0, 0, 0, 0x10, 0, 0, 0, 0]) + page))


def overwrite_once(drive: TapeDrive) -> None:
    good(append_only(drive))
    where = position(drive)
    rewind(drive)
    good(allow_overwrite(drive, 0, 0))
    good(send(drive, ssc.Locate10.encode(logical_object_identifier=where[1])))


def may_overwrite(drive: TapeDrive) -> bool:
    """Whether ALLOW OVERWRITE is still in force, seen by what append-only mode refuses."""
    if drive.medium is None:
        return False
    if not drive.append_only:
        good(append_only(drive))
    rewind(drive)
    return write(drive, b"over").status == 0


def protection(drive: TapeDrive) -> None:
    page = bytearray(page_of(drive, 0x0A, 0xF0))
    page[4:7] = bytes([2, 4, 0xC0])
    good(mode_select_10(drive, bytes([0, 0, 0, 0x10, 0, 0, 0, 0]) + page))


def alerts(drive: TapeDrive) -> bool:
    return bool(drive.alerts.bits())


def refuse_a_write(drive: TapeDrive) -> None:
    """Sets TapeAlert flag 9 (write protect)."""
    medium = drive.medium
    assert medium is not None
    medium.write_protected = True
    assert sense_of(write(drive, b"x")) == (7, 0x27, 0)
    medium.write_protected = False


def echo(drive: TapeDrive) -> bool:
    return send(drive, spc.ReadBuffer.encode(mode=0x0A, allocation_length=4)).status == 0


def encrypting(drive: TapeDrive, nexus=ALPHA) -> bool:
    return drive.encryption.parameters.of(nexus).key is not None


LBP_ON = shown(0x0A, 0xF0, 4)
WRITE_ECHO = sends(spc.WriteBuffer.encode(mode=0x0A, parameter_list_length=4), b"echo")

# Row of the table: how it is set, what shows it, and what becomes of it by an unload, when the nexus that set it is
# lost, by a LOGICAL UNIT RESET, by a restart of the daemon.
KEPT, FIRST = "stays", "ends"
ROWS = {
    "block length": (
        lambda drive: void(good(set_block_length(drive, 512))), lambda drive: drive.block_length,
        KEPT, KEPT, FIRST, FIRST,
    ),
    "buffered mode": (
        lambda drive: void(good(set_block_length(drive, 0, buffered=0))), lambda drive: drive.buffered_mode,
        KEPT, KEPT, FIRST, FIRST,
    ),
    "compression (DCE)": (
        change(0x0F, 0, 2, 0xC0), lambda drive: (drive.compression.on, page_of(drive, 0x0F)[2] >> 7),
        KEPT, KEPT, FIRST, FIRST,
    ),
    "compression (SELECT DATA COMPRESSION ALGORITHM)": (
        change(0x10, 0, 14, 1), lambda drive: (drive.compression.on, page_of(drive, 0x10)[14]),
        KEPT, KEPT, FIRST, FIRST,
    ),
    "synchronize at early warning (SEW)": (
        change(0x10, 0, 10, 0x10), lambda drive: drive.synchronize_at_early_warning, KEPT, KEPT, FIRST, FIRST,
    ),
    "software write protection (SWP)": (
        change(0x10, 0, 10, 0x1C), lambda drive: drive.software_write_protected, KEPT, KEPT, FIRST, FIRST,
    ),
    "WRITE MODE (append-only)": (
        lambda drive: void(good(append_only(drive))),
        lambda drive: (drive.append_only, page_of(drive, 0x10, 1)[5]), FIRST, KEPT, FIRST, FIRST,
    ),
    "programmable early warning size (PEWS)": (
        change(0x10, 1, 6, 0x44),
        lambda drive: (drive.programmable_early_warning_bytes, page_of(drive, 0x10, 1)[6:8]),
        FIRST, KEPT, FIRST, FIRST,
    ),
    "ALLOW OVERWRITE": (overwrite_once, lambda drive: drive.overwrite_allowed_at, FIRST, KEPT, FIRST, FIRST),
    "partitions for the next format (page 11h)": (
        select_two_partitions, lambda drive: page_of(drive, 0x11)[3], FIRST, KEPT, FIRST, FIRST,
    ),
    "descriptor-format sense (D_SENSE)": (
        change(0x0A, 0, 2, 0x04), lambda drive: drive.descriptor_sense, KEPT, KEPT, FIRST, FIRST,
    ),
    "logical block protection": (protection, LBP_ON, KEPT, FIRST, FIRST, FIRST),
    "PREVENT ALLOW MEDIUM REMOVAL": (
        sends(spc.PreventAllowMediumRemoval.encode(prevent=1)), lambda drive: drive.removal_prevented,
        None, FIRST, FIRST, FIRST,
    ),
    "encryption key, scope LOCAL": (
        lambda drive: void(good(set_encryption(drive, scope=1))), encrypting, KEPT, FIRST, FIRST, FIRST,
    ),
    "encryption key, scope ALL I_T NEXUS": (
        lambda drive: void(good(set_encryption(drive, scope=2))), encrypting, KEPT, KEPT, FIRST, FIRST,
    ),
    "encryption key with CKOD": (
        lambda drive: void(good(set_encryption(drive, scope=2, flags=0x04))), encrypting, FIRST, KEPT, FIRST, FIRST,
    ),
    "TapeAlert flags": (refuse_a_write, alerts, FIRST, KEPT, KEPT, FIRST),
    "echo buffer": (WRITE_ECHO, echo, KEPT, FIRST, KEPT, FIRST),
    "RESERVE": (
        sends(spc.Reserve6.encode()), lambda drive: drive.reservations.legacy_holder is not None,
        KEPT, FIRST, FIRST, FIRST,
    ),
}  # fmt: skip


@pytest.fixture
def drives(tmp_path):
    """A function that makes the drive as the daemon does at its start, each time over what the last one kept."""
    cartridge = make_cartridge(tmp_path, capacity_bytes=CAPACITY)
    store, made = MemoryStore(), []

    def make() -> TapeDrive:
        for drive in made:
            if drive.cartridge is not None:
                drive.unload()
            drive.close()
        made[:] = [make_drive(store=store, state_key="drive")]
        made[0].load(cartridge)
        quiet(made[0])
        return made[0]

    yield make
    for drive in made:
        drive.close()
    cartridge.close()


def lost_and_found(drive, nexus=ALPHA):
    drive.nexus_lost(nexus)
    drive.nexus_established(nexus)
    quiet(drive)


def remounted(drive):
    drive.load(drive.unload())
    quiet(drive)


def unloaded_by_a_host(drive):
    good(send(drive, ssc.LoadUnload.encode()))
    good(send(drive, ssc.LoadUnload.encode(load=1)))
    quiet(drive)


def held(drive):
    """LOAD UNLOAD with HOLD takes the medium out of reach, too."""
    good(send(drive, ssc.LoadUnload.encode(hold=1)))
    good(send(drive, ssc.LoadUnload.encode(load=1)))
    quiet(drive)


def reset(drive):
    drive.reset()
    quiet(drive)


UNLOADS = {"robot": remounted, "host": unloaded_by_a_host, "hold": held}


@pytest.mark.parametrize("how", UNLOADS)
@pytest.mark.parametrize("name", ROWS)
def test_after_an_unload(drives, name, how):
    configure, look, expected, *_ = ROWS[name]
    if expected is None:
        pytest.skip("it prevents the unload")
    check(drives(), configure, look, UNLOADS[how], expected)


@pytest.mark.parametrize("name", ROWS)
def test_after_the_nexus_that_set_it_is_lost(drives, name):
    configure, look, _, expected, *_ = ROWS[name]
    check(drives(), configure, look, lost_and_found, expected)


@pytest.mark.parametrize("name", ROWS)
def test_a_lost_nexus_takes_nothing_of_another(drives, name):
    configure, look, *_ = ROWS[name]
    check(drives(), configure, look, lambda drive: lost_and_found(drive, BETA), KEPT)


@pytest.mark.parametrize("name", ROWS)
def test_after_a_reset(drives, name):
    configure, look, _, _, expected, _ = ROWS[name]
    check(drives(), configure, look, reset, expected)


@pytest.mark.parametrize("name", ROWS)
def test_after_a_restart(drives, name):
    configure, look, *_, expected = ROWS[name]
    drive = drives()
    first = look(drive)
    configure(drive)
    assert look(drive) != first
    if drive.removal_prevented:  # the daemon ends with the cartridge in the drive, and begins without
        drive.prevention.override()
    after = look(drives())
    assert expected is FIRST
    assert after == first


def check(drive, configure, look, event, expected):
    good(write(drive, b"something"))
    good(filemarks(drive))
    first = look(drive)
    configure(drive)
    configured = look(drive)
    assert configured != first, "the setting does not show"
    event(drive)
    assert look(drive) == (configured if expected is KEPT else first)


@pytest.mark.parametrize("event", ["reset", "restart", "unload"])
def test_saved_pages_come_back(drives, event):
    """SP of MODE SELECT: what an administrator saves is the default of every program."""
    drive = drives()
    change(0x0F, 0, 2, 0xC0, save=True)(drive)
    change(0x0F, 0, 2, 0x40)(drive)
    assert drive.compression.on is False
    if event == "restart":
        drive = drives()
    else:
        {"reset": reset, "unload": remounted}[event](drive)
    assert drive.compression.on is (event != "unload")


def test_allow_overwrite_does_not_wait_for_the_next_append_only_mode(drives):
    """It belongs to the mode: whoever ends that ends it."""
    drive = drives()
    good(write(drive, b"kept"))
    overwrite_once(drive)
    good(append_only(drive, 0))
    good(append_only(drive))
    rewind(drive)
    assert sense_of(write(drive, b"lost")) == (7, 0x30, 0x0C)


def test_what_was_set_for_one_mount_is_no_concern_of_the_next_format(drives):
    """Partitions selected, never formatted, unloaded: the next user's FORMAT MEDIUM makes one."""
    drive = drives()
    select_two_partitions(drive)
    remounted(drive)
    good(send_slow(drive, ssc.FormatMedium.encode(format=1)))
    assert drive.medium.partition_count == 1


def test_the_next_user_writes_the_whole_tape(tmp_path):
    """LTFS sets a programmable early warning of most of a small tape and leaves it there when it unmounts."""
    cartridge = make_cartridge(tmp_path, capacity_bytes=4_000_000)
    drive = make_drive()
    drive.load(cartridge)
    quiet(drive)
    change(0x10, 1, 7, 3)(drive)
    assert write(drive, bytes(100_000)).sense[12:14] == bytes([0, 7])
    remounted(drive)
    written = 0
    while not (response := write(drive, bytes(100_000))).status:
        written += 1
    assert response.sense[12:14] == bytes([0, 2])  # early warning, not programmable early warning
    assert (written + 2) * 100_100 > 4_000_000 - cartridge.early_warning_bytes
    drive.close()
    cartridge.close()


def test_the_document_lists_these_rows():
    table = {
        row[0].strip("* "): [cell.split(",")[0].split(";")[0].split(":")[0].strip() for cell in row[1:5]]
        for line in DOCUMENT.read_text().splitlines()
        if line.startswith("| ") and len(row := [cell.strip() for cell in line.strip("|").split(" | ")]) == 6
    }
    for name, (_, _, *lives) in ROWS.items():
        assert name in table, name
        expected = ["refused" if each is None else each for each in lives]
        assert table[name] == expected, name
    assert re.search(r"1\.6 GB", DOCUMENT.read_text())


def test_reading_is_not_part_of_it(drives):
    """The position starts anew with every mount, in partition 0."""
    drive = drives()
    good(write(drive, b"x"))
    remounted(drive)
    assert position(drive) == (0, 0)
    assert read(drive, 1).status == 0

"""A mode page that says changeable changes something: every changeable field of every device, with what it changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scsi_targets.devices.tape.tape_drive import TapeDrive
from scsi_targets.devices.unit.device import Device
from scsi_targets.t10 import sbc_pages, spc, ssc, ssc_pages
from scsi_targets.t10.mode_pages import ControlModePage, ModePage
from tests.unit.devices.changer.support import Library
from tests.unit.devices.disk.support import make_disk, pattern
from tests.unit.devices.disk.support import write as write_disk
from tests.unit.devices.support import ALPHA, data_of, send, sense_of
from tests.unit.devices.tape.support import filemarks, good, loaded_drive, rewind, space, write

Unit = Any


def units(kind: str, directory: Path):
    if kind == "disk":
        disk = make_disk(directory)
        yield disk
        disk.close()
    elif kind == "tape":
        yield from loaded_drive(directory)
    else:
        library = Library(directory)
        yield library.changer
        library.close()


@pytest.fixture(params=["disk", "tape", "changer"])
def unit(request, tmp_path):
    made = units(request.param, tmp_path)
    unit = next(made)
    unit.nexus_established(ALPHA)
    send(unit, bytes(6))
    yield unit
    made.close()


@pytest.fixture
def drive(tmp_path):
    made = loaded_drive(tmp_path)
    yield next(made)
    made.close()


def page_of(unit: Device, page: type[ModePage], control: int = 0) -> bytes:
    cdb = spc.ModeSense10.encode(
        page_code=page.page, subpage_code=page.subpage, page_control=control, disable_block_descriptors=1,
        allocation_length=4096,
    )  # fmt: skip
    return data_of(send(unit, cdb))[8:]


def select(unit: Device, page: type[ModePage], **values: int):
    """MODE SELECT(10) with those fields changed; the header as MODE SENSE gave it."""
    raw = page(page_of(unit, page)).replace(**values)
    data = bytes([0, 0, 0, 0x10 if isinstance(unit, TapeDrive) else 0, 0, 0, 0, 0]) + bytes([raw[0] & 0x7F]) + raw[1:]
    return send(unit, spc.ModeSelect10.encode(page_format=1, parameter_list_length=len(data)), data=data)


# ---- what each field changes -----------------------------------------------------------------------------------------


def descriptor_sense(unit: Unit) -> Any:
    return send(unit, b"\xd5").sense[0]


def written_to_disk(unit: Unit) -> Any:
    response = write_disk(unit, 0, pattern(0))
    return sense_of(response) if response.status else None


def write_cache(unit: Unit) -> Any:
    return unit.writeback_cache


def written_to_tape(unit: Unit) -> Any:
    response = write(unit, bytes(100))
    return sense_of(response) if response.status else None


def overwritten(unit: Unit) -> Any:
    good(write(unit, bytes(1000)))
    rewind(unit)
    return written_to_tape(unit)


def stored_bytes(unit: Unit) -> Any:
    before = unit.medium.usage.stored_bytes_written
    good(write(unit, bytes(100_000)))
    good(filemarks(unit))
    return unit.medium.usage.stored_bytes_written - before < 50_000


def synchronizes_at_early_warning(unit: Unit) -> Any:
    return unit.synchronize_at_early_warning


def early_warning(unit: Unit) -> Any:
    response = write(unit, bytes(100))
    return response.status, response.sense[2:3] if response.status else b""


def protected_write(unit: Unit) -> Any:
    return dict(unit.protecting_writes), dict(unit.protecting_reads)


Effect = Callable[[Unit], Any]
# (kind of device, page, fields changed together, what differs afterwards)
EFFECTS: list[tuple[str, type[ModePage], dict[str, int], Effect]] = [
    ("disk", sbc_pages.BlockControlModePage, {"descriptor_sense": 1}, descriptor_sense),
    ("tape", ControlModePage, {"descriptor_sense": 1}, descriptor_sense),
    ("changer", ControlModePage, {"descriptor_sense": 1}, descriptor_sense),
    ("disk", sbc_pages.BlockControlModePage, {"software_write_protect": 1}, written_to_disk),
    ("disk", sbc_pages.CachingModePage, {"writeback_cache_enable": 0}, write_cache),
    ("tape", ssc_pages.DataCompressionPage, {"enable": 1}, stored_bytes),
    ("tape", ssc_pages.DeviceConfigurationPage, {"select_data_compression_algorithm": 1}, stored_bytes),
    ("tape", ssc_pages.DeviceConfigurationPage, {"synchronize_at_early_warning": 0}, synchronizes_at_early_warning),
    ("tape", ssc_pages.DeviceConfigurationPage, {"software_write_protection": 1}, written_to_tape),
    ("tape", ssc_pages.DeviceConfigurationExtensionPage, {"write_mode": 1}, overwritten),
    ("tape", ssc_pages.DeviceConfigurationExtensionPage, {"programmable_early_warning_size": 4}, early_warning),
    (
        "tape", ssc_pages.ControlDataProtectionPage,
        {"method": 1, "information_length": 4, "protect_writes": 1, "protect_reads": 1}, protected_write,
    ),
]  # fmt: skip
# Changeable fields that only have a meaning together with others, and the test that shows what they do.
ELSEWHERE = {
    # COMPRESSION ALGORITHM 0 is "none": test_compression.py, test_no_algorithm_is_no_compression
    ("tape", ssc_pages.DataCompressionPage, "compression_algorithm"),
    # what FORMAT MEDIUM makes: test_format.py
    *{
        ("tape", ssc_pages.MediumPartitionPage2, name)
        for name, field in ssc_pages.MediumPartitionPage2.fields.items()
        if field.changeable
    },
    *{
        ("tape", ssc_pages.MediumPartitionPage4, name)
        for name, field in ssc_pages.MediumPartitionPage4.fields.items()
        if field.changeable
    },
}


def test_every_changeable_field_is_in_the_table(unit, request):
    kind = request.node.callspec.params["unit"]
    pages = unit.mode._classes.values()
    changeable = {(kind, page, name) for page in pages for name, field in page.fields.items() if field.changeable}
    shown = {(each, page, name) for each, page, values, _ in EFFECTS for name in values if each == kind}
    assert changeable - ELSEWHERE == shown


@pytest.mark.parametrize(
    ("kind", "page", "values", "effect"), EFFECTS, ids=lambda each: "-".join(each) if isinstance(each, dict) else None
)
def test_what_is_changeable_changes_something(tmp_path, kind, page, values, effect):
    outcomes = []
    for changed in (False, True):
        directory = tmp_path / str(changed)
        directory.mkdir()
        made = units(kind, directory)
        unit = next(made)
        unit.nexus_established(ALPHA)
        send(unit, bytes(6))
        if changed:
            assert select(unit, page, **values).status == 0
        outcomes.append(effect(unit))
        made.close()
    assert outcomes[0] != outcomes[1]


def test_what_is_not_changeable_is_refused(unit):
    """DEXCPT and MRIE of page 1Ch said changeable, and nothing read them."""
    for page in unit.mode._classes.values():
        current = page_of(unit, page)
        for name, field in page.fields.items():
            if not field.changeable and field.width <= 32:
                other = page(current).values()[name] ^ 1
                assert sense_of(select(unit, page, **{name: other})) == (5, 0x26, 0), (page, name)
    assert descriptor_sense(unit) == 0x70


def test_descriptor_format_keeps_the_whole_residual_of_space_16(drive):
    """Fixed format has 32 bits for INFORMATION and leaves out what does not fit."""
    good(write(drive, bytes(10)))
    count = 1 << 40
    asked = ssc.Space16.encode(code=0, count=count)
    rewind(drive)
    response = send(drive, asked)
    assert response.sense[0] == 0x70
    assert select(drive, ControlModePage, descriptor_sense=1).status == 0
    rewind(drive)
    response = send(drive, asked)
    assert (response.sense[0], response.sense[1] & 0xF) == (0x72, 8)
    assert response.sense[8:12] == bytes([0x00, 0x0A, 0x80, 0])
    assert int.from_bytes(response.sense[12:20], "big") == count - 1


def test_descriptor_format_tells_filemarks(drive):
    good(filemarks(drive))
    rewind(drive)
    assert select(drive, ControlModePage, descriptor_sense=1).status == 0
    response = space(drive, 0, 5)
    assert response.sense[1:4] == bytes([0, 0, 1])
    assert bytes([0x04, 0x02, 0, 0x80]) in response.sense
    drive.reset()
    assert send(drive, bytes(6)).sense[0] == 0x70  # the saved value is fixed format again

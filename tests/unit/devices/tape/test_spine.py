"""The drive is a short spine and parts: what is decided when it changes is not asked again by every WRITE and READ."""

import inspect
from pathlib import Path

import pytest

from scsi_targets.devices.tape.part import TapePart
from scsi_targets.devices.tape.tape_drive import TapeDrive
from scsi_targets.t10 import spc
from tests.bench.frames import counted
from tests.unit.devices.support import ALPHA, BETA, send, sense_of
from tests.unit.devices.tape.encryption_support import KEY, set_page
from tests.unit.devices.tape.support import good, loaded_drive, make_cartridge, make_drive, quiet, rewind, write
from tests.unit.devices.tape.test_mode import mode_select_10, page_of


def test_the_tower_is_gone() -> None:
    assert len(TapeDrive.__mro__) <= 10
    for kind in TapeDrive.__mro__:
        if kind.__module__.startswith("scsi_targets.devices.tape") and "__init__" in vars(kind):
            kinds = {parameter.kind for parameter in inspect.signature(kind.__init__).parameters.values()}
            assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}, kind
    with pytest.raises(TypeError):
        make_drive(compresion=True)  # a misspelt option is no option


def test_few_frames_between_a_command_and_its_answer(tmp_path: Path) -> None:
    """32 and 20 they were. More than this needs a reason."""
    found = counted(tmp_path)
    assert len(found["WRITE(6), tape"]) <= 19, found["WRITE(6), tape"]
    assert len(found["READ(6), tape"]) <= 16, found["READ(6), tape"]
    assert len(found["WRITE(10), counted"]) <= len(found["WRITE(10), disk"]) + 1, found["WRITE(10), counted"]


def test_a_write_does_not_ask_whether_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drives = loaded_drive(tmp_path)
    drive = next(drives)
    monkeypatch.setattr(drive, "write_protection", lambda: pytest.fail("asked again"))
    for _ in range(3):
        good(write(drive, b"x"))
    monkeypatch.undo()
    drives.close()


def software_protection(drive: TapeDrive, value: int) -> None:
    page = bytearray(page_of(drive, 0x10))
    page[0], page[10] = page[0] & 0x3F, page[10] & ~0x04 | value
    good(mode_select_10(drive, bytes([0, 0, 0, 0x10, 0, 0, 0, 0]) + page))


def test_what_forbids_writing_is_heard_at_once(tmp_path: Path) -> None:
    """By MODE SELECT, a reset, an unload and a load of another medium, and an operator who moves the tab."""
    drives = loaded_drive(tmp_path)
    drive = next(drives)
    software_protection(drive, 0x04)
    assert not drive.writable
    assert sense_of(write(drive, b"x")) == (7, 0x27, 0x02)
    drive.reset()
    quiet(drive)
    assert drive.writable
    good(write(drive, b"x"))
    cartridge = drive.unload()
    assert not drive.medium_usable and not drive.writable
    assert sense_of(write(drive, b"x")) == (2, 0x3A, 0)
    older = make_cartridge(tmp_path, "OLD001L7", "LTO-7", capacity_bytes=1 << 20)
    older.write_protected = True
    drive.load(older)
    quiet(drive)
    assert sense_of(write(drive, b"x")) == (7, 0x27, 0)
    older.write_protected = False
    good(write(drive, b"x"))  # while writing is refused the reason is looked up each time
    drive.unload().close()
    drive.load(cartridge)
    quiet(drive)
    cartridge.write_protected = True  # nobody told the drive: the cartridge itself refuses
    rewind(drive)
    assert sense_of(write(drive, b"x")) == (7, 0x27, 0)
    assert cartridge.end_of_data(0) == 1
    cartridge.write_protected = False
    drives.close()


def test_events_come_in_the_declared_order(tmp_path: Path) -> None:
    drives = loaded_drive(tmp_path)
    drive = next(drives)
    told: list[str] = []
    for part in drive.tape_parts:
        for event in ("on_loaded", "on_unloaded"):
            original = getattr(part, event)
            name = f"{event} {type(part).__name__}"

            def note(name: str = name, original: object = original) -> None:
                told.append(name)
                original()

            setattr(part, event, note)
    drive.load(drive.unload())
    names = [type(part).__name__ for part in drive.tape_parts]
    assert told == [f"on_unloaded {name}" for name in names] + [f"on_loaded {name}" for name in names]
    first_to_last = [names.index(name) for name in ("TapeModes", "Compression", "DriveEncryption", "DriveUsage")]
    assert first_to_last == sorted(first_to_last)
    assert all(isinstance(part, TapePart) for part in drive.tape_parts)
    drives.close()


@pytest.mark.parametrize("how", ["accepted", "refused by a reservation", "refused for its page"])
def test_a_key_does_not_stay_in_the_buffer(drive: TapeDrive, how: str) -> None:
    data = bytearray(set_page())
    if how == "refused by a reservation":
        good(send(drive, spc.Reserve6.encode(), nexus=BETA))
    protocol = 0x20 if how != "refused for its page" else 0x21
    cdb = spc.SecurityProtocolOut.encode(
        security_protocol=protocol, security_protocol_specific=0x10, transfer_length=len(data)
    )
    assert KEY in data
    response = send(drive, cdb, data=data, nexus=ALPHA)
    assert (response.status == 0) is (how == "accepted")
    assert KEY not in data

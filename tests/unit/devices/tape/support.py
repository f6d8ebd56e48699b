"""A tape drive with a cartridge in it, without iSCSI."""

import contextlib
import queue
from collections.abc import Iterator
from pathlib import Path

from scsi_targets.devices.tape.models import drive_model
from scsi_targets.devices.tape.tape_drive import TapeDrive
from scsi_targets.devices.unit.task import Response, Task
from scsi_targets.t10 import ssc
from tests.unit.devices.support import ALPHA, BETA, send
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.files import DirectoryFiles
from vlib_images.cartridge.medium import MEDIA
from vlib_images.cartridge.memory_files import MemoryFiles
from vlib_images.errors import StorageError

CAPACITY = 4_000_000


KINDS = {"directory": DirectoryFiles, "memory": lambda path: MemoryFiles(str(path))}
make_files = DirectoryFiles  # the conftest of this directory sets it to each of KINDS


def make_cartridge(directory: Path, barcode: str = "TAP001L8", medium: str = "LTO-8", **kwargs: object) -> Cartridge:
    return Cartridge.create(make_files(directory / barcode), barcode=barcode, medium=MEDIA[medium], **kwargs)


def make_drive(model: str = "IBM ULT3580-TD8", **kwargs: object) -> TapeDrive:
    drive = TapeDrive(drive_model(model), "TB00000001", **kwargs)
    for nexus in (ALPHA, BETA):
        drive.nexus_established(nexus)
        send(drive, bytes(6), nexus=nexus)  # takes the power on unit attention
    return drive


def quiet(drive: TapeDrive) -> None:
    """Takes every pending unit attention."""
    for nexus in (ALPHA, BETA):
        while drive.take_unit_attention(nexus) is not None:
            pass


def loaded_drive(directory: Path, model: str = "IBM ULT3580-TD8", **kwargs: object) -> Iterator[TapeDrive]:
    kwargs.setdefault("capacity_bytes", CAPACITY)
    cartridge = make_cartridge(directory, **kwargs)
    drive = make_drive(model)
    drive.load(cartridge)
    quiet(drive)
    yield drive
    drive.close()
    with contextlib.suppress(StorageError):  # a test that broke the storage has broken this as well
        cartridge.close()


# ---- commands --------------------------------------------------------------------------------------------------------


def write(drive: TapeDrive, data: bytes, **kwargs: object) -> Response:
    """One variable block."""
    return send(drive, ssc.Write6.encode(transfer_length=len(data)), data=data, **kwargs)


def write_fixed(drive: TapeDrive, data: bytes, block_length: int) -> Response:
    return send(drive, ssc.Write6.encode(fixed=1, transfer_length=len(data) // block_length), data=data)


def filemarks(drive: TapeDrive, count: int = 1, **fields: int) -> Response:
    return send(drive, ssc.WriteFilemarks6.encode(filemark_count=count, **fields))


def read(drive: TapeDrive, length: int, **fields: int) -> Response:
    return send(drive, ssc.Read6.encode(transfer_length=length, **fields))


def rewind(drive: TapeDrive) -> None:
    good(send(drive, ssc.Rewind.encode()))


def space(drive: TapeDrive, code: int, count: int = 0) -> Response:
    return send(drive, ssc.Space6.encode(code=code, count=count & 0xFFFFFF))


def position(drive: TapeDrive) -> tuple[int, int]:
    assert drive.medium is not None
    return drive.medium.position


def set_block_length(drive: TapeDrive, length: int, *, buffered: int = 1, density: int = 0) -> Response:
    """MODE SELECT(6) of 12 bytes, as Linux st sends it."""
    data = bytes([0, 0, buffered << 4, 8, density, 0, 0, 0, 0]) + length.to_bytes(3, "big")
    return send(drive, bytes([0x15, 0x10, 0, 0, 12, 0]), data=data)


def good(response: Response) -> Response:
    assert response.status == 0, (response.status, response.sense.hex())
    return response


def moved(response: Response) -> bytes:
    """The Data-In of a command, whatever its status."""
    return b"" if response.data_in is None else bytes(memoryview(response.data_in)[: response.data_length])


def stream_sense(response: Response) -> tuple[int, int, int, int, int | None]:
    """(flags FM EOM ILI as bits 7 to 5, sense key, ASC, ASCQ, INFORMATION signed or None) of fixed-format sense."""
    assert response.status == 2, response
    raw = response.sense
    information = int.from_bytes(raw[3:7], "big", signed=True) if raw[0] & 0x80 else None
    return raw[2] & 0xE0, raw[2] & 0x0F, raw[12], raw[13], information


FILEMARK, END_OF_MEDIUM, INCORRECT_LENGTH = 0x80, 0x40, 0x20


def send_slow(drive: TapeDrive, cdb: bytes, **kwargs: object) -> Response:
    """A command that the worker completes: sends it and waits."""
    done: queue.Queue[Response] = queue.Queue()
    task = Task(nexus=ALPHA, lun=0, cdb=cdb.ljust(16, b"\0"), complete=done.put, **kwargs)
    response = drive.execute(task)
    return response if response is not None else done.get(timeout=60)

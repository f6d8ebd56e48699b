"""Logical block protection on and off; blocks with protection information, made by code that is not the engine's."""

from scsi_targets.devices.tape.tape_drive import TapeDrive
from scsi_targets.devices.unit.task import Response
from scsi_targets.t10 import spc
from scsi_targets.t10.ssc_pages import CRC32C, REED_SOLOMON_CRC
from tests.unit.devices.support import ALPHA, send
from tests.unit.engine.test_protection import expected

METHODS = REED_SOLOMON_CRC, CRC32C
EXTRA = 4  # bytes of protection information


def page(method: int, *, writes: int = 1, reads: int = 1, length: int = EXTRA, rest: int = 0) -> bytes:
    """The Control Data Protection page as LTFS and CTA send it."""
    return bytes([0x4A, 0xF0, 0, 28, method, length, writes << 7 | reads << 6 | rest]) + bytes(25)


def select(drive: TapeDrive, raw: bytes, **kwargs: object) -> Response:
    data = bytes([0, 0, 0, 0x10, 0, 0, 0, 0]) + raw
    return send(drive, spc.ModeSelect10.encode(page_format=1, parameter_list_length=len(data)), data=data, **kwargs)


def protect(drive: TapeDrive, method: int, *, nexus: object = ALPHA, **fields: int) -> None:
    response = select(drive, page(method, **fields), nexus=nexus)
    assert response.status == 0, response.sense.hex()


def unprotect(drive: TapeDrive, **kwargs: object) -> None:
    protect(drive, 0, writes=0, reads=0, length=0, **kwargs)


def sealed(data: bytes, method: int) -> bytes:
    """A block as it travels."""
    return data + expected(data, method)


def flipped(data: bytes, bit: int) -> bytes:
    raw = bytearray(data)
    raw[bit // 8] ^= 1 << bit % 8
    return bytes(raw)

"""CDBs and parameter lists written out by hand, so that tests do not decode with what encoded."""

import struct
from dataclasses import dataclass

from datamover.initiator import CommandResult, InitiatorSession

CHECK_CONDITION = 0x02
RESERVATION_CONFLICT = 0x18
UNIT_ATTENTION = 0x06

TEST_UNIT_READY = bytes(6)
REWIND = bytes([0x01, 0, 0, 0, 0, 0])
READ_BLOCK_LIMITS = bytes([0x05, 0, 0, 0, 0, 0])
RESERVE_6 = bytes([0x16, 0, 0, 0, 0, 0])
RELEASE_6 = bytes([0x17, 0, 0, 0, 0, 0])
MODE_SENSE_6 = bytes([0x1A, 0, 0x3F, 0, 0xFF, 0])


def inquiry(page: int | None = None, length: int = 255) -> bytes:
    return struct.pack(">BBBHB", 0x12, page is not None, page or 0, length, 0)


def write_6(length: int) -> bytes:
    """One variable-length block."""
    return bytes([0x0A, 0]) + length.to_bytes(3, "big") + b"\0"


def read_6(length: int) -> bytes:
    """One variable-length block."""
    return bytes([0x08, 0]) + length.to_bytes(3, "big") + b"\0"


def write_filemarks(count: int = 1) -> bytes:
    return bytes([0x10, 0]) + count.to_bytes(3, "big") + b"\0"


def write_10(block: int, count: int) -> bytes:
    return struct.pack(">BBIBHB", 0x2A, 0, block, 0, count, 0)


def read_10(block: int, count: int) -> bytes:
    return struct.pack(">BBIBHB", 0x28, 0, block, 0, count, 0)


def mode_select_6(length: int) -> bytes:
    return bytes([0x15, 0x10, 0, 0, length, 0])


def move_medium(source: int, destination: int) -> bytes:
    return struct.pack(">BBHHHBBBB", 0xA5, 0, 0, source, destination, 0, 0, 0, 0)


def read_element_status(length: int = 0xFFFF) -> bytes:
    """All elements, with volume tags."""
    return struct.pack(">BBHHB", 0xB8, 0x10, 0, 0xFFFF, 0) + length.to_bytes(3, "big") + bytes(2)


def extended_copy(length: int) -> bytes:
    return bytes([0x83, 0]) + bytes(8) + struct.pack(">IBB", length, 0, 0)


def receive_copy_status(list_identifier: int, length: int = 64) -> bytes:
    return bytes([0x84, 0x00, list_identifier]) + bytes(7) + struct.pack(">IBB", length, 0, 0)


class Device:
    """A logical unit seen through a session; the unit attentions of a new session are out of the way."""

    def __init__(self, session: InitiatorSession, lun: int) -> None:
        self.session = session
        self.lun = lun
        for _ in range(8):
            if not is_unit_attention(self.command(TEST_UNIT_READY)):
                return
        raise AssertionError(f"LUN {lun}: one unit attention after another")

    def command(self, cdb: bytes, data_out: bytes | None = None, data_in_length: int = 0) -> CommandResult:
        return self.session.command(self.lun, cdb, data_out, data_in_length)

    def good(self, cdb: bytes, data_out: bytes | None = None, data_in_length: int = 0) -> bytes:
        """Send a command that has to end in GOOD; return its data."""
        result = self.command(cdb, data_out, data_in_length)
        assert result.status == 0, f"CDB {cdb.hex(' ')}: status {result.status:02x}h, sense {result.sense.hex(' ')}"
        return bytes(result.data)

    def designator(self) -> bytes:
        """The first designator of VPD 83h that names the logical unit by NAA: its four header bytes and itself."""
        page = self.good(inquiry(0x83, 1024), data_in_length=1024)
        at = 4
        while at < 4 + int.from_bytes(page[2:4], "big"):
            length = page[at + 3]
            if page[at + 1] & 0x3F == 0x03:  # association: logical unit; type: NAA
                return page[at : at + 4 + length]
            at += 4 + length
        raise AssertionError(f"LUN {self.lun} has no NAA designator: {page.hex(' ')}")


def is_unit_attention(result: CommandResult) -> bool:
    return result.status == CHECK_CONDITION and result.sense[2] & 0x0F == UNIT_ATTENTION


@dataclass(frozen=True, slots=True)
class CopyEndpoint:
    """What an identification descriptor (E4h, SPC-4 6.4.5.1) says of one side."""

    designator: bytes  # with its four header bytes, as in VPD 83h
    peripheral_device_type: int
    block_length: int

    def descriptor(self) -> bytes:
        code_set, kind, _, length = self.designator[:4]
        name = self.designator[4:].ljust(20, b"\0")
        # Byte 28: PAD, FIXED: both 0, so that a stream's blocks are as long as the segment says.
        specific = bytes(1) + (self.block_length if self.peripheral_device_type == 0 else 0).to_bytes(3, "big")
        head = bytes([0xE4, self.peripheral_device_type, 0, 0, code_set & 0x0F, kind & 0x3F, 0, length])
        return head + name + specific


def disk_to_tape(disk: CopyEndpoint, tape: CopyEndpoint, blocks: int, *, list_identifier: int = 1) -> bytes:
    """The parameter list of an EXTENDED COPY (LID1) of the disk's first blocks to the tape, in 00h segments.

    A segment counts its blocks in 16 bits and, without padding, has to fill its tape blocks: the last tape block is
    shorter, in a segment of its own.
    """
    per_tape_block = tape.block_length // disk.block_length
    whole, rest = divmod(blocks, per_tape_block)
    most = 0xFFFF // per_tape_block * per_tape_block
    whole *= per_tape_block
    pieces = [(start, min(most, whole - start), tape.block_length) for start in range(0, whole, most)]
    if rest:
        pieces.append((whole, rest, rest * disk.block_length))
    segments = b"".join(
        struct.pack(">BBHHHB3sHHQ", 0x00, 0, 0x14, 0, 1, 0, length.to_bytes(3, "big"), 0, count, start)
        for start, count, length in pieces
    )
    endpoints = disk.descriptor() + tape.descriptor()
    return struct.pack(">BBHIII", list_identifier, 0, len(endpoints), 0, len(segments), 0) + endpoints + segments

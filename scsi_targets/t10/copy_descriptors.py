"""EXTENDED COPY(LID1) and RECEIVE COPY RESULTS: commands, parameter lists, descriptors (SPC-5 5.17.7, 6.4 and 6.5, 6.21
to 6.25). Encoding is as complete as decoding, so initiators build their parameter lists from the same declarations:

    parameter_list(
        [identification_descriptor(disk_naa, device_type=0, block_length=512),
         identification_descriptor(tape_naa, device_type=1)],
        [BlockToStream.encode(source=0, destination=1, stream_device_transfer_length=262144,
                              number_of_blocks=65535, logical_block_address=0)],
        list_identifier=1)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

from scsi_targets.t10.fields import Bits, Command, Octets, Structure

IDENTIFICATION_DESCRIPTOR = 0xE4
CSCD_DESCRIPTOR_LENGTH = 32
# CSCD descriptor IDs that are no index into the list (SPC-5 table 148).
THIS_LOGICAL_UNIT = 0xFFFF

# LIST ID USAGE (SPC-5 table 129).
HOLD, MAY_DISCARD, NO_LIST_IDENTIFIER = 0b00, 0b10, 0b11


# ---- commands ----------------------------------------------------------------------------------------------------


class ExtendedCopyLid1(Command, opcode=0x83, service_action=0x00, length=16):
    """EXTENDED COPY(LID1), SPC-5 6.5."""

    parameter_list_length = Bits(10, 7, 32)


class ExtendedCopyLid4(Command, opcode=0x83, service_action=0x01, length=16):
    """EXTENDED COPY(LID4), SPC-5 6.4."""

    parameter_list_length = Bits(10, 7, 32)


class CopyOperationAbort(Command, opcode=0x83, service_action=0x1C, length=16):
    """COPY OPERATION ABORT, SPC-5 6.3."""

    list_identifier = Bits(2, 7, 32)


class ReceiveCopyStatusLid1(Command, opcode=0x84, service_action=0x00, length=16):
    """RECEIVE COPY STATUS(LID1), SPC-5 6.25."""

    list_identifier = Bits(2, 7, 8)
    allocation_length = Bits(10, 7, 32)


class ReceiveCopyOperatingParameters(Command, opcode=0x84, service_action=0x03, length=16):
    """RECEIVE COPY OPERATING PARAMETERS, SPC-5 6.22."""

    allocation_length = Bits(10, 7, 32)


class ReceiveCopyFailureDetailsLid1(Command, opcode=0x84, service_action=0x04, length=16):
    """RECEIVE COPY FAILURE DETAILS(LID1), SPC-5 6.23 (SPC-3: FAILED SEGMENT DETAILS)."""

    list_identifier = Bits(2, 7, 8)
    allocation_length = Bits(10, 7, 32)


class ReceiveCopyStatusLid4(Command, opcode=0x84, service_action=0x05, length=16):
    """RECEIVE COPY STATUS(LID4), SPC-5 6.24: mandatory beside COPY OPERATION ABORT (SPC-5 table 108)."""

    list_identifier = Bits(2, 7, 32)
    allocation_length = Bits(10, 7, 32)


# ---- parameter list ----------------------------------------------------------------------------------------------


class ParameterListHeader(Structure, length=16):
    """EXTENDED COPY(LID1) parameter list header (SPC-5 table 172)."""

    list_identifier = Bits(0, 7, 8)
    sequential_striped = Bits(1, 5, 1)
    list_id_usage = Bits(1, 4, 2)
    priority = Bits(1, 2, 3)
    cscd_descriptor_list_length = Bits(2, 7, 16)
    segment_descriptor_list_length = Bits(8, 7, 32)
    inline_data_length = Bits(12, 7, 32)


class ParameterListHeaderLid4(Structure, length=48):
    """EXTENDED COPY(LID4) parameter list header (SPC-5 6.4.2). By the fields named header_... it looks like a LID1 list
    with one CSCD descriptor of a type, FFh, that there is none of."""

    parameter_list_format = Bits(0, 7, 8, default=1)
    sequential_striped = Bits(1, 5, 1)
    list_id_usage = Bits(1, 4, 2)
    priority = Bits(1, 2, 3)
    header_cscd_descriptor_list_length = Bits(2, 7, 16, default=0x20)
    good_with_sense = Bits(15, 1, 1)
    immediate = Bits(15, 0, 1)
    header_cscd_descriptor_type_code = Bits(16, 7, 8, default=0xFF)
    list_identifier = Bits(20, 7, 32)
    cscd_descriptor_list_length = Bits(42, 7, 16)
    segment_descriptor_list_length = Bits(44, 7, 16)
    inline_data_length = Bits(46, 7, 16)


AnyListHeader: TypeAlias = ParameterListHeader | ParameterListHeaderLid4


class CscdDescriptor(Structure, length=CSCD_DESCRIPTOR_LENGTH):
    """A CSCD descriptor (SPC-5 table 133) with its device type specific parameters: for disks PAD and DISK BLOCK LENGTH
    (table 136), for tapes also FIXED, and the length is STREAM BLOCK LENGTH (table 137). `code=` comes with the class
    statement; encode() fills it in.

    null: a device that no command can be sent to, for segments that only settle residue."""

    type_code: ClassVar[int]
    types: ClassVar[dict[int, type[CscdDescriptor]]] = {}
    null = Bits(1, 5, 1)
    peripheral_device_type = Bits(1, 4, 5)
    pad = Bits(28, 2, 1)
    fixed = Bits(28, 0, 1)
    block_length = Bits(29, 7, 24)

    def __init_subclass__(cls, *, code: int, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.type_code = code
        cls.constant = code << 8 * (CSCD_DESCRIPTOR_LENGTH - 1)
        cls.types[code] = cls


class IdentificationDescriptor(CscdDescriptor, code=IDENTIFICATION_DESCRIPTOR):
    """Identification Descriptor CSCD descriptor (SPC-5 table 140): a designator of the Device Identification page."""

    relative_initiator_port_identifier = Bits(2, 7, 16)
    code_set = Bits(4, 3, 4)
    association = Bits(5, 5, 2)
    designator_type = Bits(5, 3, 4)
    designator_length = Bits(7, 7, 8)
    designator = Octets(8, 20)


class SegmentDescriptor(Structure):
    """A segment descriptor. `code=` and `length=` (whole descriptor) come with the class statement; encode() fills in
    DESCRIPTOR TYPE CODE and DESCRIPTOR LENGTH (SPC-5 table 147). `carries_data`: `length` bytes are only its head."""

    type_code: ClassVar[int]
    carries_data: ClassVar[bool] = False
    types: ClassVar[dict[int, type[SegmentDescriptor]]] = {}

    def __init_subclass__(
        cls, *, code: int | None = None, length: int | None = None, carries_data: bool = False, **kwargs: Any
    ) -> None:
        super().__init_subclass__(length=length, **kwargs)
        if code is None:
            return
        cls.type_code = code
        cls.carries_data = carries_data
        head = bytes([code, 0]) + (cls.length - 4).to_bytes(2, "big")
        cls.constant = int.from_bytes(head.ljust(cls.length, b"\0"), "big")
        cls.types[code] = cls


class BlockToStream(SegmentDescriptor, code=0x00, length=24):
    """Block device to stream device (SPC-5 table 149). Transfer length in bytes, or blocks of a FIXED tape."""

    cat = Bits(1, 0, 1)
    source = Bits(4, 7, 16)
    destination = Bits(6, 7, 16)
    stream_device_transfer_length = Bits(9, 7, 24)
    number_of_blocks = Bits(14, 7, 16)
    logical_block_address = Bits(16, 7, 64)


class StreamToBlock(SegmentDescriptor, code=0x01, length=24):
    """Stream device to block device (SPC-5 table 150)."""

    cat = Bits(1, 0, 1)
    source = Bits(4, 7, 16)
    destination = Bits(6, 7, 16)
    stream_device_transfer_length = Bits(9, 7, 24)
    number_of_blocks = Bits(14, 7, 16)
    logical_block_address = Bits(16, 7, 64)


class BlockToBlock(SegmentDescriptor, code=0x02, length=28):
    """Block device to block device (SPC-5 table 151)."""

    destination_count = Bits(1, 1, 1)
    cat = Bits(1, 0, 1)
    source = Bits(4, 7, 16)
    destination = Bits(6, 7, 16)
    number_of_blocks = Bits(10, 7, 16)
    source_logical_block_address = Bits(12, 7, 64)
    destination_logical_block_address = Bits(20, 7, 64)


class StreamToStream(SegmentDescriptor, code=0x03, length=20):
    """Stream device to stream device (SPC-5 table 152)."""

    cat = Bits(1, 0, 1)
    source = Bits(4, 7, 16)
    destination = Bits(6, 7, 16)
    source_stream_device_transfer_length = Bits(9, 7, 24)
    destination_stream_device_transfer_length = Bits(13, 7, 24)
    byte_count = Bits(16, 7, 32)


class InlineToStream(SegmentDescriptor, code=0x04, length=20):
    """Inline data to stream device (SPC-5 table 153)."""

    cat = Bits(1, 0, 1)
    destination = Bits(6, 7, 16)
    stream_device_transfer_length = Bits(9, 7, 24)
    inline_data_offset = Bits(12, 7, 32)
    inline_data_number_of_bytes = Bits(16, 7, 32)


class EmbeddedToStream(SegmentDescriptor, code=0x05, length=16, carries_data=True):
    """Embedded data to stream device (SPC-5 table 154): the head; embedded_to_stream() makes the whole."""

    cat = Bits(1, 0, 1)
    destination = Bits(6, 7, 16)
    stream_device_transfer_length = Bits(9, 7, 24)
    embedded_data_number_of_bytes = Bits(12, 7, 16)


class StreamToDiscard(SegmentDescriptor, code=0x06, length=16):
    """Stream device to discard (SPC-5 table 155)."""

    cat = Bits(1, 0, 1)
    source = Bits(4, 7, 16)
    stream_device_transfer_length = Bits(9, 7, 24)
    number_of_bytes = Bits(12, 7, 32)


class VerifyCscd(SegmentDescriptor, code=0x07, length=12):
    """Verify CSCD (SPC-5 table 156)."""

    source = Bits(4, 7, 16)
    test_unit_ready = Bits(8, 0, 1)


class BlockWithOffsetToStream(SegmentDescriptor, code=0x08, length=28):
    """Block device with offset to stream device (SPC-5 table 157)."""

    cat = Bits(1, 0, 1)
    source = Bits(4, 7, 16)
    destination = Bits(6, 7, 16)
    stream_device_transfer_length = Bits(9, 7, 24)
    number_of_bytes = Bits(12, 7, 32)
    logical_block_address = Bits(16, 7, 64)
    byte_offset = Bits(26, 7, 16)


class StreamToBlockWithOffset(SegmentDescriptor, code=0x09, length=28):
    """Stream device to block device with offset (SPC-5 table 158)."""

    cat = Bits(1, 0, 1)
    source = Bits(4, 7, 16)
    destination = Bits(6, 7, 16)
    stream_device_transfer_length = Bits(9, 7, 24)
    number_of_bytes = Bits(12, 7, 32)
    logical_block_address = Bits(16, 7, 64)
    byte_offset = Bits(26, 7, 16)


class BlockWithOffsetToBlockWithOffset(SegmentDescriptor, code=0x0A, length=32):
    """Block device with offset to block device with offset (SPC-5 table 159)."""

    cat = Bits(1, 0, 1)
    source = Bits(4, 7, 16)
    destination = Bits(6, 7, 16)
    number_of_bytes = Bits(8, 7, 32)
    source_logical_block_address = Bits(12, 7, 64)
    destination_logical_block_address = Bits(20, 7, 64)
    source_byte_offset = Bits(28, 7, 16)
    destination_byte_offset = Bits(30, 7, 16)


class WriteFilemarks(SegmentDescriptor, code=0x10, length=12):
    """Write filemarks (SPC-5 table 160)."""

    destination = Bits(6, 7, 16)
    immediate = Bits(8, 0, 1)
    filemark_count = Bits(9, 7, 24)


class SpaceTape(SegmentDescriptor, code=0x11, length=12):
    """Space (SPC-5 table 161); the count is signed, as in SPACE(6)."""

    destination = Bits(6, 7, 16)
    code = Bits(8, 2, 3)
    count = Bits(9, 7, 24)


class LocateTape(SegmentDescriptor, code=0x12, length=12):
    """Locate (SPC-5 table 162)."""

    destination = Bits(6, 7, 16)
    logical_object_identifier = Bits(8, 7, 32)


def embedded_to_stream(data: bytes, **fields: int) -> bytes:
    """A segment descriptor of type 05h with its data, at most 65520 bytes; `fields` are those of EmbeddedToStream."""
    head = bytearray(EmbeddedToStream.encode(embedded_data_number_of_bytes=len(data), **fields))
    padded = data.ljust((len(data) + 3) // 4 * 4, b"\0")
    head[2:4] = (len(head) - 4 + len(padded)).to_bytes(2, "big")
    return bytes(head) + padded


def identification_descriptor(
    designator: bytes,
    *,
    device_type: int,
    block_length: int = 0,
    designator_type: int = 3,
    code_set: int = 1,
    pad: bool = False,
    fixed: bool = False,
    null: bool = False,
) -> bytes:
    """A CSCD descriptor for the logical unit whose Device Identification VPD page has this designator (by default NAA).

    device_type: 0 disk, 1 tape. block_length: a disk's, or with `fixed` a tape's, in bytes."""
    return IdentificationDescriptor.encode(
        peripheral_device_type=device_type,
        code_set=code_set,
        designator_type=designator_type,
        designator_length=len(designator),
        designator=designator,
        pad=pad,
        fixed=fixed,
        null=null,
        block_length=block_length,
    )


def parameter_list(
    cscds: Sequence[bytes],
    segments: Sequence[bytes],
    inline_data: bytes = b"",
    *,
    list_identifier: int = 0,
    list_id_usage: int = HOLD,
    priority: int = 1,
    form: type[AnyListHeader] = ParameterListHeader,
    **fields: int,
) -> bytes:
    """A parameter list of encoded descriptors for EXTENDED COPY(LID1), or with `form` ParameterListHeaderLid4 for
    EXTENDED COPY(LID4); `fields` are others of its header."""
    header = form.encode(
        list_identifier=list_identifier,
        list_id_usage=list_id_usage,
        priority=priority,
        cscd_descriptor_list_length=sum(map(len, cscds)),
        segment_descriptor_list_length=sum(map(len, segments)),
        inline_data_length=len(inline_data),
        **fields,
    )
    return b"".join((header, *cscds, *segments, inline_data))


# ---- results -----------------------------------------------------------------------------------------------------


class CopyStatus(Structure, length=12):
    """RECEIVE COPY STATUS(LID1) parameter data (SPC-5 table 253)."""

    available_data = Bits(0, 7, 32, default=8)
    held_data_discarded = Bits(4, 7, 1)
    copy_command_status = Bits(4, 6, 7)
    segments_processed = Bits(5, 7, 16)
    transfer_count_units = Bits(7, 7, 8)
    transfer_count = Bits(8, 7, 32)


class CopyStatusLid4(Structure, length=32):
    """RECEIVE COPY STATUS(LID4) parameter data before its sense data (SPC-5 table 248)."""

    available_data = Bits(0, 7, 32)
    response_to_service_action = Bits(4, 4, 5)
    copy_operation_status = Bits(5, 6, 7)
    operation_counter = Bits(6, 7, 16)
    estimated_status_update_delay = Bits(8, 7, 32)
    completion_status = Bits(12, 7, 8)
    sense_data_field_length = Bits(13, 7, 8)
    sense_data_length = Bits(14, 7, 8)
    transfer_count_units = Bits(15, 7, 8)
    transfer_count = Bits(16, 7, 64)
    segments_processed = Bits(24, 7, 16)


class OperatingParameters(Structure, length=44):
    """RECEIVE COPY OPERATING PARAMETERS parameter data before the list of descriptor types (SPC-5 table 244)."""

    available_data = Bits(0, 7, 32)
    supports_no_list_identifier = Bits(4, 0, 1)
    maximum_cscd_descriptor_count = Bits(8, 7, 16)
    maximum_segment_descriptor_count = Bits(10, 7, 16)
    maximum_descriptor_list_length = Bits(12, 7, 32)
    maximum_segment_length = Bits(16, 7, 32)
    maximum_inline_data_length = Bits(20, 7, 32)
    held_data_limit = Bits(24, 7, 32)
    maximum_stream_device_transfer_size = Bits(28, 7, 32)
    total_concurrent_copies = Bits(34, 7, 16)
    maximum_concurrent_copies = Bits(36, 7, 8)
    data_segment_granularity = Bits(37, 7, 8)
    inline_data_granularity = Bits(38, 7, 8)
    held_data_granularity = Bits(39, 7, 8)
    implemented_descriptor_list_length = Bits(43, 7, 8)


class FailureDetails(Structure, length=60):
    """RECEIVE COPY FAILURE DETAILS(LID1) parameter data before the sense data (SPC-5 table 246)."""

    available_data = Bits(0, 7, 32)
    extended_copy_command_status = Bits(56, 7, 8)
    sense_data_length = Bits(58, 7, 16)


# ---- Third-party Copy VPD page, 8Fh (SPC-5 7.8.17) ---------------------------------------------------------------


class ParameterDataDescriptor(Structure, length=32):
    """Parameter Data third-party copy descriptor (SPC-5 table 648)."""

    descriptor_type = Bits(0, 7, 16, default=0x0004)
    descriptor_length = Bits(2, 7, 16, default=0x1C)
    maximum_cscd_descriptor_count = Bits(8, 7, 16)
    maximum_segment_descriptor_count = Bits(10, 7, 16)
    maximum_descriptor_list_length = Bits(12, 7, 32)
    maximum_inline_data_length = Bits(16, 7, 32)


class GeneralCopyOperationsDescriptor(Structure, length=36):
    """General Copy Operations third-party copy descriptor (SPC-5 7.8.17.10)."""

    descriptor_type = Bits(0, 7, 16, default=0x8001)
    descriptor_length = Bits(2, 7, 16, default=0x20)
    total_concurrent_copies = Bits(4, 7, 32)
    maximum_concurrent_copies = Bits(8, 7, 32)
    maximum_segment_length = Bits(12, 7, 32)
    data_segment_granularity = Bits(16, 7, 8)
    inline_data_granularity = Bits(17, 7, 8)


class StreamCopyOperationsDescriptor(Structure, length=16):
    """Stream Copy Operations third-party copy descriptor (SPC-5 7.8.17.11)."""

    descriptor_type = Bits(0, 7, 16, default=0x9101)
    descriptor_length = Bits(2, 7, 16, default=0x0C)
    maximum_stream_device_transfer_size = Bits(4, 7, 32)


class ThirdPartyCopyDescriptorHeader(Structure, length=4):
    """What a third-party copy descriptor begins with (SPC-5 7.8.17.2)."""

    descriptor_type = Bits(0, 7, 16)
    descriptor_length = Bits(2, 7, 16)


class CommandSupport(Structure, length=2):
    """An operation code in the Supported Commands descriptor, before its service actions (SPC-5 7.8.17.4)."""

    operation_code = Bits(0, 7, 8)
    list_length = Bits(1, 7, 8)


class ShortListHeader(Structure, length=1):
    """What the lists of the Supported Commands and Supported Descriptors descriptors begin with (SPC-5 7.8.17.4, 6)."""

    list_length = Bits(0, 7, 8)


class CscdDescriptorIdsHeader(Structure, length=2):
    """What the list of the Supported CSCD Descriptor IDs descriptor begins with (SPC-5 7.8.17.7)."""

    list_length = Bits(0, 7, 16)


SUPPORTED_COMMANDS, SUPPORTED_DESCRIPTORS, SUPPORTED_CSCD_DESCRIPTOR_IDS = 0x0001, 0x0008, 0x000C


def list_descriptor(descriptor_type: int, header: type[Structure], listed: bytes) -> bytes:
    """A third-party copy descriptor that is a list, padded to a multiple of four (SPC-5 7.8.17.2)."""
    body = header.encode(list_length=len(listed)) + listed
    padded = body.ljust((len(body) + 3) // 4 * 4, b"\0")
    return (
        ThirdPartyCopyDescriptorHeader.encode(descriptor_type=descriptor_type, descriptor_length=len(padded)) + padded
    )

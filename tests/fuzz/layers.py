"""RFC 7143's PDUs as scapy layers: a second, independent description of the wire, for tests only (scapy is GPL-2.0).

Every field may be set to what no initiator would send. A data segment is the packet's payload; its padding and,
unless they are given, TotalAHSLength and DataSegmentLength are filled in.

    bytes(ScsiCommand(initiator_task_tag=1, cdb=bytes(16), write=1, expected_data_transfer_length=4) / Raw(b"abcd"))
"""

from scapy.fields import (
    BitEnumField,
    BitField,
    ByteField,
    Field,
    IntField,
    LongField,
    ShortField,
    StrFixedLenField,
    StrLenField,
    X3BytesField,
    XIntField,
    XLongField,
)
from scapy.packet import Packet, Raw

HEADER_BYTES = 48
NO_TAG = 0xFFFFFFFF

OPCODES = {
    0x00: "NOP-Out",
    0x01: "SCSI Command",
    0x02: "Task Management Function Request",
    0x03: "Login Request",
    0x04: "Text Request",
    0x05: "SCSI Data-Out",
    0x06: "Logout Request",
    0x10: "SNACK Request",
    0x20: "NOP-In",
    0x21: "SCSI Response",
    0x22: "Task Management Function Response",
    0x23: "Login Response",
    0x24: "Text Response",
    0x25: "SCSI Data-In",
    0x26: "Logout Response",
    0x31: "Ready To Transfer",
    0x32: "Asynchronous Message",
    0x3F: "Reject",
}


def _start(opcode: int, immediate: int = 0) -> list[Field]:
    """Byte 0 of every basic header segment (RFC 7143 11.2.1)."""
    return [BitField("unused", 0, 1), BitField("immediate", immediate, 1), BitEnumField("opcode", opcode, 6, OPCODES)]


def _lengths() -> list[Field]:
    """Bytes 4 to 7."""
    return [ByteField("total_ahs_length", None), X3BytesField("data_segment_length", None)]


def _ahs() -> Field:
    """Additional header segments, behind byte 47 (RFC 7143 11.2.2)."""
    return StrLenField("additional_headers", b"", length_from=lambda pdu: 4 * (pdu.total_ahs_length or 0))


class Pdu(Packet):
    """What all PDUs have in common: lengths that fill themselves in, padding, a header of 48 bytes."""

    def post_build(self, header: bytes, data: bytes) -> bytes:
        if self.total_ahs_length is None:
            header = header[:4] + bytes([len(self.additional_headers) // 4 & 0xFF]) + header[5:]
        if self.data_segment_length is None:
            header = header[:5] + len(data).to_bytes(3, "big") + header[8:]
        return header + data + bytes(-len(data) % 4)

    def extract_padding(self, data: bytes) -> tuple[bytes, bytes]:
        return data[: self.data_segment_length], data[self.data_segment_length :]

    @property
    def data(self) -> bytes:
        """The data segment."""
        return bytes(self.payload.load) if Raw in self else b""


class NopOut(Pdu):
    """RFC 7143 11.18."""

    fields_desc = [
        *_start(0x00, immediate=1),
        ByteField("flags", 0x80),
        ShortField("reserved", 0),
        *_lengths(),
        XLongField("lun", 0),
        XIntField("initiator_task_tag", 0),
        XIntField("target_transfer_tag", NO_TAG),
        IntField("cmd_sn", 0),
        IntField("exp_stat_sn", 0),
        StrFixedLenField("reserved_2", bytes(16), 16),
        _ahs(),
    ]


class ScsiCommand(Pdu):
    """RFC 7143 11.3."""

    fields_desc = [
        *_start(0x01),
        BitField("final", 1, 1),
        BitField("read", 0, 1),
        BitField("write", 0, 1),
        BitField("reserved", 0, 2),
        BitField("attributes", 1, 3),
        ShortField("reserved_2", 0),
        *_lengths(),
        XLongField("lun", 0),
        XIntField("initiator_task_tag", 0),
        IntField("expected_data_transfer_length", 0),
        IntField("cmd_sn", 0),
        IntField("exp_stat_sn", 0),
        StrFixedLenField("cdb", bytes(16), 16),
        _ahs(),
    ]


class TaskManagementRequest(Pdu):
    """RFC 7143 11.5."""

    fields_desc = [
        *_start(0x02, immediate=1),
        BitField("final", 1, 1),
        BitField("function", 1, 7),
        ShortField("reserved", 0),
        *_lengths(),
        XLongField("lun", 0),
        XIntField("initiator_task_tag", 0),
        XIntField("referenced_task_tag", NO_TAG),
        IntField("cmd_sn", 0),
        IntField("exp_stat_sn", 0),
        IntField("ref_cmd_sn", 0),
        IntField("exp_data_sn", 0),
        LongField("reserved_2", 0),
        _ahs(),
    ]


class LoginRequest(Pdu):
    """RFC 7143 11.12."""

    fields_desc = [
        *_start(0x03, immediate=1),
        BitField("transit", 1, 1),
        BitField("continue_", 0, 1),
        BitField("reserved", 0, 2),
        BitField("current_stage", 1, 2),
        BitField("next_stage", 3, 2),
        ByteField("version_max", 0),
        ByteField("version_min", 0),
        *_lengths(),
        StrFixedLenField("isid", b"\x80\x12\x34\x56\x00\x00", 6),
        ShortField("tsih", 0),
        XIntField("initiator_task_tag", 0),
        ShortField("cid", 0),
        ShortField("reserved_2", 0),
        IntField("cmd_sn", 0),
        IntField("exp_stat_sn", 0),
        StrFixedLenField("reserved_3", bytes(16), 16),
        _ahs(),
    ]


class TextRequest(Pdu):
    """RFC 7143 11.10."""

    fields_desc = [
        *_start(0x04),
        BitField("final", 1, 1),
        BitField("continue_", 0, 1),
        BitField("reserved", 0, 6),
        ShortField("reserved_2", 0),
        *_lengths(),
        XLongField("lun", 0),
        XIntField("initiator_task_tag", 0),
        XIntField("target_transfer_tag", NO_TAG),
        IntField("cmd_sn", 0),
        IntField("exp_stat_sn", 0),
        StrFixedLenField("reserved_3", bytes(16), 16),
        _ahs(),
    ]


class DataOut(Pdu):
    """RFC 7143 11.7."""

    fields_desc = [
        *_start(0x05),
        BitField("final", 1, 1),
        BitField("reserved", 0, 7),
        ShortField("reserved_2", 0),
        *_lengths(),
        XLongField("lun", 0),
        XIntField("initiator_task_tag", 0),
        XIntField("target_transfer_tag", NO_TAG),
        IntField("reserved_3", 0),
        IntField("exp_stat_sn", 0),
        IntField("reserved_4", 0),
        IntField("data_sn", 0),
        IntField("buffer_offset", 0),
        IntField("reserved_5", 0),
        _ahs(),
    ]


class LogoutRequest(Pdu):
    """RFC 7143 11.14."""

    fields_desc = [
        *_start(0x06, immediate=1),
        BitField("final", 1, 1),
        BitField("reason", 0, 7),
        ShortField("reserved", 0),
        *_lengths(),
        XLongField("reserved_2", 0),
        XIntField("initiator_task_tag", 0),
        ShortField("cid", 0),
        ShortField("reserved_3", 0),
        IntField("cmd_sn", 0),
        IntField("exp_stat_sn", 0),
        StrFixedLenField("reserved_4", bytes(16), 16),
        _ahs(),
    ]


class SnackRequest(Pdu):
    """RFC 7143 11.16."""

    fields_desc = [
        *_start(0x10),
        BitField("final", 1, 1),
        BitField("reserved", 0, 3),
        BitField("kind", 0, 4),
        ShortField("reserved_2", 0),
        *_lengths(),
        XLongField("lun", 0),
        XIntField("initiator_task_tag", 0),
        XIntField("target_transfer_tag", NO_TAG),
        IntField("reserved_3", 0),
        IntField("exp_stat_sn", 0),
        LongField("reserved_4", 0),
        IntField("begin_run", 0),
        IntField("run_length", 0),
        _ahs(),
    ]


class Response(Pdu):
    """What PDUs from the target have in common; the rest of each is in subclasses."""

    @staticmethod
    def sequence_numbers() -> list[Field]:
        """Bytes 24 to 35."""
        return [IntField("stat_sn", 0), IntField("exp_cmd_sn", 0), IntField("max_cmd_sn", 0)]


class NopIn(Response):
    """RFC 7143 11.19."""

    fields_desc = [
        *_start(0x20),
        ByteField("flags", 0x80),
        ShortField("reserved", 0),
        *_lengths(),
        XLongField("lun", 0),
        XIntField("initiator_task_tag", 0),
        XIntField("target_transfer_tag", NO_TAG),
        *Response.sequence_numbers(),
        StrFixedLenField("reserved_2", bytes(12), 12),
        _ahs(),
    ]


class ScsiResponse(Response):
    """RFC 7143 11.4."""

    fields_desc = [
        *_start(0x21),
        BitField("final", 1, 1),
        BitField("reserved", 0, 2),
        BitField("bidirectional_overflow", 0, 1),
        BitField("bidirectional_underflow", 0, 1),
        BitField("overflow", 0, 1),
        BitField("underflow", 0, 1),
        BitField("reserved_2", 0, 1),
        ByteField("response", 0),
        ByteField("status", 0),
        *_lengths(),
        XLongField("reserved_3", 0),
        XIntField("initiator_task_tag", 0),
        XIntField("snack_tag", 0),
        *Response.sequence_numbers(),
        IntField("exp_data_sn", 0),
        IntField("bidirectional_residual_count", 0),
        IntField("residual_count", 0),
        _ahs(),
    ]


class TaskManagementResponse(Response):
    """RFC 7143 11.6."""

    fields_desc = [
        *_start(0x22),
        ByteField("flags", 0x80),
        ByteField("response", 0),
        ByteField("reserved", 0),
        *_lengths(),
        XLongField("reserved_2", 0),
        XIntField("initiator_task_tag", 0),
        IntField("reserved_3", 0),
        *Response.sequence_numbers(),
        StrFixedLenField("reserved_4", bytes(12), 12),
        _ahs(),
    ]


class LoginResponse(Response):
    """RFC 7143 11.13."""

    fields_desc = [
        *_start(0x23),
        BitField("transit", 0, 1),
        BitField("continue_", 0, 1),
        BitField("reserved", 0, 2),
        BitField("current_stage", 0, 2),
        BitField("next_stage", 0, 2),
        ByteField("version_max", 0),
        ByteField("version_active", 0),
        *_lengths(),
        StrFixedLenField("isid", bytes(6), 6),
        ShortField("tsih", 0),
        XIntField("initiator_task_tag", 0),
        IntField("reserved_2", 0),
        *Response.sequence_numbers(),
        ByteField("status_class", 0),
        ByteField("status_detail", 0),
        StrFixedLenField("reserved_3", bytes(10), 10),
        _ahs(),
    ]


class TextResponse(Response):
    """RFC 7143 11.11."""

    fields_desc = [
        *_start(0x24),
        BitField("final", 1, 1),
        BitField("continue_", 0, 1),
        BitField("reserved", 0, 6),
        ShortField("reserved_2", 0),
        *_lengths(),
        XLongField("lun", 0),
        XIntField("initiator_task_tag", 0),
        XIntField("target_transfer_tag", NO_TAG),
        *Response.sequence_numbers(),
        StrFixedLenField("reserved_3", bytes(12), 12),
        _ahs(),
    ]


class DataIn(Response):
    """RFC 7143 11.7."""

    fields_desc = [
        *_start(0x25),
        BitField("final", 0, 1),
        BitField("acknowledge", 0, 1),
        BitField("reserved", 0, 3),
        BitField("overflow", 0, 1),
        BitField("underflow", 0, 1),
        BitField("has_status", 0, 1),
        ByteField("reserved_2", 0),
        ByteField("status", 0),
        *_lengths(),
        XLongField("lun", 0),
        XIntField("initiator_task_tag", 0),
        XIntField("target_transfer_tag", NO_TAG),
        *Response.sequence_numbers(),
        IntField("data_sn", 0),
        IntField("buffer_offset", 0),
        IntField("residual_count", 0),
        _ahs(),
    ]


class LogoutResponse(Response):
    """RFC 7143 11.15."""

    fields_desc = [
        *_start(0x26),
        ByteField("flags", 0x80),
        ByteField("response", 0),
        ByteField("reserved", 0),
        *_lengths(),
        XLongField("reserved_2", 0),
        XIntField("initiator_task_tag", 0),
        IntField("reserved_3", 0),
        *Response.sequence_numbers(),
        IntField("reserved_4", 0),
        ShortField("time_to_wait", 0),
        ShortField("time_to_retain", 0),
        IntField("reserved_5", 0),
        _ahs(),
    ]


class ReadyToTransfer(Response):
    """RFC 7143 11.8."""

    fields_desc = [
        *_start(0x31),
        ByteField("flags", 0x80),
        ShortField("reserved", 0),
        *_lengths(),
        XLongField("lun", 0),
        XIntField("initiator_task_tag", 0),
        XIntField("target_transfer_tag", 0),
        *Response.sequence_numbers(),
        IntField("r2t_sn", 0),
        IntField("buffer_offset", 0),
        IntField("desired_data_transfer_length", 0),
        _ahs(),
    ]


class AsynchronousMessage(Response):
    """RFC 7143 11.9."""

    fields_desc = [
        *_start(0x32),
        ByteField("flags", 0x80),
        ShortField("reserved", 0),
        *_lengths(),
        XLongField("lun", 0),
        XIntField("tag", NO_TAG),
        IntField("reserved_2", 0),
        *Response.sequence_numbers(),
        ByteField("event", 0),
        ByteField("vendor_code", 0),
        ShortField("parameter_1", 0),
        ShortField("parameter_2", 0),
        ShortField("parameter_3", 0),
        IntField("reserved_3", 0),
        _ahs(),
    ]


class Reject(Response):
    """RFC 7143 11.17."""

    fields_desc = [
        *_start(0x3F),
        ByteField("flags", 0x80),
        ByteField("reason", 0),
        ByteField("reserved", 0),
        *_lengths(),
        XLongField("reserved_2", 0),
        XIntField("tag", NO_TAG),
        IntField("reserved_3", 0),
        *Response.sequence_numbers(),
        IntField("data_sn", 0),
        LongField("reserved_4", 0),
        _ahs(),
    ]


REQUESTS: tuple[type[Pdu], ...] = (
    NopOut,
    ScsiCommand,
    TaskManagementRequest,
    LoginRequest,
    TextRequest,
    DataOut,
    LogoutRequest,
    SnackRequest,
)
RESPONSES: tuple[type[Response], ...] = (
    NopIn,
    ScsiResponse,
    TaskManagementResponse,
    LoginResponse,
    TextResponse,
    DataIn,
    LogoutResponse,
    ReadyToTransfer,
    AsynchronousMessage,
    Reject,
)
_BY_OPCODE = {kind.fields_desc[2].default: kind for kind in (*REQUESTS, *RESPONSES)}


def parse(header: bytes, data: bytes = b"") -> Pdu:
    """The PDU of a basic header segment (with its additional ones) and a data segment. KeyError: no such opcode."""
    pdu = _BY_OPCODE[header[0] & 0x3F](header)
    return pdu / Raw(data) if data else pdu

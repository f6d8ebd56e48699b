"""Every PDU of RFC 7143, declared. Names are the RFC's, spelled out; tests hold encode and decode to each other."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, ClassVar, Self

from scsi_targets.t10.fields import Bits, Structure

BHS_LENGTH = 48
OPCODE_MASK = 0x3F
RESERVED_TAG = 0xFFFFFFFF  # "no tag", in an Initiator Task Tag or a Target Transfer Tag


class Stage(IntEnum):
    """Login stages, CSG and NSG (RFC 7143 11.12.3). 2 is not a stage."""

    SECURITY_NEGOTIATION = 0
    LOGIN_OPERATIONAL_NEGOTIATION = 1
    FULL_FEATURE_PHASE = 3


class LoginStatus(IntEnum):
    """Status-Class and Status-Detail as one number (RFC 7143 11.13.5)."""

    SUCCESS = 0x0000
    TARGET_MOVED_TEMPORARILY = 0x0101
    TARGET_MOVED_PERMANENTLY = 0x0102
    INITIATOR_ERROR = 0x0200
    AUTHENTICATION_FAILURE = 0x0201
    AUTHORIZATION_FAILURE = 0x0202
    NOT_FOUND = 0x0203
    TARGET_REMOVED = 0x0204
    UNSUPPORTED_VERSION = 0x0205
    TOO_MANY_CONNECTIONS = 0x0206
    MISSING_PARAMETER = 0x0207
    CANNOT_INCLUDE_IN_SESSION = 0x0208
    SESSION_TYPE_NOT_SUPPORTED = 0x0209
    SESSION_DOES_NOT_EXIST = 0x020A
    INVALID_DURING_LOGIN = 0x020B
    TARGET_ERROR = 0x0300
    SERVICE_UNAVAILABLE = 0x0301
    OUT_OF_RESOURCES = 0x0302


class LogoutReason(IntEnum):
    """RFC 7143 11.14.1."""

    CLOSE_SESSION = 0
    CLOSE_CONNECTION = 1
    REMOVE_CONNECTION_FOR_RECOVERY = 2


class LogoutResult(IntEnum):
    """RFC 7143 11.15.1."""

    CLOSED = 0
    CID_NOT_FOUND = 1
    CONNECTION_RECOVERY_NOT_SUPPORTED = 2
    CLEANUP_FAILED = 3


class TaskFunction(IntEnum):
    """Task management functions (RFC 7143 11.5.1, RFC 7144 5.1)."""

    ABORT_TASK = 1
    ABORT_TASK_SET = 2
    CLEAR_ACA = 3
    CLEAR_TASK_SET = 4
    LOGICAL_UNIT_RESET = 5
    TARGET_WARM_RESET = 6
    TARGET_COLD_RESET = 7
    TASK_REASSIGN = 8
    QUERY_TASK = 9
    QUERY_TASK_SET = 10
    I_T_NEXUS_RESET = 11
    QUERY_ASYNCHRONOUS_EVENT = 12


class TaskResponse(IntEnum):
    """RFC 7143 11.6.1, RFC 7144 5.2."""

    FUNCTION_COMPLETE = 0
    TASK_DOES_NOT_EXIST = 1
    LUN_DOES_NOT_EXIST = 2
    TASK_STILL_ALLEGIANT = 3
    REASSIGNMENT_NOT_SUPPORTED = 4
    FUNCTION_NOT_SUPPORTED = 5
    AUTHORIZATION_FAILED = 6
    FUNCTION_SUCCEEDED = 7
    FUNCTION_REJECTED = 255


class RejectReason(IntEnum):
    """RFC 7143 11.17.1."""

    DATA_DIGEST_ERROR = 0x02
    SNACK_REJECT = 0x03
    PROTOCOL_ERROR = 0x04
    COMMAND_NOT_SUPPORTED = 0x05
    IMMEDIATE_COMMAND_REJECT = 0x06
    TASK_IN_PROGRESS = 0x07
    INVALID_DATA_ACK = 0x08
    INVALID_PDU_FIELD = 0x09
    LONG_OPERATION_REJECT = 0x0A
    WAITING_FOR_LOGOUT = 0x0C


class AsyncEvent(IntEnum):
    """RFC 7143 11.9.1."""

    SCSI_EVENT = 0
    LOGOUT_REQUESTED = 1
    CONNECTION_DROP = 2
    SESSION_DROP = 3
    NEGOTIATION_REQUESTED = 4
    TASK_TERMINATION = 5


class PduFormatError(ValueError):
    """The bytes are no PDU that this end knows; str is one line for the log."""


class Pdu(Structure, length=BHS_LENGTH):
    """The fields of every Basic Header Segment (RFC 7143 11.2.1), and the data segment, without padding, in `data`."""

    __slots__ = ("data",)
    opcode: ClassVar[int] = -1

    immediate = Bits(0, 6, 1)
    total_ahs_length = Bits(4, 7, 8)
    data_segment_length = Bits(5, 7, 24)
    initiator_task_tag = Bits(16, 7, 32, default=RESERVED_TAG)

    def __init__(self, raw: bytes, data: bytes = b"") -> None:
        super().__init__(raw)
        self.data = data

    def __init_subclass__(cls, *, opcode: int | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if opcode is None:
            return
        if PDU_CLASSES.setdefault(opcode, cls) is not cls:
            raise TypeError(f"opcode {opcode:#04x} is declared twice")
        cls.opcode = opcode
        cls.constant = opcode << (BHS_LENGTH - 1) * 8

    @classmethod
    def make(cls, data: bytes = b"", **fields: int) -> Self:
        """A PDU with these fields, the others at their defaults. Raises ValueError for a value that does not fit."""
        return cls(cls.encode(data_segment_length=len(data), **fields), data)

    def to_bytes(self) -> bytes:
        """The whole PDU without digests: header, then the data segment padded to four bytes (RFC 7143 11.1)."""
        return self.raw + self.data + bytes(-len(self.data) % 4)


PDU_CLASSES: dict[int, type[Pdu]] = {}


def decode_pdu(header: bytes, data: bytes = b"") -> Pdu:
    """The PDU with these 48 bytes of header, of whichever declared class. Raises PduFormatError."""
    if len(header) != BHS_LENGTH:
        raise PduFormatError(f"a header has {BHS_LENGTH} bytes, not {len(header)}")
    pdu_class = PDU_CLASSES.get(header[0] & OPCODE_MASK)
    if pdu_class is None:
        raise PduFormatError(f"no PDU has opcode {header[0] & OPCODE_MASK:#04x}")
    return pdu_class(header, data)


# ---- sent by an initiator ----------------------------------------------------------------------------------------


class NopOut(Pdu, opcode=0x00):
    """RFC 7143 11.18."""

    final = Bits(1, 7, 1, default=1)
    lun = Bits(8, 7, 64)
    target_transfer_tag = Bits(20, 7, 32, default=RESERVED_TAG)
    cmd_sn = Bits(24, 7, 32)
    exp_stat_sn = Bits(28, 7, 32)


class ScsiCommandRequest(Pdu, opcode=0x01):
    """SCSI Command, RFC 7143 11.3. `cdb` is the 16 bytes as one integer. (The engine decodes these when it serves.)"""

    final = Bits(1, 7, 1, default=1)
    read = Bits(1, 6, 1)
    write = Bits(1, 5, 1)
    task_attribute = Bits(1, 2, 3)
    command_reference_number = Bits(3, 7, 8)
    lun = Bits(8, 7, 64)
    expected_data_transfer_length = Bits(20, 7, 32)
    cmd_sn = Bits(24, 7, 32)
    exp_stat_sn = Bits(28, 7, 32)
    cdb = Bits(32, 7, 128)


class TaskManagementRequest(Pdu, opcode=0x02):
    """Task Management Function Request, RFC 7143 11.5."""

    final = Bits(1, 7, 1, default=1)
    function = Bits(1, 6, 7)
    lun = Bits(8, 7, 64)
    referenced_task_tag = Bits(20, 7, 32, default=RESERVED_TAG)
    cmd_sn = Bits(24, 7, 32)
    exp_stat_sn = Bits(28, 7, 32)
    ref_cmd_sn = Bits(32, 7, 32)
    exp_data_sn = Bits(36, 7, 32)


class LoginRequest(Pdu, opcode=0x03):
    """RFC 7143 11.12."""

    transit = Bits(1, 7, 1)
    continue_ = Bits(1, 6, 1)
    current_stage = Bits(1, 3, 2)
    next_stage = Bits(1, 1, 2)
    version_max = Bits(2, 7, 8)
    version_min = Bits(3, 7, 8)
    isid = Bits(8, 7, 48)
    tsih = Bits(14, 7, 16)
    connection_id = Bits(20, 7, 16)
    cmd_sn = Bits(24, 7, 32)
    exp_stat_sn = Bits(28, 7, 32)


class TextRequest(Pdu, opcode=0x04):
    """RFC 7143 11.10."""

    final = Bits(1, 7, 1)
    continue_ = Bits(1, 6, 1)
    lun = Bits(8, 7, 64)
    target_transfer_tag = Bits(20, 7, 32, default=RESERVED_TAG)
    cmd_sn = Bits(24, 7, 32)
    exp_stat_sn = Bits(28, 7, 32)


class DataOut(Pdu, opcode=0x05):
    """SCSI Data-Out, RFC 7143 11.7. (The engine decodes these when it serves.)"""

    final = Bits(1, 7, 1)
    lun = Bits(8, 7, 64)
    target_transfer_tag = Bits(20, 7, 32, default=RESERVED_TAG)
    exp_stat_sn = Bits(28, 7, 32)
    data_sn = Bits(36, 7, 32)
    buffer_offset = Bits(40, 7, 32)


class LogoutRequest(Pdu, opcode=0x06):
    """RFC 7143 11.14."""

    final = Bits(1, 7, 1, default=1)
    reason = Bits(1, 6, 7)
    connection_id = Bits(20, 7, 16)
    cmd_sn = Bits(24, 7, 32)
    exp_stat_sn = Bits(28, 7, 32)


class SnackRequest(Pdu, opcode=0x10):
    """RFC 7143 11.16."""

    final = Bits(1, 7, 1, default=1)
    type = Bits(1, 3, 4)
    lun = Bits(8, 7, 64)
    target_transfer_tag = Bits(20, 7, 32, default=RESERVED_TAG)
    exp_stat_sn = Bits(28, 7, 32)
    beg_run = Bits(40, 7, 32)
    run_length = Bits(44, 7, 32)


# ---- sent by a target --------------------------------------------------------------------------------------------


class TargetPdu(Pdu):
    """The sequence numbers that every PDU from a target carries (the engine fills them in once it has the socket)."""

    stat_sn = Bits(24, 7, 32)
    exp_cmd_sn = Bits(28, 7, 32)
    max_cmd_sn = Bits(32, 7, 32)


class NopIn(TargetPdu, opcode=0x20):
    """RFC 7143 11.19."""

    final = Bits(1, 7, 1, default=1)
    lun = Bits(8, 7, 64)
    target_transfer_tag = Bits(20, 7, 32, default=RESERVED_TAG)


class ScsiResponse(TargetPdu, opcode=0x21):
    """RFC 7143 11.4. (The engine encodes these when it serves.)"""

    final = Bits(1, 7, 1, default=1)
    bidirectional_read_overflow = Bits(1, 4, 1)
    bidirectional_read_underflow = Bits(1, 3, 1)
    overflow = Bits(1, 2, 1)
    underflow = Bits(1, 1, 1)
    response = Bits(2, 7, 8)
    status = Bits(3, 7, 8)
    snack_tag = Bits(20, 7, 32)
    exp_data_sn = Bits(36, 7, 32)
    bidirectional_read_residual_count = Bits(40, 7, 32)
    residual_count = Bits(44, 7, 32)


class TaskManagementResponse(TargetPdu, opcode=0x22):
    """Task Management Function Response, RFC 7143 11.6."""

    final = Bits(1, 7, 1, default=1)
    response = Bits(2, 7, 8)


class LoginResponse(TargetPdu, opcode=0x23):
    """RFC 7143 11.13. `status` is Status-Class and Status-Detail together."""

    transit = Bits(1, 7, 1)
    continue_ = Bits(1, 6, 1)
    current_stage = Bits(1, 3, 2)
    next_stage = Bits(1, 1, 2)
    version_max = Bits(2, 7, 8)
    version_active = Bits(3, 7, 8)
    isid = Bits(8, 7, 48)
    tsih = Bits(14, 7, 16)
    status = Bits(36, 7, 16)


class TextResponse(TargetPdu, opcode=0x24):
    """RFC 7143 11.11."""

    final = Bits(1, 7, 1)
    continue_ = Bits(1, 6, 1)
    lun = Bits(8, 7, 64)
    target_transfer_tag = Bits(20, 7, 32, default=RESERVED_TAG)


class DataIn(TargetPdu, opcode=0x25):
    """SCSI Data-In, RFC 7143 11.7. (The engine encodes these when it serves.)"""

    final = Bits(1, 7, 1)
    acknowledge = Bits(1, 6, 1)
    overflow = Bits(1, 2, 1)
    underflow = Bits(1, 1, 1)
    status_present = Bits(1, 0, 1)
    status = Bits(3, 7, 8)
    lun = Bits(8, 7, 64)
    target_transfer_tag = Bits(20, 7, 32, default=RESERVED_TAG)
    data_sn = Bits(36, 7, 32)
    buffer_offset = Bits(40, 7, 32)
    residual_count = Bits(44, 7, 32)


class LogoutResponse(TargetPdu, opcode=0x26):
    """RFC 7143 11.15. Times are in seconds."""

    final = Bits(1, 7, 1, default=1)
    response = Bits(2, 7, 8)
    time2wait = Bits(40, 7, 16)
    time2retain = Bits(42, 7, 16)


class ReadyToTransfer(TargetPdu, opcode=0x31):
    """R2T, RFC 7143 11.8. (The engine encodes these when it serves.)"""

    final = Bits(1, 7, 1, default=1)
    lun = Bits(8, 7, 64)
    target_transfer_tag = Bits(20, 7, 32, default=RESERVED_TAG)
    r2t_sn = Bits(36, 7, 32)
    buffer_offset = Bits(40, 7, 32)
    desired_data_transfer_length = Bits(44, 7, 32)


class AsyncMessage(TargetPdu, opcode=0x32):
    """Asynchronous Message, RFC 7143 11.9."""

    final = Bits(1, 7, 1, default=1)
    lun = Bits(8, 7, 64)
    async_event = Bits(36, 7, 8)
    async_vcode = Bits(37, 7, 8)
    parameter1 = Bits(38, 7, 16)
    parameter2 = Bits(40, 7, 16)
    parameter3 = Bits(42, 7, 16)


class Reject(TargetPdu, opcode=0x3F):
    """RFC 7143 11.17. `data` is the header of the PDU that was rejected."""

    final = Bits(1, 7, 1, default=1)
    reason = Bits(2, 7, 8)
    data_sn = Bits(36, 7, 32)

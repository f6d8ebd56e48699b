"""Sense keys, additional sense codes and the one encoder of sense data (SPC-5 4.4)."""

from __future__ import annotations

from typing import Final, NamedTuple

from scsi_targets.t10.fields import Field

NO_SENSE = 0x0
NOT_READY = 0x2
MEDIUM_ERROR_KEY = 0x3
HARDWARE_ERROR = 0x4
ILLEGAL_REQUEST = 0x5
UNIT_ATTENTION = 0x6
DATA_PROTECT = 0x7
BLANK_CHECK = 0x8
COPY_ABORTED = 0xA
ABORTED_COMMAND = 0xB
VOLUME_OVERFLOW = 0xD
MISCOMPARE = 0xE
COMPLETED = 0xF


class SenseCode(NamedTuple):
    """Sense key, ADDITIONAL SENSE CODE and its QUALIFIER, in the combination a standard prescribes."""

    key: int
    asc: int
    ascq: int


NOTHING = SenseCode(NO_SENSE, 0x00, 0x00)

# What the medium did (SSC-5).
FILEMARK_DETECTED = SenseCode(NO_SENSE, 0x00, 0x01)
WRITE_PAST_END_OF_PARTITION = SenseCode(VOLUME_OVERFLOW, 0x00, 0x02)
BEGINNING_OF_PARTITION_DETECTED = SenseCode(NO_SENSE, 0x00, 0x04)
END_OF_DATA_DETECTED = SenseCode(BLANK_CHECK, 0x00, 0x05)
INCORRECT_LENGTH = SenseCode(NO_SENSE, 0x00, 0x00)
EARLY_WARNING = SenseCode(NO_SENSE, 0x00, 0x02)
PROGRAMMABLE_EARLY_WARNING = SenseCode(NO_SENSE, 0x00, 0x07)
OPERATION_IN_PROGRESS = SenseCode(NO_SENSE, 0x00, 0x16)
EXTENDED_COPY_INFORMATION_AVAILABLE = SenseCode(COMPLETED, 0x00, 0x20)
SEQUENTIAL_POSITIONING_ERROR = SenseCode(MEDIUM_ERROR_KEY, 0x3B, 0x00)
UNRECOVERED_READ_ERROR = SenseCode(MEDIUM_ERROR_KEY, 0x11, 0x00)
WRITE_ERROR = SenseCode(MEDIUM_ERROR_KEY, 0x0C, 0x00)
MEDIUM_FORMAT_CORRUPTED = SenseCode(MEDIUM_ERROR_KEY, 0x31, 0x00)
FORMAT_COMMAND_FAILED = SenseCode(MEDIUM_ERROR_KEY, 0x31, 0x01)
SANITIZE_COMMAND_FAILED = SenseCode(MEDIUM_ERROR_KEY, 0x31, 0x03)
INCOMPATIBLE_MEDIUM = SenseCode(NOT_READY, 0x30, 0x00)
CLEANING_CARTRIDGE_INSTALLED = SenseCode(NOT_READY, 0x30, 0x03)

# Not ready.
LOGICAL_UNIT_BECOMING_READY = SenseCode(NOT_READY, 0x04, 0x01)
INITIALIZING_COMMAND_REQUIRED = SenseCode(NOT_READY, 0x04, 0x02)
MANUAL_INTERVENTION_REQUIRED = SenseCode(NOT_READY, 0x04, 0x03)
FORMAT_IN_PROGRESS = SenseCode(NOT_READY, 0x04, 0x04)
SANITIZE_IN_PROGRESS = SenseCode(NOT_READY, 0x04, 0x1B)
IDLE_CONDITION_ACTIVATED_BY_COMMAND = SenseCode(NO_SENSE, 0x5E, 0x03)
STANDBY_CONDITION_ACTIVATED_BY_COMMAND = SenseCode(NO_SENSE, 0x5E, 0x04)
MEDIUM_NOT_PRESENT = SenseCode(NOT_READY, 0x3A, 0x00)

# Illegal requests.
PARAMETER_LIST_LENGTH_ERROR = SenseCode(ILLEGAL_REQUEST, 0x1A, 0x00)
INVALID_COMMAND_OPERATION_CODE = SenseCode(ILLEGAL_REQUEST, 0x20, 0x00)
ACCESS_DENIED = SenseCode(ILLEGAL_REQUEST, 0x20, 0x02)  # NO ACCESS RIGHTS
INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT = SenseCode(ILLEGAL_REQUEST, 0x0E, 0x03)
LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE = SenseCode(ILLEGAL_REQUEST, 0x21, 0x00)
INVALID_ELEMENT_ADDRESS = SenseCode(ILLEGAL_REQUEST, 0x21, 0x01)
INVALID_FIELD_IN_CDB = SenseCode(ILLEGAL_REQUEST, 0x24, 0x00)
LOGICAL_UNIT_NOT_SUPPORTED = SenseCode(ILLEGAL_REQUEST, 0x25, 0x00)
INVALID_FIELD_IN_PARAMETER_LIST = SenseCode(ILLEGAL_REQUEST, 0x26, 0x00)
INVALID_RELEASE_OF_PERSISTENT_RESERVATION = SenseCode(ILLEGAL_REQUEST, 0x26, 0x04)
TOO_MANY_TARGET_DESCRIPTORS = SenseCode(ILLEGAL_REQUEST, 0x26, 0x06)
UNSUPPORTED_TARGET_DESCRIPTOR_TYPE = SenseCode(ILLEGAL_REQUEST, 0x26, 0x07)
TOO_MANY_SEGMENT_DESCRIPTORS = SenseCode(ILLEGAL_REQUEST, 0x26, 0x08)
UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE = SenseCode(ILLEGAL_REQUEST, 0x26, 0x09)
INLINE_DATA_LENGTH_EXCEEDED = SenseCode(ILLEGAL_REQUEST, 0x26, 0x0B)
INVALID_OPERATION_FOR_COPY_SOURCE_OR_DESTINATION = SenseCode(ILLEGAL_REQUEST, 0x26, 0x0C)
POSITION_NOT_AS_EXPECTED = SenseCode(ILLEGAL_REQUEST, 0x3B, 0x00)  # SEQUENTIAL POSITIONING ERROR
COMMAND_SEQUENCE_ERROR = SenseCode(ILLEGAL_REQUEST, 0x2C, 0x00)
MEDIUM_DESTINATION_ELEMENT_FULL = SenseCode(ILLEGAL_REQUEST, 0x3B, 0x0D)
MEDIUM_SOURCE_ELEMENT_EMPTY = SenseCode(ILLEGAL_REQUEST, 0x3B, 0x0E)
POSITION_PAST_BEGINNING_OF_MEDIUM = SenseCode(ILLEGAL_REQUEST, 0x3B, 0x0C)
MEDIUM_REMOVAL_PREVENTED = SenseCode(ILLEGAL_REQUEST, 0x53, 0x02)
INSUFFICIENT_REGISTRATION_RESOURCES = SenseCode(ILLEGAL_REQUEST, 0x55, 0x04)
AUXILIARY_MEMORY_OUT_OF_SPACE = SenseCode(ILLEGAL_REQUEST, 0x55, 0x06)
INSUFFICIENT_RESOURCES = SenseCode(ILLEGAL_REQUEST, 0x55, 0x03)

# Unit attentions.
NOT_READY_TO_READY_CHANGE = SenseCode(UNIT_ATTENTION, 0x28, 0x00)
IMPORT_OR_EXPORT_ELEMENT_ACCESSED = SenseCode(UNIT_ATTENTION, 0x28, 0x01)
POWER_ON_OCCURRED = SenseCode(UNIT_ATTENTION, 0x29, 0x00)
BUS_DEVICE_RESET_FUNCTION_OCCURRED = SenseCode(UNIT_ATTENTION, 0x29, 0x03)
RESET_ASC = 0x29  # of the conditions that go before a reservation conflict (SAM-5 5.3.3)
MODE_PARAMETERS_CHANGED = SenseCode(UNIT_ATTENTION, 0x2A, 0x01)
LOG_PARAMETERS_CHANGED = SenseCode(UNIT_ATTENTION, 0x2A, 0x02)
RESERVATIONS_PREEMPTED = SenseCode(UNIT_ATTENTION, 0x2A, 0x03)
RESERVATIONS_RELEASED = SenseCode(UNIT_ATTENTION, 0x2A, 0x04)
REGISTRATIONS_PREEMPTED = SenseCode(UNIT_ATTENTION, 0x2A, 0x05)
ENCRYPTION_PARAMETERS_CHANGED = SenseCode(UNIT_ATTENTION, 0x2A, 0x11)  # by another I_T nexus
ENCRYPTION_PARAMETERS_LOST = SenseCode(UNIT_ATTENTION, 0x2A, 0x12)  # by a vendor-specific event
CAPACITY_DATA_HAS_CHANGED = SenseCode(UNIT_ATTENTION, 0x2A, 0x09)
COMMANDS_CLEARED_BY_ANOTHER_INITIATOR = SenseCode(UNIT_ATTENTION, 0x2F, 0x00)
REPORTED_LUNS_DATA_HAS_CHANGED = SenseCode(UNIT_ATTENTION, 0x3F, 0x0E)
MEDIUM_MAY_HAVE_CHANGED = NOT_READY_TO_READY_CHANGE

# Data protect.
WRITE_PROTECTED = SenseCode(DATA_PROTECT, 0x27, 0x00)
SOFTWARE_WRITE_PROTECTED = SenseCode(DATA_PROTECT, 0x27, 0x02)
SPACE_ALLOCATION_FAILED_WRITE_PROTECT = SenseCode(DATA_PROTECT, 0x27, 0x07)
CANNOT_FORMAT_MEDIUM_INCOMPATIBLE_MEDIUM = SenseCode(DATA_PROTECT, 0x30, 0x06)
CANNOT_WRITE_MEDIUM_INCOMPATIBLE_FORMAT = SenseCode(DATA_PROTECT, 0x30, 0x05)
WORM_MEDIUM_OVERWRITE_ATTEMPTED = SenseCode(DATA_PROTECT, 0x30, 0x0C)
KEY_INSTANCE_COUNTER_CHANGED = SenseCode(DATA_PROTECT, 0x2A, 0x13)
UNABLE_TO_DECRYPT = SenseCode(DATA_PROTECT, 0x74, 0x01)
UNENCRYPTED_DATA_WHILE_DECRYPTING = SenseCode(DATA_PROTECT, 0x74, 0x02)
INCORRECT_DATA_ENCRYPTION_KEY = SenseCode(DATA_PROTECT, 0x74, 0x03)
ENCRYPTION_MODE_MISMATCH_ON_READ = SenseCode(DATA_PROTECT, 0x74, 0x09)
NOT_RAW_READ_ENABLED = SenseCode(DATA_PROTECT, 0x74, 0x0A)
INCORRECT_ENCRYPTION_PARAMETERS = SenseCode(DATA_PROTECT, 0x74, 0x0B)

# Copying (SPC-4 6.4, EXTENDED COPY).
UNREACHABLE_COPY_TARGET = SenseCode(COPY_ABORTED, 0x08, 0x04)
COPY_ABORTED_WITHOUT_ADDITIONAL_SENSE = SenseCode(COPY_ABORTED, 0x00, 0x00)
COPY_SEGMENT_FAILED = SenseCode(COPY_ABORTED, 0x0D, 0x00)
THIRD_PARTY_DEVICE_FAILURE = SenseCode(COPY_ABORTED, 0x0D, 0x01)
COPY_TARGET_NOT_REACHABLE = SenseCode(COPY_ABORTED, 0x0D, 0x02)
INCORRECT_COPY_TARGET_DEVICE_TYPE = SenseCode(COPY_ABORTED, 0x0D, 0x03)
COPY_TARGET_DATA_UNDERRUN = SenseCode(COPY_ABORTED, 0x0D, 0x04)
COPY_TARGET_DATA_OVERRUN = SenseCode(COPY_ABORTED, 0x0D, 0x05)
UNEXPECTED_INEXACT_SEGMENT = SenseCode(COPY_ABORTED, 0x26, 0x0A)
COPY_CLEARED_BY_DEVICE_SERVER = SenseCode(COPY_ABORTED, 0x2F, 0x02)

# Aborted commands and failures.
LOGICAL_BLOCK_GUARD_CHECK_FAILED = SenseCode(HARDWARE_ERROR, 0x10, 0x01)
MISCOMPARE_DURING_VERIFY = SenseCode(MISCOMPARE, 0x1D, 0x00)
MEDIA_LOAD_OR_EJECT_FAILED = SenseCode(HARDWARE_ERROR, 0x53, 0x00)
LOGICAL_UNIT_FAILURE = SenseCode(HARDWARE_ERROR, 0x3E, 0x01)
LOGICAL_UNIT_FAILED_SELF_TEST = SenseCode(HARDWARE_ERROR, 0x3E, 0x03)
INTERNAL_TARGET_FAILURE = SenseCode(HARDWARE_ERROR, 0x44, 0x00)
PROTOCOL_SERVICE_CRC_ERROR = SenseCode(ABORTED_COMMAND, 0x47, 0x05)
UNEXPECTED_UNSOLICITED_DATA = SenseCode(ABORTED_COMMAND, 0x0C, 0x0C)
NOT_ENOUGH_UNSOLICITED_DATA = SenseCode(ABORTED_COMMAND, 0x0C, 0x0D)


MAXIMUM_SENSE_BYTES = 252  # SPC-5 4.4.1
DESCRIPTOR_HEADER_BYTES = 8
FORWARDED_TRUNCATED = 0x80  # FSDT


class ForwardedSense(NamedTuple):
    """Status and sense data that a copy source or destination gave the copy manager (SPC-5 5.17.7.4); encoded, it is
    cut to what sense data may hold."""

    by_destination: bool
    status: int
    sense: bytes


class Sense(NamedTuple):
    """Everything one set of sense data says; encode() gives its bytes in either format."""

    code: SenseCode
    field: Field | int | None = None  # the field in error; an integer is a byte offset without a bit pointer
    field_in_cdb: bool = True
    information: int | None = None  # signed residuals are two's complement, as SSC-5 has them
    command_specific: int | None = None
    filemark: bool = False
    end_of_medium: bool = False
    incorrect_length: bool = False
    progress: int | None = None  # 0 to 65535
    segment_pointer: tuple[int, bool, int] | None = None  # (byte, segment-relative, bit or -1), EXTENDED COPY
    deferred: bool = False
    forwarded: ForwardedSense | None = None

    def encode(self, descriptor_format: bool = False) -> bytes:
        """Fixed-format (18 bytes) or descriptor-format sense data (SPC-5 4.4.2, 4.4.3)."""
        return self._descriptors() if descriptor_format else self._fixed()

    def _sense_key_specific(self) -> bytes | None:
        if self.progress is not None:
            return bytes([0x80]) + self.progress.to_bytes(2, "big")
        if self.segment_pointer is not None:
            byte, segment_relative, bit = self.segment_pointer
            flags = 0x80 | (0x20 if segment_relative else 0) | (0x08 | bit if bit >= 0 else 0)
            return bytes([flags]) + byte.to_bytes(2, "big")
        if self.field is None or (isinstance(self.field, int) and self.field > 0xFFFF):
            return None  # a field pointer has two bytes
        flags = 0x80 | (0x40 if self.field_in_cdb else 0)
        if isinstance(self.field, int):
            return bytes([flags]) + self.field.to_bytes(2, "big")
        return bytes([flags | 0x08 | self.field.msb]) + self.field.byte.to_bytes(2, "big")

    def _stream_bits(self) -> int:
        return self.filemark << 7 | self.end_of_medium << 6 | self.incorrect_length << 5

    def _fixed(self) -> bytes:
        out = bytearray(18)
        out[0] = 0x71 if self.deferred else 0x70
        out[2] = self._stream_bits() | self.code.key
        if self.information is not None and -(1 << 31) <= self.information < 1 << 32:
            out[0] |= 0x80  # VALID; an INFORMATION that does not fit is left out (SPC-5 4.4.3)
            out[3:7] = (self.information & 0xFFFFFFFF).to_bytes(4, "big")
        out[7] = 10
        if self.command_specific is not None:
            out[8:12] = (self.command_specific & 0xFFFFFFFF).to_bytes(4, "big")
        out[12], out[13] = self.code.asc, self.code.ascq
        if (specific := self._sense_key_specific()) is not None:
            out[15:18] = specific
        if self.forwarded is not None:
            # The first and second byte of COMMAND-SPECIFIC INFORMATION say where the status byte is.
            out[9 if self.forwarded.by_destination else 8] = len(out)
            out += bytes([self.forwarded.status]) + self.forwarded.sense
            del out[MAXIMUM_SENSE_BYTES:]
            out[7] = len(out) - 8
        return bytes(out)

    def _descriptors(self) -> bytes:
        body = bytearray()
        if self.information is not None:
            body += bytes([0x00, 0x0A, 0x80, 0]) + (self.information & (1 << 64) - 1).to_bytes(8, "big")
        if self.command_specific is not None:
            body += bytes([0x01, 0x0A, 0, 0]) + (self.command_specific & (1 << 64) - 1).to_bytes(8, "big")
        if (specific := self._sense_key_specific()) is not None:
            body += bytes([0x02, 0x06, 0, 0]) + specific + b"\0"
        if stream := self._stream_bits():
            body += bytes([0x04, 0x02, 0, stream])
        if self.forwarded is not None:
            inner = self.forwarded.sense[: MAXIMUM_SENSE_BYTES - DESCRIPTOR_HEADER_BYTES - len(body) - 4]
            whose = 2 if self.forwarded.by_destination else 1
            whose |= FORWARDED_TRUNCATED if len(inner) < len(self.forwarded.sense) else 0
            body += bytes([0x0C, 2 + len(inner), whose, self.forwarded.status]) + inner
        first = 0x73 if self.deferred else 0x72
        return bytes([first, self.code.key, self.code.asc, self.code.ascq, 0, 0, 0, len(body)]) + bytes(body)


class CheckCondition(Exception):
    """A command ends with CHECK CONDITION. Takes a SenseCode and the same keywords as Sense.

    `data_in`: bytes transferred all the same (a READ with ILI); `transferred`: bytes SCSI moved, for the residual.
    """

    def __init__(
        self,
        code: SenseCode,
        field: Field | int | None = None,
        *,
        field_in_cdb: bool | None = None,
        information: int | None = None,
        command_specific: int | None = None,
        filemark: bool = False,
        end_of_medium: bool = False,
        incorrect_length: bool = False,
        progress: int | None = None,
        segment_pointer: tuple[int, bool, int] | None = None,
        deferred: bool = False,
        forwarded: ForwardedSense | None = None,
        data_in: object | None = None,
        transferred: int = 0,
    ) -> None:
        if field_in_cdb is None:
            field_in_cdb = (code.asc, code.ascq) not in {(0x26, 0x00), (0x1A, 0x00)}
        self.sense = Sense(
            code, field, field_in_cdb, information, command_specific, filemark, end_of_medium, incorrect_length,
            progress, segment_pointer, deferred, forwarded,
        )  # fmt: skip
        self.data_in = data_in
        self.transferred = transferred
        super().__init__(f"{code.key:X}/{code.asc:02X}/{code.ascq:02X}")


# For people; where a code has several names, the first.
NAMES: Final = {
    code: name.replace("_", " ") for name, code in reversed(list(globals().items())) if isinstance(code, SenseCode)
}


def name_of(code: SenseCode) -> str:
    """For people: WRITE ERROR (3h/0Ch/00h)."""
    numbers = f"{code.key:X}h/{code.asc:02X}h/{code.ascq:02X}h"
    return f"{NAMES[code]} ({numbers})" if code in NAMES else f"sense {numbers}"

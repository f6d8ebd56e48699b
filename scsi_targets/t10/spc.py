"""Commands of SPC-5 (and of SPC-2 where initiators still send them), common to all devices."""

from scsi_targets.t10.fields import Bits, Command, Structure


class TestUnitReady(Command, opcode=0x00, length=6):
    """TEST UNIT READY, SPC-5 6.47."""


class RequestSense(Command, opcode=0x03, length=6):
    """REQUEST SENSE, SPC-5 6.39."""

    descriptor_format = Bits(1, 0, 1)
    allocation_length = Bits(4, 7, 8)


class Inquiry(Command, opcode=0x12, length=6):
    """INQUIRY, SPC-5 6.6."""

    enable_vital_product_data = Bits(1, 0, 1)
    page_code = Bits(2, 7, 8)
    allocation_length = Bits(3, 7, 16)


class ModeSelect6(Command, opcode=0x15, length=6):
    """MODE SELECT(6), SPC-5 6.10."""

    page_format = Bits(1, 4, 1)
    revert_to_defaults = Bits(1, 1, 1)
    save_pages = Bits(1, 0, 1)
    parameter_list_length = Bits(4, 7, 8)


class ModeSelect10(Command, opcode=0x55, length=10):
    """MODE SELECT(10), SPC-5 6.11."""

    page_format = Bits(1, 4, 1)
    revert_to_defaults = Bits(1, 1, 1)
    save_pages = Bits(1, 0, 1)
    parameter_list_length = Bits(7, 7, 16)


class ModeSense6(Command, opcode=0x1A, length=6):
    """MODE SENSE(6), SPC-5 6.12."""

    disable_block_descriptors = Bits(1, 3, 1)
    page_control = Bits(2, 7, 2)
    page_code = Bits(2, 5, 6)
    subpage_code = Bits(3, 7, 8)
    allocation_length = Bits(4, 7, 8)


class ModeSense10(Command, opcode=0x5A, length=10):
    """MODE SENSE(10), SPC-5 6.13."""

    long_lba_accepted = Bits(1, 4, 1)
    disable_block_descriptors = Bits(1, 3, 1)
    page_control = Bits(2, 7, 2)
    page_code = Bits(2, 5, 6)
    subpage_code = Bits(3, 7, 8)
    allocation_length = Bits(7, 7, 16)


class Reserve6(Command, opcode=0x16, length=6):
    """RESERVE(6), SPC-2 7.21. Third-party and extent reservations are obsolete."""

    third_party = Bits(1, 4, 1)
    third_party_device_id = Bits(1, 3, 3)
    extent = Bits(1, 0, 1)
    reservation_identification = Bits(2, 7, 8)
    parameter_list_length = Bits(3, 7, 16)


class Release6(Command, opcode=0x17, length=6):
    """RELEASE(6), SPC-2 7.16."""

    third_party = Bits(1, 4, 1)
    third_party_device_id = Bits(1, 3, 3)
    extent = Bits(1, 0, 1)
    reservation_identification = Bits(2, 7, 8)


class Reserve10(Command, opcode=0x56, length=10):
    """RESERVE(10), SPC-2 7.22."""

    third_party = Bits(1, 4, 1)
    long_id = Bits(1, 1, 1)
    extent = Bits(1, 0, 1)
    reservation_identification = Bits(2, 7, 8)
    third_party_device_id = Bits(3, 7, 8)
    parameter_list_length = Bits(7, 7, 16)


class Release10(Command, opcode=0x57, length=10):
    """RELEASE(10), SPC-2 7.17."""

    third_party = Bits(1, 4, 1)
    long_id = Bits(1, 1, 1)
    extent = Bits(1, 0, 1)
    reservation_identification = Bits(2, 7, 8)
    third_party_device_id = Bits(3, 7, 8)
    parameter_list_length = Bits(7, 7, 16)


class ReceiveDiagnosticResults(Command, opcode=0x1C, length=6):
    """RECEIVE DIAGNOSTIC RESULTS, SPC-5 6.28."""

    page_code_valid = Bits(1, 0, 1)
    page_code = Bits(2, 7, 8)
    allocation_length = Bits(3, 7, 16)


class SendDiagnostic(Command, opcode=0x1D, length=6):
    """SEND DIAGNOSTIC, SPC-5 6.42."""

    self_test_code = Bits(1, 7, 3)
    page_format = Bits(1, 4, 1)
    self_test = Bits(1, 2, 1)
    device_offline = Bits(1, 1, 1)
    unit_offline = Bits(1, 0, 1)
    parameter_list_length = Bits(3, 7, 16)


class DiagnosticPageHeader(Structure, length=4):
    """What every diagnostic page begins with (SPC-5 7.2.1)."""

    page_code = Bits(0, 7, 8)
    page_length = Bits(2, 7, 16)


class PreventAllowMediumRemoval(Command, opcode=0x1E, length=6):
    """PREVENT ALLOW MEDIUM REMOVAL, SBC-4 5.15, SSC-5, SMC-3 6.7."""

    prevent = Bits(4, 1, 2)


class LogSelect(Command, opcode=0x4C, length=10):
    """LOG SELECT, SPC-5 6.7."""

    parameter_code_reset = Bits(1, 1, 1)
    save_parameters = Bits(1, 0, 1)
    page_control = Bits(2, 7, 2)
    page_code = Bits(2, 5, 6)
    subpage_code = Bits(3, 7, 8)
    parameter_list_length = Bits(7, 7, 16)


class LogSense(Command, opcode=0x4D, length=10):
    """LOG SENSE, SPC-5 6.8."""

    save_parameters = Bits(1, 0, 1)
    page_control = Bits(2, 7, 2)
    page_code = Bits(2, 5, 6)
    subpage_code = Bits(3, 7, 8)
    parameter_pointer = Bits(5, 7, 16)
    allocation_length = Bits(7, 7, 16)


class ReportLuns(Command, opcode=0xA0, length=12):
    """REPORT LUNS, SPC-5 6.33."""

    select_report = Bits(2, 7, 8)
    allocation_length = Bits(6, 7, 32)


class PersistentReserveInCommand(Command, length=10):
    """What the service actions of PERSISTENT RESERVE IN share, SPC-5 6.15."""

    allocation_length = Bits(7, 7, 16)


class ReadKeys(PersistentReserveInCommand, opcode=0x5E, service_action=0x00):
    """PERSISTENT RESERVE IN, READ KEYS."""


class ReadReservation(PersistentReserveInCommand, opcode=0x5E, service_action=0x01):
    """PERSISTENT RESERVE IN, READ RESERVATION."""


class ReportCapabilities(PersistentReserveInCommand, opcode=0x5E, service_action=0x02):
    """PERSISTENT RESERVE IN, REPORT CAPABILITIES."""


class ReadFullStatus(PersistentReserveInCommand, opcode=0x5E, service_action=0x03):
    """PERSISTENT RESERVE IN, READ FULL STATUS."""


class PersistentReserveOutCommand(Command, length=10):
    """What the service actions of PERSISTENT RESERVE OUT share, SPC-5 6.16."""

    scope = Bits(2, 7, 4)
    type = Bits(2, 3, 4)
    parameter_list_length = Bits(5, 7, 32)


class Register(PersistentReserveOutCommand, opcode=0x5F, service_action=0x00):
    """PERSISTENT RESERVE OUT, REGISTER."""


class ReservePersistent(PersistentReserveOutCommand, opcode=0x5F, service_action=0x01):
    """PERSISTENT RESERVE OUT, RESERVE."""


class ReleasePersistent(PersistentReserveOutCommand, opcode=0x5F, service_action=0x02):
    """PERSISTENT RESERVE OUT, RELEASE."""


class ClearPersistent(PersistentReserveOutCommand, opcode=0x5F, service_action=0x03):
    """PERSISTENT RESERVE OUT, CLEAR."""


class Preempt(PersistentReserveOutCommand, opcode=0x5F, service_action=0x04):
    """PERSISTENT RESERVE OUT, PREEMPT."""


class PreemptAndAbort(PersistentReserveOutCommand, opcode=0x5F, service_action=0x05):
    """PERSISTENT RESERVE OUT, PREEMPT AND ABORT."""


class RegisterAndIgnoreExistingKey(PersistentReserveOutCommand, opcode=0x5F, service_action=0x06):
    """PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY."""


class RegisterAndMove(PersistentReserveOutCommand, opcode=0x5F, service_action=0x07):
    """PERSISTENT RESERVE OUT, REGISTER AND MOVE."""


class ReportSupportedOperationCodes(Command, opcode=0xA3, service_action=0x0C, length=12):
    """REPORT SUPPORTED OPERATION CODES, SPC-5 6.35."""

    return_commands_timeout_descriptor = Bits(2, 7, 1)
    reporting_options = Bits(2, 2, 3)
    requested_operation_code = Bits(3, 7, 8)
    requested_service_action = Bits(4, 7, 16)
    allocation_length = Bits(6, 7, 32)


class ReportSupportedTaskManagementFunctions(Command, opcode=0xA3, service_action=0x0D, length=12):
    """REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS, SPC-5 6.36."""

    return_extended_parameter_data = Bits(2, 7, 1)
    allocation_length = Bits(6, 7, 32)


class ReturnDataLength(Structure, length=4):
    """What several lists of parameter data begin with: the length of what follows (SPC-5 tables 205, 215)."""

    length_bytes = Bits(0, 7, 32)


class SupportedCommandDescriptor(Structure, length=8):
    """One command of the all_commands parameter data (SPC-5 table 206)."""

    operation_code = Bits(0, 7, 8)
    service_action = Bits(2, 7, 16)
    timeouts_present = Bits(5, 1, 1)  # CTDP
    service_action_valid = Bits(5, 0, 1)  # SERVACTV
    cdb_length = Bits(6, 7, 16)


class OneCommandHeader(Structure, length=4):
    """The one_command parameter data before CDB USAGE DATA (SPC-5 table 207)."""

    timeouts_present = Bits(1, 7, 1)  # CTDP
    support = Bits(1, 2, 3)
    cdb_size = Bits(2, 7, 16)


class CommandTimeoutsDescriptor(Structure, length=12):
    """How long a command may take, in seconds; 0: nothing is said (SPC-5 table 209)."""

    descriptor_length = Bits(0, 7, 16, default=10)
    nominal_command_processing_timeout = Bits(4, 7, 32)
    recommended_command_timeout = Bits(8, 7, 32)


class SupportedTaskManagementFunctions(Structure, length=16):
    """REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS data; its first four bytes are the basic form (SPC-5 table 211)."""

    abort_task = Bits(0, 7, 1, default=1)
    abort_task_set = Bits(0, 6, 1, default=1)
    clear_aca = Bits(0, 5, 1)
    clear_task_set = Bits(0, 4, 1, default=1)
    logical_unit_reset = Bits(0, 3, 1, default=1)
    query_task = Bits(0, 2, 1)
    target_reset = Bits(0, 1, 1, default=1)
    wakeup = Bits(0, 0, 1)
    additional_data_length = Bits(3, 7, 8)


class ReportLunsHeader(Structure, length=8):
    """REPORT LUNS parameter data before the LUNs (SPC-5 table 239)."""

    list_length = Bits(0, 7, 32)


class SingleLevelLun(Structure, length=8):
    """A LUN of one level (SAM-5 4.7.7)."""

    address_method = Bits(0, 7, 2)
    logical_unit_number = Bits(0, 5, 14)


class ReportTargetPortGroups(Command, opcode=0xA3, service_action=0x0A, length=12):
    """REPORT TARGET PORT GROUPS, SPC-5 6.37."""

    parameter_data_format = Bits(1, 7, 3)
    allocation_length = Bits(6, 7, 32)


class ExtendedPortGroupsHeader(Structure, length=4):
    """What extended parameter data has before the groups (SPC-5 table 216)."""

    format_type = Bits(0, 6, 3, default=1)
    implicit_transition_time = Bits(1, 7, 8)


class TargetPortDescriptor(Structure, length=4):
    """One target port of a group; a relative target port or target port group designator too (SPC-5 table 219)."""

    relative_target_port_identifier = Bits(2, 7, 16)


class TargetPortGroupDescriptor(Structure, length=8):
    """Target port group descriptor of REPORT TARGET PORT GROUPS, without its ports (SPC-5 table 217)."""

    preferred = Bits(0, 7, 1)
    asymmetric_access_state = Bits(0, 3, 4)  # 0: active/optimized
    active_optimized_supported = Bits(1, 0, 1)
    target_port_group = Bits(2, 7, 16)
    status_code = Bits(5, 7, 8)
    target_port_count = Bits(7, 7, 8)


class ReportTimestamp(Command, opcode=0xA3, service_action=0x0F, length=12):
    """REPORT TIMESTAMP, SPC-5 6.38."""

    allocation_length = Bits(6, 7, 32)


class TimestampData(Structure, length=12):
    """REPORT TIMESTAMP parameter data (SPC-5 table 220)."""

    parameter_data_length = Bits(0, 7, 16, default=10)
    timestamp_origin = Bits(2, 2, 3)
    timestamp = Bits(4, 7, 48)  # milliseconds since 1970


class SetTimestampParameterList(Structure, length=12):
    """SET TIMESTAMP parameter list (SPC-5 table 252)."""

    timestamp = Bits(4, 7, 48)


class SetTimestamp(Command, opcode=0xA4, service_action=0x0F, length=12):
    """SET TIMESTAMP, SPC-5 6.46."""

    parameter_list_length = Bits(6, 7, 32)


class ReadBuffer(Command, opcode=0x3C, length=10):
    """READ BUFFER(10), SPC-5 6.18."""

    mode_specific = Bits(1, 7, 3)
    mode = Bits(1, 4, 5)
    buffer_id = Bits(2, 7, 8)
    buffer_offset = Bits(3, 7, 24)
    allocation_length = Bits(6, 7, 24)


class EchoBufferDescriptor(Structure, length=4):
    """READ BUFFER data, mode 0Bh (SPC-5 table 195)."""

    not_overwritten_by_others = Bits(0, 0, 1, default=1)  # EBOS: each nexus has its own
    buffer_capacity = Bits(2, 4, 13)


class BufferDescriptor(Structure, length=4):
    """READ BUFFER data, mode 03h (SPC-5 table 192); zero: there is no such buffer."""

    offset_boundary = Bits(0, 7, 8)
    buffer_capacity = Bits(1, 7, 24)


class WriteBuffer(Command, opcode=0x3B, length=10):
    """WRITE BUFFER, SPC-5 6.49."""

    mode_specific = Bits(1, 7, 3)
    mode = Bits(1, 4, 5)
    buffer_id = Bits(2, 7, 8)
    buffer_offset = Bits(3, 7, 24)
    parameter_list_length = Bits(6, 7, 24)


class SecurityProtocolIn(Command, opcode=0xA2, length=12):
    """SECURITY PROTOCOL IN, SPC-5 6.40."""

    security_protocol = Bits(1, 7, 8)
    security_protocol_specific = Bits(2, 7, 16)
    increment_512 = Bits(4, 7, 1)  # INC_512: the length counts 512-byte units
    allocation_length = Bits(6, 7, 32)


class SecurityProtocolOut(Command, opcode=0xB5, length=12):
    """SECURITY PROTOCOL OUT, SPC-5 6.41."""

    security_protocol = Bits(1, 7, 8)
    security_protocol_specific = Bits(2, 7, 16)
    increment_512 = Bits(4, 7, 1)
    transfer_length = Bits(6, 7, 32)

"""Commands of SBC-4, direct access block devices. Field names are the standard's."""

from scsi_targets.t10.fields import Bits, Command

# ---- reading and writing ---------------------------------------------------------------------------------------------


class Read6(Command, opcode=0x08, length=6):
    """READ(6), SBC-3 5.8. A TRANSFER LENGTH of zero means 256 blocks."""

    logical_block_address = Bits(1, 4, 21)
    transfer_length = Bits(4, 7, 8)


class Write6(Command, opcode=0x0A, length=6):
    """WRITE(6), SBC-3 5.31. A TRANSFER LENGTH of zero means 256 blocks."""

    logical_block_address = Bits(1, 4, 21)
    transfer_length = Bits(4, 7, 8)


class Transfer10(Command, length=10):
    """What READ(10) and WRITE(10) share."""

    protect = Bits(1, 7, 3)
    disable_page_out = Bits(1, 4, 1)
    force_unit_access = Bits(1, 3, 1)
    logical_block_address = Bits(2, 7, 32)
    group_number = Bits(6, 4, 5)
    transfer_length = Bits(7, 7, 16)


class Transfer12(Command, length=12):
    """What READ(12) and WRITE(12) share."""

    protect = Bits(1, 7, 3)
    disable_page_out = Bits(1, 4, 1)
    force_unit_access = Bits(1, 3, 1)
    logical_block_address = Bits(2, 7, 32)
    transfer_length = Bits(6, 7, 32)
    group_number = Bits(10, 4, 5)


class Transfer16(Command, length=16):
    """What READ(16), WRITE(16) and ORWRITE(16) share."""

    protect = Bits(1, 7, 3)
    disable_page_out = Bits(1, 4, 1)
    force_unit_access = Bits(1, 3, 1)
    logical_block_address = Bits(2, 7, 64)
    transfer_length = Bits(10, 7, 32)
    group_number = Bits(14, 4, 5)


class Read10(Transfer10, opcode=0x28):
    """READ(10), SBC-4 5.17."""


class Read12(Transfer12, opcode=0xA8):
    """READ(12), SBC-4 5.18."""


class Read16(Transfer16, opcode=0x88):
    """READ(16), SBC-4 5.19."""


class Write10(Transfer10, opcode=0x2A):
    """WRITE(10), SBC-4 5.40."""


class Write12(Transfer12, opcode=0xAA):
    """WRITE(12), SBC-4 5.41."""


class Write16(Transfer16, opcode=0x8A):
    """WRITE(16), SBC-4 5.42."""


class OrWrite16(Transfer16, opcode=0x8B):
    """ORWRITE(16), SBC-4 5.14."""


class WriteAtomic16(Command, opcode=0x9C, length=16):
    """WRITE ATOMIC(16), SBC-4 5.48."""

    protect = Bits(1, 7, 3)
    disable_page_out = Bits(1, 4, 1)
    force_unit_access = Bits(1, 3, 1)
    logical_block_address = Bits(2, 7, 64)
    atomic_boundary = Bits(10, 7, 16)
    transfer_length = Bits(12, 7, 16)
    group_number = Bits(14, 4, 5)


class CompareAndWrite(Command, opcode=0x89, length=16):
    """COMPARE AND WRITE, SBC-4 5.3."""

    protect = Bits(1, 7, 3)
    disable_page_out = Bits(1, 4, 1)
    force_unit_access = Bits(1, 3, 1)
    logical_block_address = Bits(2, 7, 64)
    number_of_logical_blocks = Bits(13, 7, 8)
    group_number = Bits(14, 4, 5)


# ---- verifying -------------------------------------------------------------------------------------------------------


class Verify10(Command, opcode=0x2F, length=10):
    """VERIFY(10), SBC-4 5.36."""

    protect = Bits(1, 7, 3)
    disable_page_out = Bits(1, 4, 1)
    byte_check = Bits(1, 2, 2)
    logical_block_address = Bits(2, 7, 32)
    group_number = Bits(6, 4, 5)
    verification_length = Bits(7, 7, 16)


class Verify12(Command, opcode=0xAF, length=12):
    """VERIFY(12), SBC-4 5.37."""

    protect = Bits(1, 7, 3)
    disable_page_out = Bits(1, 4, 1)
    byte_check = Bits(1, 2, 2)
    logical_block_address = Bits(2, 7, 32)
    verification_length = Bits(6, 7, 32)
    group_number = Bits(10, 4, 5)


class Verify16(Command, opcode=0x8F, length=16):
    """VERIFY(16), SBC-4 5.38."""

    protect = Bits(1, 7, 3)
    disable_page_out = Bits(1, 4, 1)
    byte_check = Bits(1, 2, 2)
    logical_block_address = Bits(2, 7, 64)
    verification_length = Bits(10, 7, 32)
    group_number = Bits(14, 4, 5)


class WriteAndVerify10(Command, opcode=0x2E, length=10):
    """WRITE AND VERIFY(10), SBC-4 5.44."""

    protect = Bits(1, 7, 3)
    disable_page_out = Bits(1, 4, 1)
    byte_check = Bits(1, 2, 2)
    logical_block_address = Bits(2, 7, 32)
    group_number = Bits(6, 4, 5)
    transfer_length = Bits(7, 7, 16)


class WriteAndVerify12(Command, opcode=0xAE, length=12):
    """WRITE AND VERIFY(12), SBC-4 5.45."""

    protect = Bits(1, 7, 3)
    disable_page_out = Bits(1, 4, 1)
    byte_check = Bits(1, 2, 2)
    logical_block_address = Bits(2, 7, 32)
    transfer_length = Bits(6, 7, 32)
    group_number = Bits(10, 4, 5)


class WriteAndVerify16(Command, opcode=0x8E, length=16):
    """WRITE AND VERIFY(16), SBC-4 5.46."""

    protect = Bits(1, 7, 3)
    disable_page_out = Bits(1, 4, 1)
    byte_check = Bits(1, 2, 2)
    logical_block_address = Bits(2, 7, 64)
    transfer_length = Bits(10, 7, 32)
    group_number = Bits(14, 4, 5)


# ---- the cache -------------------------------------------------------------------------------------------------------


class PreFetch10(Command, opcode=0x34, length=10):
    """PRE-FETCH(10), SBC-4 5.12."""

    immediate = Bits(1, 1, 1)
    logical_block_address = Bits(2, 7, 32)
    group_number = Bits(6, 4, 5)
    prefetch_length = Bits(7, 7, 16)


class PreFetch16(Command, opcode=0x90, length=16):
    """PRE-FETCH(16), SBC-4 5.13."""

    immediate = Bits(1, 1, 1)
    logical_block_address = Bits(2, 7, 64)
    prefetch_length = Bits(10, 7, 32)
    group_number = Bits(14, 4, 5)


class SynchronizeCache10(Command, opcode=0x35, length=10):
    """SYNCHRONIZE CACHE(10), SBC-4 5.33."""

    immediate = Bits(1, 1, 1)
    logical_block_address = Bits(2, 7, 32)
    group_number = Bits(6, 4, 5)
    number_of_logical_blocks = Bits(7, 7, 16)


class SynchronizeCache16(Command, opcode=0x91, length=16):
    """SYNCHRONIZE CACHE(16), SBC-4 5.34."""

    immediate = Bits(1, 1, 1)
    logical_block_address = Bits(2, 7, 64)
    number_of_logical_blocks = Bits(10, 7, 32)
    group_number = Bits(14, 4, 5)


# ---- provisioning ----------------------------------------------------------------------------------------------------


class WriteSame10(Command, opcode=0x41, length=10):
    """WRITE SAME(10), SBC-4 5.52."""

    protect = Bits(1, 7, 3)
    anchor = Bits(1, 4, 1)
    unmap = Bits(1, 3, 1)
    logical_block_address = Bits(2, 7, 32)
    group_number = Bits(6, 4, 5)
    number_of_logical_blocks = Bits(7, 7, 16)


class WriteSame16(Command, opcode=0x93, length=16):
    """WRITE SAME(16), SBC-4 5.53."""

    protect = Bits(1, 7, 3)
    anchor = Bits(1, 4, 1)
    unmap = Bits(1, 3, 1)
    no_data_out_buffer = Bits(1, 0, 1)
    logical_block_address = Bits(2, 7, 64)
    number_of_logical_blocks = Bits(10, 7, 32)
    group_number = Bits(14, 4, 5)


class Unmap(Command, opcode=0x42, length=10):
    """UNMAP, SBC-4 5.35."""

    anchor = Bits(1, 0, 1)
    group_number = Bits(6, 4, 5)
    parameter_list_length = Bits(7, 7, 16)


class GetLbaStatus16(Command, opcode=0x9E, service_action=0x12, length=16):
    """GET LBA STATUS(16), SBC-4 5.6."""

    starting_logical_block_address = Bits(2, 7, 64)
    allocation_length = Bits(10, 7, 32)


# ---- capacity, defects -----------------------------------------------------------------------------------------------


class ReadCapacity10(Command, opcode=0x25, length=10):
    """READ CAPACITY(10), SBC-4 5.20; LOGICAL BLOCK ADDRESS and PMI as SBC-2 had them."""

    logical_block_address = Bits(2, 7, 32)
    partial_medium_indicator = Bits(8, 0, 1)


class ReadCapacity16(Command, opcode=0x9E, service_action=0x10, length=16):
    """READ CAPACITY(16), SBC-4 5.21; LOGICAL BLOCK ADDRESS and PMI as SBC-2 had them."""

    logical_block_address = Bits(2, 7, 64)
    allocation_length = Bits(10, 7, 32)
    partial_medium_indicator = Bits(14, 0, 1)


class ReadDefectData10(Command, opcode=0x37, length=10):
    """READ DEFECT DATA(10), SBC-4 5.22."""

    request_primary_list = Bits(2, 4, 1)
    request_grown_list = Bits(2, 3, 1)
    defect_list_format = Bits(2, 2, 3)
    allocation_length = Bits(7, 7, 16)


class ReadDefectData12(Command, opcode=0xB7, length=12):
    """READ DEFECT DATA(12), SBC-4 5.23."""

    request_primary_list = Bits(1, 4, 1)
    request_grown_list = Bits(1, 3, 1)
    defect_list_format = Bits(1, 2, 3)
    address_descriptor_index = Bits(2, 7, 32)
    allocation_length = Bits(6, 7, 32)


# ---- the unit --------------------------------------------------------------------------------------------------------


class StartStopUnit(Command, opcode=0x1B, length=6):
    """START STOP UNIT, SBC-4 5.31."""

    immediate = Bits(1, 0, 1)
    power_condition_modifier = Bits(3, 3, 4)
    power_condition = Bits(4, 7, 4)
    no_flush = Bits(4, 2, 1)
    load_eject = Bits(4, 1, 1)
    start = Bits(4, 0, 1)


class FormatUnit(Command, opcode=0x04, length=6):
    """FORMAT UNIT, SBC-4 5.4."""

    format_protection_information = Bits(1, 7, 2)
    long_list = Bits(1, 5, 1)
    format_data = Bits(1, 4, 1)
    complete_list = Bits(1, 3, 1)
    defect_list_format = Bits(1, 2, 3)


class SanitizeCommand(Command, length=10):
    """What the service actions of SANITIZE share, SBC-4 5.30. ZNR belongs to zoned devices: reserved here."""

    immediate = Bits(1, 7, 1)
    allow_unrestricted_sanitize_exit = Bits(1, 5, 1)
    parameter_list_length = Bits(7, 7, 16)


class SanitizeOverwrite(SanitizeCommand, opcode=0x48, service_action=0x01):
    """SANITIZE, OVERWRITE."""


class SanitizeBlockErase(SanitizeCommand, opcode=0x48, service_action=0x02):
    """SANITIZE, BLOCK ERASE."""


class SanitizeCryptographicErase(SanitizeCommand, opcode=0x48, service_action=0x03):
    """SANITIZE, CRYPTOGRAPHIC ERASE."""


class SanitizeExitFailureMode(SanitizeCommand, opcode=0x48, service_action=0x1F):
    """SANITIZE, EXIT FAILURE MODE."""

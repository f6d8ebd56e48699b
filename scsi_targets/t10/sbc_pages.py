"""Mode, VPD and parameter pages of SBC-4."""

from scsi_targets.t10.fields import Bits, Structure
from scsi_targets.t10.mode_pages import ControlModePage, ModePage

# ---- mode pages ------------------------------------------------------------------------------------------------------


class ReadWriteErrorRecoveryModePage(ModePage, page=0x01, length=12):
    """Read-Write Error Recovery mode page (SBC-4 6.5.10)."""

    automatic_write_reallocation = Bits(2, 7, 1, default=1)
    automatic_read_reallocation = Bits(2, 6, 1)
    transfer_block = Bits(2, 5, 1)
    read_continuous = Bits(2, 4, 1)
    enable_early_recovery = Bits(2, 3, 1)
    post_error = Bits(2, 2, 1)
    data_terminate_on_error = Bits(2, 1, 1)
    disable_correction = Bits(2, 0, 1)
    read_retry_count = Bits(3, 7, 8)
    logical_block_provisioning_error_reporting = Bits(7, 7, 1)
    write_retry_count = Bits(8, 7, 8)
    recovery_time_limit = Bits(10, 7, 16)


class CachingModePage(ModePage, page=0x08, length=20):
    """Caching mode page (SBC-4 6.5.6). WCE = 0 makes every write durable before its status."""

    initiator_control = Bits(2, 7, 1)
    abort_prefetch = Bits(2, 6, 1)
    caching_analysis_permitted = Bits(2, 5, 1)
    discontinuity = Bits(2, 4, 1)
    size_enable = Bits(2, 3, 1)
    writeback_cache_enable = Bits(2, 2, 1, default=1, changeable=True)
    multiplication_factor = Bits(2, 1, 1)
    read_cache_disable = Bits(2, 0, 1)
    demand_read_retention_priority = Bits(3, 7, 4)
    write_retention_priority = Bits(3, 3, 4)
    disable_prefetch_transfer_length = Bits(4, 7, 16)
    minimum_prefetch = Bits(6, 7, 16)
    maximum_prefetch = Bits(8, 7, 16)
    maximum_prefetch_ceiling = Bits(10, 7, 16)
    force_sequential_write = Bits(12, 7, 1)
    logical_block_cache_segment_size = Bits(12, 6, 1)
    disable_read_ahead = Bits(12, 5, 1)
    non_volatile_disabled = Bits(12, 0, 1)
    number_of_cache_segments = Bits(13, 7, 8)
    cache_segment_size = Bits(14, 7, 16)


class BlockControlModePage(ControlModePage):
    """The Control mode page of a disk: SWP can be changed (SPC-5 7.5.10)."""

    software_write_protect = Bits(4, 3, 1, changeable=True)


# ---- block descriptors and headers -----------------------------------------------------------------------------------


class ShortBlockDescriptor(Structure, length=8):
    """Short LBA mode parameter block descriptor (SBC-4 6.5.2.2)."""

    number_of_logical_blocks = Bits(0, 7, 32)
    logical_block_length = Bits(5, 7, 24)


class LongBlockDescriptor(Structure, length=16):
    """Long LBA mode parameter block descriptor (SBC-4 6.5.2.3)."""

    number_of_logical_blocks = Bits(0, 7, 64)
    logical_block_length = Bits(12, 7, 32)


class DeviceSpecificParameter(Structure, length=1):
    """DEVICE-SPECIFIC PARAMETER of the mode parameter header (SBC-4 6.5.1)."""

    write_protect = Bits(0, 7, 1)
    dpo_and_fua = Bits(0, 4, 1)


# ---- READ CAPACITY ---------------------------------------------------------------------------------------------------


class ReadCapacity10Data(Structure, length=8):
    """READ CAPACITY(10) parameter data (SBC-4 table 67)."""

    returned_logical_block_address = Bits(0, 7, 32)
    logical_block_length = Bits(4, 7, 32)


class ReadCapacity16Data(Structure, length=32):
    """READ CAPACITY(16) parameter data (SBC-4 table 69)."""

    returned_logical_block_address = Bits(0, 7, 64)
    logical_block_length = Bits(8, 7, 32)
    protection_type = Bits(12, 3, 3)
    protection_enable = Bits(12, 0, 1)
    logical_blocks_per_physical_block_exponent = Bits(13, 3, 4)
    provisioning_management_enabled = Bits(14, 7, 1)
    provisioning_read_zeros = Bits(14, 6, 1)
    lowest_aligned_logical_block_address = Bits(14, 5, 14)


# ---- UNMAP, GET LBA STATUS -------------------------------------------------------------------------------------------


class UnmapParameterListHeader(Structure, length=8):
    """UNMAP parameter list, without its descriptors (SBC-4 table 100)."""

    unmap_data_length = Bits(0, 7, 16)
    block_descriptor_data_length = Bits(2, 7, 16)


class UnmapBlockDescriptor(Structure, length=16):
    """UNMAP block descriptor (SBC-4 table 101)."""

    logical_block_address = Bits(0, 7, 64)
    number_of_logical_blocks = Bits(8, 7, 32)


class LbaStatusHeader(Structure, length=8):
    """GET LBA STATUS parameter data before its descriptors (SBC-4 table 46)."""

    parameter_data_length = Bits(0, 7, 32)


class LbaStatusDescriptor(Structure, length=16):
    """LBA status descriptor (SBC-4 table 47)."""

    logical_block_address = Bits(0, 7, 64)
    number_of_logical_blocks = Bits(8, 7, 32)
    provisioning_status = Bits(12, 3, 4)


class DefectListKind(Structure, length=2):
    """What READ DEFECT DATA parameter data begin with (SBC-4 tables 74 and 76)."""

    primary_list_valid = Bits(1, 4, 1)
    grown_list_valid = Bits(1, 3, 1)
    defect_list_format = Bits(1, 2, 3)


class DefectListHeader10(DefectListKind, length=4):
    """READ DEFECT DATA(10) parameter data (SBC-4 table 74)."""

    defect_list_length = Bits(2, 7, 16)


class DefectListHeader12(DefectListKind, length=8):
    """READ DEFECT DATA(12) parameter data (SBC-4 table 76)."""

    defect_list_length = Bits(4, 7, 32)


# ---- FORMAT UNIT, SANITIZE -------------------------------------------------------------------------------------------


class FormatOptions(Structure, length=2):
    """What both FORMAT UNIT parameter list headers begin with (SBC-4 tables 41 and 42)."""

    protection_fields_usage = Bits(0, 2, 3)
    format_options_valid = Bits(1, 7, 1)
    disable_primary = Bits(1, 6, 1)
    disable_certification = Bits(1, 5, 1)
    stop_format = Bits(1, 4, 1)
    initialization_pattern = Bits(1, 3, 1)
    immediate = Bits(1, 1, 1)


class FormatParameterListHeader(FormatOptions, length=4):
    """Short FORMAT UNIT parameter list header (SBC-4 table 41)."""

    defect_list_length = Bits(2, 7, 16)


class LongFormatParameterListHeader(FormatOptions, length=8):
    """Long FORMAT UNIT parameter list header (SBC-4 table 42)."""

    protection_interval_exponent = Bits(3, 3, 4)
    defect_list_length = Bits(4, 7, 32)


class InitializationPatternDescriptor(Structure, length=4):
    """Initialization pattern descriptor, without the pattern (SBC-4 table 45)."""

    security_initialize = Bits(0, 5, 1)
    initialization_pattern_type = Bits(1, 7, 8)
    initialization_pattern_length = Bits(2, 7, 16)


class OverwriteParameterList(Structure, length=4):
    """SANITIZE, OVERWRITE parameter list, without the pattern (SBC-4 table 84)."""

    invert = Bits(0, 7, 1)
    test = Bits(0, 6, 2)
    overwrite_count = Bits(0, 4, 5)
    initialization_pattern_length = Bits(2, 7, 16)


# ---- VPD pages -------------------------------------------------------------------------------------------------------


class BlockLimits(Structure, length=64):
    """Block Limits VPD page, B0h (SBC-4 6.6.4)."""

    write_same_non_zero = Bits(4, 0, 1)
    maximum_compare_and_write_length = Bits(5, 7, 8)
    optimal_transfer_length_granularity = Bits(6, 7, 16)
    maximum_transfer_length = Bits(8, 7, 32)
    optimal_transfer_length = Bits(12, 7, 32)
    maximum_prefetch_length = Bits(16, 7, 32)
    maximum_unmap_lba_count = Bits(20, 7, 32)
    maximum_unmap_block_descriptor_count = Bits(24, 7, 32)
    optimal_unmap_granularity = Bits(28, 7, 32)
    unmap_granularity_alignment_valid = Bits(32, 7, 1)
    unmap_granularity_alignment = Bits(32, 6, 31)
    maximum_write_same_length = Bits(36, 7, 64)
    maximum_atomic_transfer_length = Bits(44, 7, 32)
    atomic_alignment = Bits(48, 7, 32)
    atomic_transfer_length_granularity = Bits(52, 7, 32)
    maximum_atomic_transfer_length_with_atomic_boundary = Bits(56, 7, 32)
    maximum_atomic_boundary_size = Bits(60, 7, 32)


class BlockDeviceCharacteristics(Structure, length=64):
    """Block Device Characteristics VPD page, B1h (SBC-4 6.6.2)."""

    medium_rotation_rate = Bits(4, 7, 16)
    product_type = Bits(6, 7, 8)
    write_after_block_erase_required = Bits(7, 7, 2)
    write_after_cryptographic_erase_required = Bits(7, 5, 2)
    nominal_form_factor = Bits(7, 3, 4)
    force_unit_access_behaviour = Bits(8, 1, 1)
    verify_byte_check_unmapped_lba_supported = Bits(8, 0, 1)


class LogicalBlockProvisioning(Structure, length=8):
    """Logical Block Provisioning VPD page, B2h, without a provisioning group descriptor (SBC-4 6.6.7)."""

    threshold_exponent = Bits(4, 7, 8)
    unmap_supported = Bits(5, 7, 1)
    write_same_16_unmap_supported = Bits(5, 6, 1)
    write_same_10_unmap_supported = Bits(5, 5, 1)
    read_zeros = Bits(5, 4, 3)
    anchor_supported = Bits(5, 1, 1)
    descriptor_present = Bits(5, 0, 1)
    minimum_percentage = Bits(6, 7, 5)
    provisioning_type = Bits(6, 2, 3)
    threshold_percentage = Bits(7, 7, 8)

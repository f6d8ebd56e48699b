"""Mode pages and parameter data of sequential-access devices (SSC-3 8.3, 7.5, 7.8; SSC-4 for what came later)."""

from __future__ import annotations

from scsi_targets.t10.fields import Ascii, Bits, Octets, Structure
from scsi_targets.t10.mode_pages import ModePage

# ---- mode parameter block descriptor and header ----------------------------------------------------------------------


class BlockDescriptor(Structure, length=8):
    """General mode parameter block descriptor of devices other than direct-access ones (SPC-5 7.5.7)."""

    density_code = Bits(0, 7, 8)
    number_of_blocks = Bits(1, 7, 24)
    block_length = Bits(5, 7, 24)


class DeviceSpecificParameter(Structure, length=1):
    """DEVICE-SPECIFIC PARAMETER of the mode parameter header (SSC-3 8.3.1)."""

    write_protected = Bits(0, 7, 1)
    buffered_mode = Bits(0, 6, 3)
    speed = Bits(0, 3, 4)


# ---- mode pages ------------------------------------------------------------------------------------------------------


class ReadWriteErrorRecoveryPage(ModePage, page=0x01, length=12):
    """Read-Write Error Recovery mode page (SSC-3 8.3.5)."""

    transfer_block = Bits(2, 5, 1)
    enable_early_recovery = Bits(2, 3, 1)
    post_error = Bits(2, 2, 1)
    disable_transfer_on_error = Bits(2, 1, 1)
    disable_correction = Bits(2, 0, 1)
    read_retry_count = Bits(3, 7, 8)
    write_retry_count = Bits(8, 7, 8)


class ControlExtensionPage(ModePage, page=0x0A, subpage=0x01, length=32):
    """Control Extension mode page (SPC-5 7.5.11)."""

    timestamp_changeable_outside_standard = Bits(4, 2, 1)
    scsi_precedence = Bits(4, 1, 1)
    implicit_asymmetric_access_enabled = Bits(4, 0, 1)
    initial_command_priority = Bits(5, 3, 4)
    maximum_sense_data_length = Bits(6, 7, 8)


NO_BLOCK_PROTECTION, REED_SOLOMON_CRC, CRC32C = 0, 1, 2  # LOGICAL BLOCK PROTECTION METHOD
PROTECTION_INFORMATION_LENGTH = 4  # of both methods


class ControlDataProtectionPage(ModePage, page=0x0A, subpage=0xF0, length=32, savable=False, per_nexus=True):
    """Control Data Protection mode page (SSC-5 8.4.9): logical block protection."""

    method = Bits(4, 7, 8, changeable=True)
    information_length = Bits(5, 5, 6, changeable=True)
    protect_writes = Bits(6, 7, 1, changeable=True)  # LBP_W
    protect_reads = Bits(6, 6, 1, changeable=True)  # LBP_R
    protect_recover_buffered_data = Bits(6, 5, 1)  # RBDP: the drive has no RECOVER BUFFERED DATA


class DataCompressionPage(ModePage, page=0x0F, length=16):
    """Data Compression mode page (SSC-3 8.3.2)."""

    enable = Bits(2, 7, 1, changeable=True)  # DCE
    capable = Bits(2, 6, 1, default=1)  # DCC
    decompression_enable = Bits(3, 7, 1, default=1)  # DDE
    report_exception_on_decompression = Bits(3, 6, 2)
    # Linux st sets the algorithm to zero together with DCE and back to what it was (st_compression).
    compression_algorithm = Bits(4, 7, 32, default=1, changeable=True)
    decompression_algorithm = Bits(8, 7, 32, default=1)


class DeviceConfigurationPage(ModePage, page=0x10, length=16):
    """Device Configuration mode page (SSC-3 8.3.3)."""

    active_format = Bits(2, 4, 5)
    active_partition = Bits(3, 7, 8)
    write_object_buffer_full_ratio = Bits(4, 7, 8)
    read_object_buffer_empty_ratio = Bits(5, 7, 8)
    write_delay_time = Bits(6, 7, 16)
    object_buffer_recovery = Bits(8, 7, 1)
    logical_object_identifiers_supported = Bits(8, 6, 1, default=1)  # LOIS: LOCATE and READ POSITION work
    report_setmarks = Bits(8, 5, 1)
    automatic_velocity_control = Bits(8, 4, 1)
    stop_on_consecutive_filemarks = Bits(8, 3, 2)
    recover_object_buffer_order = Bits(8, 1, 1)
    report_early_warning = Bits(8, 0, 1)  # REW: for reads
    gap_size = Bits(9, 7, 8)
    end_of_data_defined = Bits(10, 7, 3)
    enable_end_of_data_generation = Bits(10, 4, 1, default=1)  # EEG
    synchronize_at_early_warning = Bits(10, 3, 1, default=1, changeable=True)  # SEW
    software_write_protection = Bits(10, 2, 1, changeable=True)  # SWP
    block_address_mode_lock = Bits(10, 1, 1)
    block_address_mode = Bits(10, 0, 1)
    object_buffer_size_at_early_warning = Bits(11, 7, 24)
    select_data_compression_algorithm = Bits(14, 7, 8, changeable=True)
    worm_tamper_read_enable = Bits(15, 7, 2)
    only_if_reserved = Bits(15, 5, 1)
    rewind_on_reset = Bits(15, 4, 2)
    associated_write_protection = Bits(15, 2, 1)
    persistent_write_protection = Bits(15, 1, 1)
    permanent_write_protection = Bits(15, 0, 1)


WRITE_MODE_OVERWRITE = 0
WRITE_MODE_APPEND_ONLY = 1


class DeviceConfigurationExtensionPage(ModePage, page=0x10, subpage=0x01, length=32, savable=False):
    """Device Configuration Extension mode page (SSC-4 8.3.8). What it sets is for one mount, so none of it is saved."""

    tape_alert_respect_page_control = Bits(4, 3, 1)
    tape_alert_select_exception_reporting = Bits(4, 2, 1)
    tape_alert_respect_parameter_code = Bits(4, 1, 1)
    tape_alert_prevent_log_sense_deactivation = Bits(4, 0, 1)
    write_mode = Bits(5, 7, 4, changeable=True)
    short_erase_mode = Bits(5, 3, 4)
    programmable_early_warning_size = Bits(6, 7, 16, changeable=True)  # PEWS, megabytes
    volume_containing_encrypted_blocks_requires_encryption = Bits(8, 0, 1)


class MediumPartitionPage(ModePage, length=8):
    """Medium Partition mode page (SSC-3 8.3.4), without its partition size descriptors."""

    descriptors: int = 0

    maximum_additional_partitions = Bits(2, 7, 8)
    additional_partitions_defined = Bits(3, 7, 8, changeable=True)
    fixed_data_partitions = Bits(4, 7, 1, changeable=True)  # FDP
    select_data_partitions = Bits(4, 6, 1, changeable=True)  # SDP
    initiator_defined_partitions = Bits(4, 5, 1, changeable=True)  # IDP
    partition_size_unit_of_measure = Bits(4, 4, 2, default=3, changeable=True)  # PSUM
    partition_on_format = Bits(4, 2, 1, default=1)  # POFM: FORMAT MEDIUM makes the partitions
    clear = Bits(4, 1, 1)
    additional_partitions = Bits(4, 0, 1)  # ADDP
    medium_format_recognition = Bits(5, 7, 8, default=3)  # format and partition recognition
    partition_units = Bits(6, 3, 4, default=9, changeable=True)  # PSUM 11b: 10**this bytes

    @property
    def partition_sizes(self) -> list[int]:
        """The size descriptors, in the page's unit; FFFFh is what remains."""
        tail = self.raw[8:]
        return [int.from_bytes(tail[at : at + 2], "big") for at in range(0, len(tail), 2)]

    @property
    def unit_bytes(self) -> int:
        """The unit of the size descriptors."""
        psum = self.partition_size_unit_of_measure
        return int(10 ** ((0, 3, 6)[psum] if psum < 3 else self.partition_units))


class MediumPartitionPage2(MediumPartitionPage, page=0x11, length=12, shortest=8):
    """Two partitions: LTO-5."""

    partition_size_0 = Bits(8, 7, 16, changeable=True)
    partition_size_1 = Bits(10, 7, 16, changeable=True)


class MediumPartitionPage4(MediumPartitionPage, page=0x11, length=16, shortest=8):
    """Four partitions: LTO-6 and later."""

    partition_size_0 = Bits(8, 7, 16, changeable=True)
    partition_size_1 = Bits(10, 7, 16, changeable=True)
    partition_size_2 = Bits(12, 7, 16, changeable=True)
    partition_size_3 = Bits(14, 7, 16, changeable=True)


class ProtocolSpecificLogicalUnitPage(ModePage, page=0x18, length=8, savable=False):
    """Protocol-Specific Logical Unit mode page (SPC-5 7.5.16)."""

    protocol_identifier = Bits(2, 3, 4, default=5)  # iSCSI


class ProtocolSpecificPortPage(ModePage, page=0x19, length=8, savable=False):
    """Protocol-Specific Port mode page (SPC-5 7.5.17)."""

    protocol_identifier = Bits(2, 3, 4, default=5)


class MediumConfigurationPage(ModePage, page=0x1D, length=32, savable=False):
    """Medium Configuration mode page (SSC-3 8.3.7)."""

    worm_mode = Bits(2, 0, 1)  # WORMM
    worm_mode_label_restrictions = Bits(4, 7, 8)  # 00h: no label may be overwritten
    worm_mode_filemarks_restrictions = Bits(5, 7, 8)  # 03h: the filemarks just before end of data may be


# ---- IBM's own pages (lengths and bits are those that LTFS reads; its tape_drivers name them) ------------------------


class InitiatorSpecificExtensionsPage(ModePage, page=0x24, length=24, savable=False):
    """Initiator-Specific Extensions mode page of IBM drives: which methods of logical block protection there are."""

    reed_solomon_crc = Bits(2, 6, 1)
    crc32c = Bits(2, 5, 1)


class ReadWriteControlPage(ModePage, page=0x25, length=32, savable=False):
    """Read/Write Control mode page of IBM drives: the format that is written."""

    density_code = Bits(10, 7, 8)


# ---- parameter data --------------------------------------------------------------------------------------------------


class ReadBlockLimitsData(Structure, length=6):
    """READ BLOCK LIMITS data (SSC-3 table 48)."""

    granularity = Bits(0, 4, 5)
    maximum_block_length = Bits(1, 7, 24)
    minimum_block_length = Bits(4, 7, 16)


class MaximumLogicalObjectIdentifier(Structure, length=20):
    """READ BLOCK LIMITS data with MLOI (SSC-4)."""

    maximum_logical_object_identifier = Bits(12, 7, 64)


class ShortPosition(Structure, length=20):
    """READ POSITION data, short form (SSC-3 table 51)."""

    beginning_of_partition = Bits(0, 7, 1)
    end_of_partition = Bits(0, 6, 1)
    logical_object_count_unknown = Bits(0, 5, 1)
    byte_count_unknown = Bits(0, 4, 1)
    logical_object_location_unknown = Bits(0, 2, 1)
    position_error = Bits(0, 1, 1)
    beyond_programmable_early_warning = Bits(0, 0, 1)
    partition = Bits(1, 7, 8)
    first_logical_object = Bits(4, 7, 32)
    last_logical_object = Bits(8, 7, 32)
    logical_objects_in_buffer = Bits(13, 7, 24)
    bytes_in_buffer = Bits(16, 7, 32)


class LongPosition(Structure, length=32):
    """READ POSITION data, long form (SSC-3 table 52)."""

    beginning_of_partition = Bits(0, 7, 1)
    end_of_partition = Bits(0, 6, 1)
    mark_position_unknown = Bits(0, 3, 1)
    logical_object_number_unknown = Bits(0, 2, 1)
    beyond_programmable_early_warning = Bits(0, 0, 1)
    partition = Bits(4, 7, 32)
    logical_object_number = Bits(8, 7, 64)
    logical_file_identifier = Bits(16, 7, 64)


class ExtendedPosition(Structure, length=32):
    """READ POSITION data, extended form (SSC-3 table 53)."""

    beginning_of_partition = Bits(0, 7, 1)
    end_of_partition = Bits(0, 6, 1)
    logical_object_count_unknown = Bits(0, 5, 1)
    byte_count_unknown = Bits(0, 4, 1)
    logical_object_location_unknown = Bits(0, 2, 1)
    position_error = Bits(0, 1, 1)
    beyond_programmable_early_warning = Bits(0, 0, 1)
    partition = Bits(1, 7, 8)
    additional_length = Bits(2, 7, 16, default=0x1C)
    logical_objects_in_buffer = Bits(5, 7, 24)
    first_logical_object = Bits(8, 7, 64)
    last_logical_object = Bits(16, 7, 64)
    bytes_in_buffer = Bits(24, 7, 64)


class DensitySupportHeader(Structure, length=4):
    """What REPORT DENSITY SUPPORT data begin with (SSC-3 table 57)."""

    available_length = Bits(0, 7, 16)  # of what follows this field


class DensityDescriptor(Structure, length=52):
    """Density support data block descriptor (SSC-3 table 58)."""

    primary_density_code = Bits(0, 7, 8)
    secondary_density_code = Bits(1, 7, 8)
    write_ok = Bits(2, 7, 1)
    duplicate = Bits(2, 6, 1)
    default = Bits(2, 5, 1)
    descriptor_length_valid = Bits(2, 0, 1)
    descriptor_length = Bits(3, 7, 16)
    bits_per_mm = Bits(5, 7, 24)
    media_width = Bits(8, 7, 16)  # tenths of a millimetre
    tracks = Bits(10, 7, 16)
    capacity = Bits(12, 7, 32)  # megabytes
    assigning_organization = Ascii(16, 8)
    density_name = Ascii(24, 8)
    description = Ascii(32, 20)


class MediumTypeDescriptor(Structure, length=56):
    """Medium type descriptor (SSC-3 table 60)."""

    medium_type = Bits(0, 7, 8)
    descriptor_length = Bits(2, 7, 16, default=52)
    number_of_density_codes = Bits(4, 7, 8)
    primary_density_codes = Octets(5, 9)
    media_width = Bits(14, 7, 16)
    medium_length = Bits(16, 7, 16)  # metres
    assigning_organization = Ascii(20, 8)
    medium_type_name = Ascii(28, 8)
    description = Ascii(36, 20)


class LogicalBlockProtectionMethodDescriptor(Structure, length=4):
    """One method in the Logical Block Protection VPD page, B5h (SSC-5 8.5)."""

    descriptor_length = Bits(0, 7, 8, default=3)  # what follows
    method = Bits(1, 7, 8)
    information_length = Bits(2, 5, 6, default=PROTECTION_INFORMATION_LENGTH)
    protects_writes = Bits(3, 7, 1, default=1)  # LBP_W_C
    protects_reads = Bits(3, 6, 1, default=1)  # LBP_R_C
    protects_recover_buffered_data = Bits(3, 5, 1)  # RBDP_C

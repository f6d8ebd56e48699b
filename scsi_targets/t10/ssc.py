"""Commands of sequential-access devices. Clauses are those of SSC-3, the numbers most readers have at hand; what came
later names the standard that brought it."""

from scsi_targets.t10.fields import Bits, Command, Structure

# CODE of SPACE (SSC-3 6.6).
SPACE_BLOCKS = 0
SPACE_FILEMARKS = 1
SPACE_SEQUENTIAL_FILEMARKS = 2
SPACE_END_OF_DATA = 3

# DEST_TYPE of LOCATE(16) (SSC-3 7.3).
DESTINATION_OBJECT = 0
DESTINATION_FILE = 1
DESTINATION_END_OF_DATA = 3

# FORMAT of FORMAT MEDIUM (SSC-3 7.1).
FORMAT_DEFAULT = 0
FORMAT_PARTITION = 1
FORMAT_DEFAULT_THEN_PARTITION = 2

# ALLOW OVERWRITE field of ALLOW OVERWRITE (SSC-4).
OVERWRITE_DISABLED = 0
OVERWRITE_CURRENT_POSITION = 1
OVERWRITE_FORMAT = 2


class Rewind(Command, opcode=0x01, length=6):
    """REWIND, SSC-3 7.9."""

    immediate = Bits(1, 0, 1)


class FormatMedium(Command, opcode=0x04, length=6):
    """FORMAT MEDIUM, SSC-3 7.1."""

    verify = Bits(1, 1, 1)
    immediate = Bits(1, 0, 1)
    format = Bits(2, 3, 4)
    transfer_length = Bits(3, 7, 16)


class ReadBlockLimits(Command, opcode=0x05, length=6):
    """READ BLOCK LIMITS, SSC-3 7.5, MLOI since SSC-4."""

    maximum_logical_object_identifier = Bits(1, 0, 1)


class Read6(Command, opcode=0x08, length=6):
    """READ(6), SSC-3 6.4."""

    suppress_incorrect_length = Bits(1, 1, 1)
    fixed = Bits(1, 0, 1)
    transfer_length = Bits(2, 7, 24)


class Write6(Command, opcode=0x0A, length=6):
    """WRITE(6), SSC-3 6.8."""

    fixed = Bits(1, 0, 1)
    transfer_length = Bits(2, 7, 24)


class SetCapacity(Command, opcode=0x0B, length=6):
    """SET CAPACITY, SSC-3 7.10."""

    immediate = Bits(1, 0, 1)
    capacity_proportion_value = Bits(3, 7, 16)


class WriteFilemarks6(Command, opcode=0x10, length=6):
    """WRITE FILEMARKS(6), SSC-3 6.9."""

    write_setmarks = Bits(1, 1, 1)  # obsolete
    immediate = Bits(1, 0, 1)
    filemark_count = Bits(2, 7, 24)


class Space6(Command, opcode=0x11, length=6):
    """SPACE(6), SSC-3 6.6. COUNT is two's complement."""

    code = Bits(1, 3, 4)
    count = Bits(2, 7, 24)


class Verify6(Command, opcode=0x13, length=6):
    """VERIFY(6), SSC-3 6.7, VTE, VLBPM and VBF since SSC-4."""

    verify_to_end_of_data = Bits(1, 5, 1)
    verify_logical_block_protection_method = Bits(1, 4, 1)
    verify_by_filemarks = Bits(1, 3, 1)
    immediate = Bits(1, 2, 1)
    byte_compare = Bits(1, 1, 1)
    fixed = Bits(1, 0, 1)
    verification_length = Bits(2, 7, 24)


class Erase6(Command, opcode=0x19, length=6):
    """ERASE(6), SSC-3 6.2."""

    immediate = Bits(1, 1, 1)
    long = Bits(1, 0, 1)


class LoadUnload(Command, opcode=0x1B, length=6):
    """LOAD UNLOAD, SSC-3 7.2."""

    immediate = Bits(1, 0, 1)
    hold = Bits(4, 3, 1)
    end_of_tape = Bits(4, 2, 1)
    retension = Bits(4, 1, 1)
    load = Bits(4, 0, 1)


class Locate10(Command, opcode=0x2B, length=10):
    """LOCATE(10), SSC-3 6.3."""

    block_address_type = Bits(1, 2, 1)  # BT: a device-specific address
    change_partition = Bits(1, 1, 1)
    immediate = Bits(1, 0, 1)
    logical_object_identifier = Bits(3, 7, 32)
    partition = Bits(8, 7, 8)


class ReadPositionShort(Command, opcode=0x34, service_action=0x00, length=10):
    """READ POSITION, short form, block identifier, SSC-3 7.6.."""

    allocation_length = Bits(7, 7, 16)


class ReadPositionShortVendor(Command, opcode=0x34, service_action=0x01, length=10):
    """READ POSITION, short form, vendor-specific address, SSC-3 7.6.."""

    allocation_length = Bits(7, 7, 16)


class ReadPositionLong(Command, opcode=0x34, service_action=0x06, length=10):
    """READ POSITION, long form, SSC-3 7.6.."""

    allocation_length = Bits(7, 7, 16)


class ReadPositionExtended(Command, opcode=0x34, service_action=0x08, length=10):
    """READ POSITION, extended form, SSC-3 7.6.."""

    allocation_length = Bits(7, 7, 16)


class ReportDensitySupport(Command, opcode=0x44, length=10):
    """REPORT DENSITY SUPPORT, SSC-3 7.8."""

    medium_type = Bits(1, 1, 1)
    media = Bits(1, 0, 1)
    allocation_length = Bits(7, 7, 16)


class AllowOverwrite(Command, opcode=0x82, length=16):
    """ALLOW OVERWRITE, SSC-4."""

    allow_overwrite = Bits(2, 3, 4)
    partition = Bits(3, 7, 8)
    logical_object_identifier = Bits(4, 7, 64)


class ReadAttributeCommand(Command, length=16):
    """What the service actions of READ ATTRIBUTE share, SPC-5 6.16."""

    element_address = Bits(2, 7, 16)  # restricted to SMC
    logical_volume_number = Bits(5, 7, 8)
    partition_number = Bits(7, 7, 8)
    first_attribute_identifier = Bits(8, 7, 16)
    allocation_length = Bits(10, 7, 32)
    cache = Bits(14, 0, 1)


class ReadAttributeValues(ReadAttributeCommand, opcode=0x8C, service_action=0x00):
    """READ ATTRIBUTE, ATTRIBUTE VALUES."""


class ReadAttributeList(ReadAttributeCommand, opcode=0x8C, service_action=0x01):
    """READ ATTRIBUTE, ATTRIBUTE LIST."""


class ReadLogicalVolumeList(ReadAttributeCommand, opcode=0x8C, service_action=0x02):
    """READ ATTRIBUTE, LOGICAL VOLUME LIST."""


class ReadPartitionList(ReadAttributeCommand, opcode=0x8C, service_action=0x03):
    """READ ATTRIBUTE, PARTITION LIST."""


class ReadSupportedAttributes(ReadAttributeCommand, opcode=0x8C, service_action=0x05):
    """READ ATTRIBUTE, SUPPORTED ATTRIBUTES."""


class WriteAttribute(Command, opcode=0x8D, length=16):
    """WRITE ATTRIBUTE, SPC-5 6.48."""

    write_through = Bits(1, 0, 1)
    element_address = Bits(2, 7, 16)  # restricted to SMC
    logical_volume_number = Bits(5, 7, 8)
    partition_number = Bits(7, 7, 8)
    parameter_list_length = Bits(10, 7, 32)


class Space16(Command, opcode=0x91, length=16):
    """SPACE(16), SSC-3 7.11. COUNT is two's complement."""

    code = Bits(1, 3, 4)
    count = Bits(4, 7, 64)
    parameter_list_length = Bits(12, 7, 16)


class Locate16(Command, opcode=0x92, length=16):
    """LOCATE(16), SSC-3 7.3."""

    destination_type = Bits(1, 5, 3)
    change_partition = Bits(1, 1, 1)
    immediate = Bits(1, 0, 1)
    block_address_mode = Bits(2, 0, 1)  # BAM: explicit address mode
    partition = Bits(3, 7, 8)
    logical_identifier = Bits(4, 7, 64)


class AttributeDataHeader(Structure, length=4):
    """What READ ATTRIBUTE data begin with that are lists (SPC-5 6.17.2 to 6.17.6)."""

    available_data = Bits(0, 7, 32)  # bytes of what follows


class ListOfNumbers(Structure, length=4):
    """LOGICAL VOLUME LIST and PARTITION LIST data of READ ATTRIBUTE (SPC-5 6.17.4, 6.17.5)."""

    available_data = Bits(0, 7, 16, default=2)
    first_number = Bits(2, 7, 8)
    count = Bits(3, 7, 8)


class MediaSerialNumberHeader(Structure, length=4):
    """What READ MEDIA SERIAL NUMBER data begin with (SPC-5 6.21)."""

    serial_number_length = Bits(0, 7, 32)


class ReadMediaSerialNumber(Command, opcode=0xAB, service_action=0x01, length=12):
    """READ MEDIA SERIAL NUMBER, SPC-5 6.21."""

    allocation_length = Bits(6, 7, 32)

"""Commands, mode pages and element status of SMC-3 (media changers)."""

from scsi_targets.t10.fields import Ascii, Bits, Command, Structure
from scsi_targets.t10.mode_pages import ModePage

# Element type codes (SMC-3 table 10); 0 asks for all.
ALL_ELEMENTS = 0
TRANSPORT, STORAGE, IMPORT_EXPORT, DATA_TRANSFER = 1, 2, 3, 4

# MEDIUM TYPE of an element descriptor (SMC-3 table 33).
UNSPECIFIED_MEDIUM, DATA_MEDIUM, CLEANING_MEDIUM, DIAGNOSTIC_MEDIUM, WORM_MEDIUM = range(5)


# ---- commands ----------------------------------------------------------------------------------------------------


class InitializeElementStatus(Command, opcode=0x07, length=6):
    """INITIALIZE ELEMENT STATUS, SMC-3 6.4."""


class InitializeElementStatusWithRange(Command, opcode=0x37, length=10):
    """INITIALIZE ELEMENT STATUS WITH RANGE, SMC-3 6.5."""

    fast = Bits(1, 1, 1)
    range = Bits(1, 0, 1)
    starting_element_address = Bits(2, 7, 16)
    number_of_elements = Bits(6, 7, 16)


class InitializeElementStatusWithRangeVendor(Command, opcode=0xE7, length=10):
    """The same under the operation code it had before SMC-2 gave it one: libraries of the nineties, and their software,
    use it still. NBL (no bar code label scan) saves time that this library does not need."""

    range = Bits(1, 0, 1)
    starting_element_address = Bits(2, 7, 16)
    number_of_elements = Bits(6, 7, 16)
    no_barcode_labels = Bits(9, 7, 1)


class PositionToElement(Command, opcode=0x2B, length=10):
    """POSITION TO ELEMENT, SMC-3 6.6."""

    transport_element_address = Bits(2, 7, 16)
    destination_element_address = Bits(4, 7, 16)
    invert = Bits(8, 0, 1)


class MoveMedium(Command, opcode=0xA5, length=12):
    """MOVE MEDIUM, SMC-3 6.8."""

    transport_element_address = Bits(2, 7, 16)
    source_element_address = Bits(4, 7, 16)
    destination_element_address = Bits(6, 7, 16)
    invert = Bits(10, 0, 1)


class ExchangeMedium(Command, opcode=0xA6, length=12):
    """EXCHANGE MEDIUM, SMC-3 6.3."""

    transport_element_address = Bits(2, 7, 16)
    source_element_address = Bits(4, 7, 16)
    first_destination_element_address = Bits(6, 7, 16)
    second_destination_element_address = Bits(8, 7, 16)
    invert_1 = Bits(10, 1, 1)
    invert_2 = Bits(10, 0, 1)


class RequestVolumeElementAddress(Command, opcode=0xB5, length=12):
    """REQUEST VOLUME ELEMENT ADDRESS, SMC-3 6.13: what the SEND VOLUME TAG before it found."""

    volume_tag = Bits(1, 4, 1)
    element_type_code = Bits(1, 3, 4)
    starting_element_address = Bits(2, 7, 16)
    number_of_elements = Bits(4, 7, 16)
    allocation_length = Bits(7, 7, 24)


class SendVolumeTag(Command, opcode=0xB6, length=12):
    """SEND VOLUME TAG, SMC-3 6.14."""

    element_type_code = Bits(1, 3, 4)
    starting_element_address = Bits(2, 7, 16)
    send_action_code = Bits(5, 4, 5)
    parameter_list_length = Bits(8, 7, 16)


class ReadElementStatus(Command, opcode=0xB8, length=12):
    """READ ELEMENT STATUS, SMC-3 6.11."""

    volume_tag = Bits(1, 4, 1)
    element_type_code = Bits(1, 3, 4)
    starting_element_address = Bits(2, 7, 16)
    number_of_elements = Bits(4, 7, 16)
    current_data = Bits(6, 1, 1)
    device_identifier = Bits(6, 0, 1)
    allocation_length = Bits(7, 7, 24)


# ---- element status ----------------------------------------------------------------------------------------------


class ElementStatusHeader(Structure, length=8):
    """Element status data header (SMC-3 table 24)."""

    first_element_address = Bits(0, 7, 16)
    number_of_elements = Bits(2, 7, 16)
    byte_count = Bits(5, 7, 24)


class RequestVolumeElementAddressHeader(Structure, length=8):
    """REQUEST VOLUME ELEMENT ADDRESS data header (SMC-3 table 37)."""

    first_element_address = Bits(0, 7, 16)
    number_of_elements = Bits(2, 7, 16)
    send_action_code = Bits(4, 4, 5)
    byte_count = Bits(5, 7, 24)


class ElementStatusPageHeader(Structure, length=8):
    """Element status page header (SMC-3 table 25)."""

    element_type_code = Bits(0, 7, 8)
    primary_volume_tag = Bits(1, 7, 1)
    alternate_volume_tag = Bits(1, 6, 1)
    element_descriptor_length = Bits(2, 7, 16)
    byte_count = Bits(5, 7, 24)


class ElementDescriptor(Structure, length=12):
    """The head that the four kinds of element descriptor share (SMC-3 tables 27 to 32). The bits that a kind does not
    have are zero in it: only import/export elements have the enable bits and IMPEXP, all but the transport ACCESS."""

    element_address = Bits(0, 7, 16)
    operator_intervention_required = Bits(2, 7, 1)
    import_enabled = Bits(2, 5, 1)  # INENAB: the element takes cartridges in
    export_enabled = Bits(2, 4, 1)  # EXENAB: and lets them out
    access = Bits(2, 3, 1)
    exception = Bits(2, 2, 1)
    placed_by_operator = Bits(2, 1, 1)  # IMPEXP
    full = Bits(2, 0, 1)
    additional_sense_code = Bits(4, 7, 8)
    additional_sense_code_qualifier = Bits(5, 7, 8)
    source_valid = Bits(9, 7, 1)
    inverted = Bits(9, 6, 1)
    element_disabled = Bits(9, 3, 1)
    medium_type = Bits(9, 2, 3)
    source_storage_element_address = Bits(10, 7, 16)


class VolumeTag(Structure, length=36):
    """Volume tag information (SMC-3 table 34)."""

    volume_identification_field = Ascii(0, 32)
    volume_sequence_number = Bits(34, 7, 16)


class VolumeTagTemplate(Structure, length=40):
    """SEND VOLUME TAG parameter list (SMC-3 table 40); `*` and `?` are wildcards."""

    volume_identification_template = Ascii(0, 32)
    minimum_volume_sequence_number = Bits(34, 7, 16)
    maximum_volume_sequence_number = Bits(38, 7, 16)


class ElementIdentifier(Structure, length=4):
    """The head of the device identifier that ends an element descriptor (SMC-3 table 27)."""

    code_set = Bits(0, 3, 4)
    identifier_type = Bits(1, 3, 4)
    identifier_length = Bits(3, 7, 8)


# ---- mode pages ------------------------------------------------------------------------------------------------


class ElementAddressAssignmentModePage(ModePage, page=0x1D, length=20):
    """Element address assignment mode page (SMC-3 7.3.4)."""

    first_transport_element_address = Bits(2, 7, 16)
    number_of_transport_elements = Bits(4, 7, 16)
    first_storage_element_address = Bits(6, 7, 16)
    number_of_storage_elements = Bits(8, 7, 16)
    first_import_export_element_address = Bits(10, 7, 16)
    number_of_import_export_elements = Bits(12, 7, 16)
    first_data_transfer_element_address = Bits(14, 7, 16)
    number_of_data_transfer_elements = Bits(16, 7, 16)


class TransportGeometryModePage(ModePage, page=0x1E, length=4):
    """Transport geometry parameters mode page (SMC-3 7.3.5) of a library with one transport that does not rotate."""

    rotate = Bits(2, 0, 1)
    member_number_in_transport_element_set = Bits(3, 7, 8)


class DeviceCapabilitiesModePage(ModePage, page=0x1F, length=20):
    """Device capabilities mode page (SMC-3 7.3.2): which elements store, and which moves and exchanges there are. A
    move's four bits are, from bit 3 to bit 0, to data transfer, import/export, storage and transport elements."""

    store_data_transfer = Bits(2, 3, 1)
    store_import_export = Bits(2, 2, 1)
    store_storage = Bits(2, 1, 1)
    store_transport = Bits(2, 0, 1)
    move_from_transport = Bits(4, 3, 4)
    move_from_storage = Bits(5, 3, 4)
    move_from_import_export = Bits(6, 3, 4)
    move_from_data_transfer = Bits(7, 3, 4)
    exchange_from_transport = Bits(12, 3, 4)
    exchange_from_storage = Bits(13, 3, 4)
    exchange_from_import_export = Bits(14, 3, 4)
    exchange_from_data_transfer = Bits(15, 3, 4)

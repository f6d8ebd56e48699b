"""Standard INQUIRY data and the VPD pages common to all devices (SPC-5 6.6, 7.8)."""

from __future__ import annotations

from scsi_targets.t10.fields import Ascii, Bits, Octets, Structure

DIRECT_ACCESS = 0x00
SEQUENTIAL_ACCESS = 0x01
MEDIA_CHANGER = 0x08
NO_DEVICE = 0x1F

# Version descriptors (SPC-5 table 150), "no version claimed" where the standard has it.
SAM_5 = 0x00A0
SPC_4 = 0x0460
ISCSI = 0x0960
SBC_3 = 0x04C0
SSC_4 = 0x0520
SMC_3 = 0x0480


class StandardInquiryData(Structure, length=96):
    """Standard INQUIRY data (SPC-5 6.6.2)."""

    peripheral_qualifier = Bits(0, 7, 3)
    peripheral_device_type = Bits(0, 4, 5)
    removable_medium = Bits(1, 7, 1)
    version = Bits(2, 7, 8, default=0x06)  # SPC-4
    normal_aca = Bits(3, 5, 1)
    historical_support = Bits(3, 4, 1, default=1)
    response_data_format = Bits(3, 3, 4, default=2)
    additional_length = Bits(4, 7, 8, default=91)
    target_port_group_support = Bits(5, 5, 2, default=1)  # implicit: the device server alone sets the access state
    third_party_copy = Bits(5, 3, 1)
    protect = Bits(5, 0, 1)
    vendor_specific_bit = Bits(6, 5, 1)
    multiple_ports = Bits(6, 4, 1)
    medium_changer = Bits(6, 3, 1)
    command_queuing = Bits(7, 1, 1, default=1)
    vendor_identification = Ascii(8, 8)
    product_identification = Ascii(16, 16)
    product_revision_level = Ascii(32, 4)
    vendor_specific = Octets(36, 20)
    version_descriptors = Octets(58, 16)


class ExtendedInquiryData(Structure, length=64):
    """Extended INQUIRY Data VPD page, 86h (SPC-5 7.8.8)."""

    peripheral_device_type = Bits(0, 4, 5)
    page_code = Bits(1, 7, 8, default=0x86)
    page_length = Bits(2, 7, 16, default=60)
    supported_protection_types = Bits(4, 5, 3)
    simple_command = Bits(5, 0, 1, default=1)
    ordered_command = Bits(5, 1, 1, default=1)
    head_of_queue = Bits(5, 2, 1, default=1)
    volatile_cache = Bits(6, 0, 1)
    logical_unit_i_t_nexus_clear = Bits(7, 0, 1, default=1)


class VpdPageHeader(Structure, length=4):
    """What every VPD page begins with (SPC-5 table 588)."""

    peripheral_device_type = Bits(0, 4, 5)
    page_code = Bits(1, 7, 8)
    page_length = Bits(2, 7, 16)


class DesignationDescriptorHeader(Structure, length=4):
    """What a designation descriptor begins with (SPC-5 table 600)."""

    protocol_identifier = Bits(0, 7, 4)
    code_set = Bits(0, 3, 4)
    protocol_identifier_valid = Bits(1, 7, 1)
    association = Bits(1, 5, 2)
    designator_type = Bits(1, 3, 4)
    designator_length = Bits(3, 7, 8)


class NaaLocallyAssigned(Structure, length=8):
    """NAA locally assigned designator (SPC-5 7.8.6.6.3)."""

    naa = Bits(0, 7, 4, default=3)
    locally_administered_value = Bits(0, 3, 60)


class SequentialAccessDeviceCapabilities(Structure, length=2):
    """Sequential-Access Device Capabilities VPD page, B0h, without its header (SSC-3 8.4.2)."""

    worm = Bits(0, 0, 1)


class DataTransferDeviceElementAddress(Structure, length=2):
    """Data Transfer Device Element Address VPD page, B4h, without its header (SSC-4 8.5.6)."""

    element_address = Bits(0, 7, 16)


class ModePagePolicyDescriptor(Structure, length=4):
    """One mode page, or all others (3Fh/FFh), in the Mode Page Policy VPD page, 87h (SPC-5 7.8.13)."""

    page_code = Bits(0, 5, 6)
    subpage_code = Bits(1, 7, 8)
    multiple_logical_units_share = Bits(2, 7, 1)
    policy = Bits(2, 1, 2)


SHARED_POLICY, PER_I_T_NEXUS_POLICY = 0b00, 0b11


def vpd_page(device_type: int, page_code: int, body: bytes) -> bytes:
    """A VPD page: the four-byte header and its body (SPC-5 7.8.1)."""
    header = VpdPageHeader.encode(peripheral_device_type=device_type, page_code=page_code, page_length=len(body))
    return header + body


def designation_descriptor(
    kind: int, designator: bytes, *, code_set: int, association: int = 0, protocol: int | None = None
) -> bytes:
    """One designation descriptor of the Device Identification page (SPC-5 7.8.6.1).

    kind: 1 T10 vendor, 3 NAA, 4 relative target port, 5 target port group, 8 SCSI name string; code_set: 1 binary,
    2 ASCII, 3 UTF-8; association: 0 logical unit, 1 target port, 2 target device."""
    header = DesignationDescriptorHeader.encode(
        protocol_identifier=protocol or 0,
        code_set=code_set,
        protocol_identifier_valid=protocol is not None,
        association=association,
        designator_type=kind,
        designator_length=len(designator),
    )
    return header + designator


def scsi_name_string(name: str) -> bytes:
    """A SCSI name string: UTF-8, null terminated, padded to a multiple of four (SPC-5 7.8.6.11)."""
    raw = name.encode() + b"\0"
    return raw.ljust((len(raw) + 3) // 4 * 4, b"\0")

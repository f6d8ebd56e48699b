"""Tape data encryption: the pages of security protocol 20h (SSC-4 8.5) and those of protocol 00h (SPC-5 7.7.1)."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from scsi_targets.t10.fields import Bits, Structure, TooShort

# SECURITY PROTOCOL (SPC-5 table 248) and SECURITY PROTOCOL SPECIFIC of SECURITY PROTOCOL IN and OUT.
SECURITY_PROTOCOL_INFORMATION = 0x00
TAPE_DATA_ENCRYPTION = 0x20
SUPPORTED_SECURITY_PROTOCOLS = 0x0000
CERTIFICATE_DATA = 0x0001

# Not among them: 0022h, which belongs to key managers beside the drive (EXTDECC), and 0031h, to keys that come wrapped
# (KEY FORMAT 02h). Neither is claimed.
IN_SUPPORT = 0x0000
OUT_SUPPORT = 0x0001
CAPABILITIES = 0x0010
SUPPORTED_KEY_FORMATS = 0x0011
MANAGEMENT_CAPABILITIES = 0x0012
STATUS = 0x0020
NEXT_BLOCK_STATUS = 0x0021
RANDOM_NUMBER = 0x0030
SET_DATA_ENCRYPTION = 0x0010  # of SECURITY PROTOCOL OUT

AES_256_GCM = 0x00010014  # SECURITY ALGORITHM CODE (SPC-5 table 135): AES-GCM with an authentication tag of 16 bytes
ALGORITHM_INDEX = 1
PLAIN_TEXT_KEY = 0x00  # KEY FORMAT
KAD_FORMATS = (0, 1, 2)  # KAD FORMAT: unspecified, binary key name, ASCII key name


class EncryptionScope(IntEnum):
    """SCOPE, I_T NEXUS SCOPE, KEY SCOPE (SSC-4 table 189)."""

    PUBLIC = 0
    LOCAL = 1
    ALL_I_T_NEXUS = 2


class EncryptionMode(IntEnum):
    """ENCRYPTION MODE (SSC-4 table 190)."""

    DISABLE = 0
    EXTERNAL = 1
    ENCRYPT = 2


class CheckOrigin(IntEnum):
    """CEEM, check external encryption mode (SSC-4 8.5.3.2): which blocks a read refuses."""

    VENDOR_SPECIFIC = 0  # none
    NOTHING = 1
    REFUSE_EXTERNAL = 2
    REFUSE_ENCRYPT = 3


class NextBlock(IntEnum):
    """ENCRYPTION STATUS of the next logical block (SSC-4 table 186)."""

    UNKNOWN_NOW = 1
    NOT_A_BLOCK = 2
    NOT_ENCRYPTED = 3
    DECRYPTABLE = 5
    NOT_DECRYPTABLE = 6


class KadType(IntEnum):
    """KEY DESCRIPTOR TYPE of key-associated data (SSC-4 8.5.4)."""

    UNAUTHENTICATED = 0
    AUTHENTICATED = 1
    METADATA = 3


# AUTHENTICATED of a key-associated data descriptor (SSC-4 table 196).
NOT_COVERED, NOT_ATTEMPTED, AUTHENTICATED, NOT_AUTHENTIC = 1, 2, 3, 4


class SupportedProtocolsHeader(Structure, length=8):
    """What the supported security protocols list begins with (SPC-5 7.7.1.3)."""

    supported_security_protocol_list_length = Bits(6, 7, 16)


class PageHeader(Structure, length=4):
    """What every page of tape data encryption begins with (SSC-4 8.5)."""

    page_code = Bits(0, 7, 16)
    page_length = Bits(2, 7, 16)


class AlgorithmDescriptor(Structure, length=24):
    """Data Encryption Algorithm descriptor (SSC-4 8.5.2.4)."""

    algorithm_index = Bits(0, 7, 8, default=ALGORITHM_INDEX)
    descriptor_length = Bits(2, 7, 16, default=20)
    valid_for_mounted_volume = Bits(4, 7, 1)  # AVFMV
    supplemental_decryption_key = Bits(4, 6, 1)
    message_authentication_code = Bits(4, 5, 1, default=1)  # MAC_C: a message authentication code goes with each block
    distinguishes_encrypted_blocks = Bits(4, 4, 1, default=1)  # DELB_C
    decrypt_capable = Bits(4, 3, 2, default=2)  # by hardware, as far as an initiator can tell
    encrypt_capable = Bits(4, 1, 2, default=2)
    valid_for_position = Bits(5, 7, 2)  # AVFCLP, 10b: valid for writing here
    nonce_capability = Bits(5, 5, 2, default=1)  # the device server makes the nonces
    kad_format_capable = Bits(5, 3, 1, default=1)  # KADF_C
    tells_encrypted_volumes = Bits(5, 2, 1, default=1)  # VCELB_C
    maximum_unauthenticated_length = Bits(6, 7, 16)
    maximum_authenticated_length = Bits(8, 7, 16)
    key_length = Bits(10, 7, 16)
    decryption_kad_capability = Bits(12, 7, 2, default=3)  # key-associated data may come with a decryption key
    external_mode_capability = Bits(12, 5, 2, default=2)  # EEMC_C: EXTERNAL is there
    raw_decryption_capability = Bits(12, 3, 3, default=5)  # RDMC_C: reading raw is there, and allowed unless forbidden
    records_encryption_mode = Bits(12, 0, 1, default=1)  # EAREM: the medium tells what was written in EXTERNAL mode
    security_algorithm_code = Bits(20, 7, 32, default=AES_256_GCM)


class CapabilitiesPage(Structure, length=20):
    """Data Encryption Capabilities page (SSC-4 8.5.2.4), before its descriptors."""

    page_code = Bits(0, 7, 16, default=CAPABILITIES)
    page_length = Bits(2, 7, 16, default=16 + AlgorithmDescriptor.length)
    external_control = Bits(4, 3, 2, default=1)  # EXTDECC: no management interface sets keys
    configuration_prevented = Bits(4, 1, 2, default=1)  # CFG_P: 01b, parameters may be set


class ManagementCapabilitiesPage(Structure, length=16):
    """Data Encryption Management Capabilities page (SSC-4 8.5.2.6)."""

    page_code = Bits(0, 7, 16, default=MANAGEMENT_CAPABILITIES)
    page_length = Bits(2, 7, 16, default=12)
    lock = Bits(4, 0, 1, default=1)
    clear_key_on_demount = Bits(5, 2, 1, default=1)
    clear_key_on_reservation_preempt = Bits(5, 1, 1, default=1)
    clear_key_on_reservation_loss = Bits(5, 0, 1, default=1)
    all_i_t_nexus = Bits(7, 2, 1, default=1)
    local = Bits(7, 1, 1, default=1)
    public = Bits(7, 0, 1, default=1)


class StatusPage(Structure, length=24):
    """Data Encryption Status page (SSC-4 8.5.2.7), before its key-associated data."""

    page_code = Bits(0, 7, 16, default=STATUS)
    page_length = Bits(2, 7, 16)
    i_t_nexus_scope = Bits(4, 7, 3)
    key_scope = Bits(4, 2, 3)
    encryption_mode = Bits(5, 7, 8)
    decryption_mode = Bits(6, 7, 8)
    algorithm_index = Bits(7, 7, 8)
    key_instance_counter = Bits(8, 7, 32)
    parameters_control = Bits(12, 6, 3, default=1)  # by applications: no external control has them to itself
    volume_contains_encrypted_blocks = Bits(12, 3, 1)  # VCELB
    check_external_encryption_mode = Bits(12, 2, 2)  # CEEMS
    raw_decryption_mode_disabled = Bits(12, 0, 1)  # RDMD
    kad_format = Bits(13, 7, 8)


class NextBlockStatusPage(Structure, length=16):
    """Next Block Encryption Status page (SSC-4 8.5.2.8), before its key-associated data."""

    page_code = Bits(0, 7, 16, default=NEXT_BLOCK_STATUS)
    page_length = Bits(2, 7, 16)
    logical_object_number = Bits(4, 7, 64)
    compression_status = Bits(12, 7, 4)  # 0: not told, as in LTO drives
    encryption_status = Bits(12, 3, 4)
    algorithm_index = Bits(13, 7, 8)
    written_in_external_mode = Bits(14, 1, 1)  # EMES
    raw_decryption_mode_disabled = Bits(14, 0, 1)  # RDMDS
    kad_format = Bits(15, 7, 8)


class SetDataEncryptionPage(Structure, length=20):
    """Set Data Encryption page (SSC-4 8.5.3.2), before its key."""

    page_code = Bits(0, 7, 16, default=SET_DATA_ENCRYPTION)
    page_length = Bits(2, 7, 16)
    scope = Bits(4, 7, 3)
    lock = Bits(4, 0, 1)
    check_external_encryption_mode = Bits(5, 7, 2)  # CEEM
    raw_decryption_mode_control = Bits(5, 5, 2)  # RDMC
    supplemental_decryption_key = Bits(5, 3, 1)  # SDK
    clear_key_on_demount = Bits(5, 2, 1)  # CKOD
    clear_key_on_reservation_preempt = Bits(5, 1, 1)  # CKORP
    clear_key_on_reservation_loss = Bits(5, 0, 1)  # CKORL
    encryption_mode = Bits(6, 7, 8)
    decryption_mode = Bits(7, 7, 8)
    algorithm_index = Bits(8, 7, 8)
    key_format = Bits(9, 7, 8)
    kad_format = Bits(10, 7, 8)
    key_length = Bits(18, 7, 16)


class KadDescriptor(Structure, length=4):
    """Key-associated data descriptor (SSC-4 8.5.4), before its data."""

    descriptor_type = Bits(0, 7, 8)
    authenticated = Bits(1, 2, 3)
    descriptor_length = Bits(2, 7, 16)


class Kad(NamedTuple):
    """One descriptor as it came: where it begins in the parameter list, its type, its data."""

    offset: int
    type: int
    data: bytes


def encode_kad(descriptor_type: KadType, data: bytes, authenticated: int = 0) -> bytes:
    """A descriptor; nothing when there is no data."""
    if not data:
        return b""
    head = KadDescriptor.encode(
        descriptor_type=descriptor_type, authenticated=authenticated, descriptor_length=len(data)
    )
    return head + data


def decode_kads(data: memoryview, offset: int) -> Iterator[Kad]:
    """The descriptors from `offset` to the end. Raises TooShort when the last one is cut off."""
    while offset < len(data):
        head = KadDescriptor.decode(data[offset:])
        start = offset + KadDescriptor.length
        if start + head.descriptor_length > len(data):
            raise TooShort("the last key-associated data descriptor is cut off")
        yield Kad(offset, head.descriptor_type, bytes(data[start : start + head.descriptor_length]))
        offset = start + head.descriptor_length

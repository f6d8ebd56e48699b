"""What a Set Data Encryption page asks for, checked (SSC-4 8.5.3.2).

The key is copied once, into memory that is wiped.
"""

from __future__ import annotations

from typing import NamedTuple

from scsi_targets.devices.tape.encryption_parameters import DECRYPTION_MODES, ParameterSet
from scsi_targets.t10 import sense
from scsi_targets.t10.fields import Field, TooShort
from scsi_targets.t10.sense import CheckCondition
from scsi_targets.t10.ssc_encryption import (
    ALGORITHM_INDEX,
    KAD_FORMATS,
    PLAIN_TEXT_KEY,
    CheckOrigin,
    EncryptionMode,
    EncryptionScope,
    Kad,
    KadType,
    SetDataEncryptionPage,
    decode_kads,
)
from vlib_images.cartridge.codec import A_KAD_BYTES_MAX, KEY_BYTES, U_KAD_BYTES_MAX, DecryptionMode, EncryptionKey

EncryptionPage = SetDataEncryptionPage
HEADER_BYTES = 4  # that PAGE LENGTH does not count
M_KAD_BYTES_MAX = 64
RAW_DEFAULT, RAW_ENABLED, RAW_DISABLED = 0, 2, 3  # RDMC; the default is enabled
LONGEST = {
    KadType.UNAUTHENTICATED: U_KAD_BYTES_MAX, KadType.AUTHENTICATED: A_KAD_BYTES_MAX, KadType.METADATA: M_KAD_BYTES_MAX,
}  # fmt: skip


class EncryptionRequest(NamedTuple):
    """parameters: with the key in them, which the caller wipes when it does not keep them."""

    parameters: ParameterSet
    lock: bool


def parse_set_data_encryption(data: memoryview) -> EncryptionRequest:
    """Raises CheckCondition: PARAMETER LIST LENGTH ERROR, INVALID FIELD IN PARAMETER LIST."""
    try:
        page = EncryptionPage.decode(data)
    except TooShort as error:
        raise CheckCondition(sense.PARAMETER_LIST_LENGTH_ERROR) from error
    if HEADER_BYTES + page.page_length > len(data):
        raise CheckCondition(sense.PARAMETER_LIST_LENGTH_ERROR)
    _require(page.page_code == EncryptionPage.page_code.default, EncryptionPage.page_code)
    _require(page.page_length >= EncryptionPage.length - HEADER_BYTES, EncryptionPage.page_length)
    _require(page.scope in tuple(EncryptionScope), EncryptionPage.scope)
    if page.scope == EncryptionScope.PUBLIC:  # everything but SCOPE and LOCK is ignored
        return EncryptionRequest(ParameterSet(), bool(page.lock))
    _check_controls(page)
    parameters = _parameters(page, data[: HEADER_BYTES + page.page_length])
    return EncryptionRequest(parameters, bool(page.lock))


def _require(condition: bool, field: Field | int) -> None:
    if not condition:
        raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, field)


def _check_controls(page: EncryptionPage) -> None:
    _require(
        page.raw_decryption_mode_control in (RAW_DEFAULT, RAW_ENABLED, RAW_DISABLED),
        EncryptionPage.raw_decryption_mode_control,
    )
    _require(not page.supplemental_decryption_key, EncryptionPage.supplemental_decryption_key)
    _require(page.encryption_mode in tuple(EncryptionMode), EncryptionPage.encryption_mode)
    _require(page.kad_format in KAD_FORMATS, EncryptionPage.kad_format)
    _require(page.decryption_mode < len(DECRYPTION_MODES), EncryptionPage.decryption_mode)
    if page.encryption_mode or page.decryption_mode:
        _require(page.algorithm_index == ALGORITHM_INDEX, EncryptionPage.algorithm_index)


def _parameters(page: EncryptionPage, data: memoryview) -> ParameterSet:
    encryption, decryption = EncryptionMode(page.encryption_mode), DECRYPTION_MODES[page.decryption_mode]
    needs_key = encryption is EncryptionMode.ENCRYPT or decryption in (DecryptionMode.DECRYPT, DecryptionMode.MIXED)
    if needs_key:
        _require(page.key_format == PLAIN_TEXT_KEY, EncryptionPage.key_format)
        _require(page.key_length == KEY_BYTES, EncryptionPage.key_length)
    _require(EncryptionPage.length + page.key_length <= len(data), EncryptionPage.key_length)
    kads = _key_associated_data(data, EncryptionPage.length + page.key_length, encryption)
    return ParameterSet(
        scope=EncryptionScope(page.scope),
        encryption_mode=encryption,
        decryption_mode=decryption,
        key=EncryptionKey(data[EncryptionPage.length : EncryptionPage.length + KEY_BYTES]) if needs_key else None,
        authenticated_data=kads.get(KadType.AUTHENTICATED, b""),
        unauthenticated_data=kads.get(KadType.UNAUTHENTICATED, b""),
        metadata=kads.get(KadType.METADATA, b""),
        kad_format=page.kad_format,
        check_origin=CheckOrigin(page.check_external_encryption_mode),
        raw_read_disabled=page.raw_decryption_mode_control == RAW_DISABLED,
        clear_on_demount=bool(page.clear_key_on_demount),
        clear_on_preempt=bool(page.clear_key_on_reservation_preempt),
        clear_on_loss=bool(page.clear_key_on_reservation_loss),
    )


def _key_associated_data(data: memoryview, offset: int, encryption: EncryptionMode) -> dict[int, bytes]:
    """In ascending order of their types, each at most once (SSC-4 8.5.4). Metadata belongs to EXTERNAL mode; a raw
    block of ours carries all that is needed, so it is kept to be shown and nothing else."""
    found: dict[int, bytes] = {}
    try:
        kads: list[Kad] = list(decode_kads(data, offset))
    except TooShort as error:
        raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, offset) from error
    for kad in kads:
        _require(kad.type in LONGEST and all(kad.type > other for other in found), kad.offset)
        _require(kad.type != KadType.METADATA or encryption is EncryptionMode.EXTERNAL, kad.offset)
        _require(len(kad.data) <= LONGEST[KadType(kad.type)], kad.offset + 2)
        found[kad.type] = kad.data
    return found

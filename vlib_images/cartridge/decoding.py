"""Blocks that are stored in another form than they were written in: what of them is given out, and to whom."""

from typing_extensions import Buffer

from datamover.engine import PROTECTION_BYTES, PROTECTION_CRC32C, protection_information
from vlib_images.cartridge import codec
from vlib_images.cartridge.codec import Decryption, DecryptionMode, Form, StoredBlock
from vlib_images.errors import (
    DamagedBlock,
    EncryptionProblem,
    KeyMissing,
    KeyWrong,
    NotEncrypted,
    OriginRefused,
    RawReadRefused,
)


def give_out(
    block: StoredBlock, decryption: Decryption, number: tuple[int, int], into: Buffer, protection: int
) -> tuple[int, int]:
    """Put as much of a block as fits into a writable buffer; returns its length and what is stored of it.

    number: partition and logical object number, for errors. protection: a method of logical block protection; then
    the block ends in protection information, which its length does not count.
    Raises DamagedBlock; EncryptionProblem: the block cannot be given out (SSC-5 4.2.24).
    """
    try:
        content = _content(block, decryption, number)
    except codec.UndecodableBlock as error:
        raise DamagedBlock(*number, str(error)) from error
    view = memoryview(into)
    moved = min(view.nbytes, len(content))
    view[:moved] = content[:moved]
    if protection and moved < view.nbytes:
        information = _protection(block, content, protection)[: view.nbytes - moved]
        view[moved : moved + len(information)] = information
    return len(content), len(block.payload)


def not_encrypted(number: tuple[int, int]) -> EncryptionProblem:
    """A block in clear, where only encrypted ones may be read."""
    return NotEncrypted(*number, "it is not encrypted")


def _protection(block: StoredBlock, content: bytes | memoryview, method: int) -> bytes:
    if method == PROTECTION_CRC32C and not block.form & Form.ENCRYPTED:
        return block.logical_crc.to_bytes(PROTECTION_BYTES, "little")  # the initiator's own, where it sent one
    return protection_information(content, method)


def _content(block: StoredBlock, decryption: Decryption, number: tuple[int, int]) -> bytes | memoryview:
    if not block.form & Form.ENCRYPTED:
        if not decryption.reads_plain:
            raise not_encrypted(number)
        return codec.decompress(block)
    mode, key = decryption.mode, decryption.key
    if mode is DecryptionMode.DISABLE or (key is None and mode is not DecryptionMode.RAW):
        raise KeyMissing(*number, "it is encrypted and no key is set")
    status = codec.encryption_status(block.form, block.extension)
    if status.origin is decryption.refused:
        raise OriginRefused(*number, f"it was written in {status.origin.name} mode")
    if key is None or mode is DecryptionMode.RAW:
        if status.raw_read_disabled:
            raise RawReadRefused(*number, "it may not be read raw")
        return codec.to_raw(block)
    try:
        return codec.decompress(codec.decrypt(block, key))
    except codec.WrongKey as error:
        raise KeyWrong(*number, "it is encrypted with another key") from error

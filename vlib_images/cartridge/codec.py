"""Blocks that are not stored as the initiator wrote them: compressed (zstd), encrypted (AES-256-GCM), or both.

FORMAT.md, "Forms", is the specification. A key is given for as long as it is needed, is never written anywhere, and is
wiped when the drive lets it go. What identifies a key to its owner, the key-associated data of SSC-5 4.2.24, is stored
with each block: A-KAD authenticated, U-KAD not.
"""

import os
import struct
from dataclasses import dataclass
from enum import Enum, IntEnum, IntFlag, auto
from typing import Final

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from typing_extensions import Buffer

from datamover.engine import crc32c
from vlib_images.errors import NotRawBlock

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
A_KAD_BYTES_MAX: Final = 60
U_KAD_BYTES_MAX: Final = 32
RAW_MAGIC: Final = b"TBRAWBK\x01"
RAW: Final = struct.Struct("<8sBBHIII")


class Form(IntFlag):
    """How a block is stored. The bits of a record's form byte."""

    COMPRESSED = 1
    ENCRYPTED = 2


class Tag(IntEnum):
    """Elements of a record's extension: u8 tag, u8 length, value; zeros pad it to 8 bytes."""

    NONCE = 1
    AUTHENTICATED_DATA = 2
    UNAUTHENTICATED_DATA = 3
    FLAGS = 4
    ORIGIN = 5
    KAD_FORMAT = 6


RAW_READ_DISABLED: Final = 1
"""FLAGS bit: whoever wrote the block forbade reading it without decryption (SSC-5 RDMC)."""

EXTENSION_BYTES_MAX: Final = 255 * 8
BLOCK_BYTES_MAX: Final = (1 << 24) - 1
SIZE_UNKNOWN: Final = -1
"""What zstandard.frame_content_size() says of a frame that does not tell its size."""


class Origin(Enum):
    """In which encryption mode an encrypted block was written. The values are ORIGIN's, which is absent for ENCRYPT."""

    ENCRYPT = b""
    EXTERNAL = b"\x01"


class UndecodableBlock(Exception):
    """The stored bytes are whole but make no block: they were damaged before they were stored, or by an attacker."""


class WrongKey(Exception):
    """The block was encrypted with another key, or altered by someone who does not have it: GCM cannot tell which."""


class EncryptionKey:
    """A key in memory. wipe() when it is no longer needed; using it afterwards raises ValueError."""

    def __init__(self, key: Buffer) -> None:
        if memoryview(key).nbytes != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes")
        self._key = bytearray(key)
        self._cipher: AESGCM | None = AESGCM(self._key)
        self._prefix = os.urandom(NONCE_BYTES - 4)
        self._blocks = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EncryptionKey) and self._key == other._key

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "EncryptionKey(...)"

    @property
    def cipher(self) -> AESGCM:
        if self._cipher is None:
            raise ValueError("the key was wiped")
        return self._cipher

    def next_nonce(self) -> bytes:
        """Never the same twice for one key: 8 random bytes for each 2**32 blocks, and a count."""
        if self._blocks == 1 << 32:
            self._prefix, self._blocks = os.urandom(NONCE_BYTES - 4), 0
        self._blocks += 1
        return self._prefix + (self._blocks - 1).to_bytes(4, "big")

    def wipe(self) -> None:
        """Overwrite the key; OpenSSL does the same to its own copy when the cipher goes."""
        self._key[:] = bytes(KEY_BYTES)
        self._cipher = None


@dataclass(frozen=True, slots=True)
class Encryption:
    """How to encrypt. authenticated_data: A-KAD, 0 to 60 bytes; unauthenticated_data: U-KAD, 0 to 32 bytes; kad_format:
    what the owner of the key says that they are (SSC-5, KAD FORMAT)."""

    key: EncryptionKey
    authenticated_data: bytes = b""
    unauthenticated_data: bytes = b""
    raw_read_disabled: bool = False
    kad_format: int = 0

    def __post_init__(self) -> None:
        if len(self.authenticated_data) > A_KAD_BYTES_MAX or len(self.unauthenticated_data) > U_KAD_BYTES_MAX:
            raise ValueError("key-associated data is too long")


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A block as it lies in a record. logical_crc is 0 for encrypted blocks, whose tag says more and tells less."""

    payload: bytes | memoryview
    logical_length: int
    logical_crc: int
    form: Form
    extension: bytes = b""


class Scratch:
    """Memory for one stored block at a time; it grows to the largest."""

    def __init__(self) -> None:
        self._memory = bytearray()

    def take(self, length: int) -> memoryview:
        """Writable memory of this length. What was taken before may be overwritten."""
        if len(self._memory) < length:
            self._memory = bytearray(length)
        return memoryview(self._memory)[:length]


class DecryptionMode(Enum):
    """SSC-5, SET DATA ENCRYPTION, DECRYPTION MODE. RAW: encrypted blocks as they are, with what is needed to write them
    again; no others. DECRYPT: encrypted blocks only. MIXED: both kinds."""

    DISABLE = auto()
    RAW = auto()
    DECRYPT = auto()
    MIXED = auto()


@dataclass(frozen=True, slots=True)
class Decryption:
    """How to read encrypted blocks. The key is needed by DECRYPT and MIXED.

    refused: blocks written in this mode are not given out (SSC-5, CHECK EXTERNAL ENCRYPTION MODE).
    """

    mode: DecryptionMode = DecryptionMode.DISABLE
    key: EncryptionKey | None = None
    refused: Origin | None = None

    @property
    def reads_plain(self) -> bool:
        """Whether blocks that are not encrypted may be read."""
        return self.mode in (DecryptionMode.DISABLE, DecryptionMode.MIXED)


@dataclass(frozen=True, slots=True)
class EncryptionStatus:
    """What is known of a block without its key (SSC-5, next block encryption status)."""

    encrypted: bool
    authenticated_data: bytes = b""
    unauthenticated_data: bytes = b""
    raw_read_disabled: bool = False
    origin: Origin = Origin.ENCRYPT
    kad_format: int = 0


# ---- extension -------------------------------------------------------------------------------------------------------


def _encode_extension(elements: dict[int, bytes]) -> bytes:
    content = b"".join(bytes([tag, len(value)]) + value for tag, value in elements.items() if value)
    return content + bytes(-len(content) % 8)


def _decode_extension(extension: bytes) -> dict[int, bytes]:
    elements: dict[int, bytes] = {}
    at = 0
    while at + 2 <= len(extension) and extension[at]:
        tag, length = extension[at], extension[at + 1]
        elements[tag] = extension[at + 2 : at + 2 + length]
        at += 2 + length
    return elements


def encryption_status(form: int, extension: bytes) -> EncryptionStatus:
    """From a record's header and extension."""
    elements = _decode_extension(extension)
    return EncryptionStatus(
        bool(form & Form.ENCRYPTED),
        elements.get(Tag.AUTHENTICATED_DATA, b""),
        elements.get(Tag.UNAUTHENTICATED_DATA, b""),
        bool(elements.get(Tag.FLAGS, b"\0")[0] & RAW_READ_DISABLED),
        Origin.EXTERNAL if Tag.ORIGIN in elements else Origin.ENCRYPT,
        elements.get(Tag.KAD_FORMAT, b"\0")[0],
    )


def _associated_data(form: int, logical_length: int, elements: dict[int, bytes]) -> bytes:
    """What GCM authenticates beside the payload. Not the position: an encrypted block may be copied raw."""
    flags, authenticated = elements.get(Tag.FLAGS, b"\0"), elements.get(Tag.AUTHENTICATED_DATA, b"")
    return struct.pack("<BBI", form, flags[0], logical_length) + authenticated


# ---- writing ---------------------------------------------------------------------------------------------------------


class Encoder:
    """Makes stored blocks. compression_level: of zstd, 1 to 22, None for none. Not thread-safe."""

    def __init__(self, compression_level: int | None = None, encryption: Encryption | None = None) -> None:
        self._compressor = None if compression_level is None else zstandard.ZstdCompressor(level=compression_level)
        self._encryption = encryption

    def encode(self, data: Buffer, crc: int | None = None) -> StoredBlock | None:
        """None when the block is best stored as it is. crc: the CRC32C of `data`, where it is known already."""
        payload, form = memoryview(data), Form(0)
        length = payload.nbytes
        if self._compressor is not None:
            compressed = self._compressor.compress(payload)
            if len(compressed) < length:
                payload, form = memoryview(compressed), Form.COMPRESSED
        if self._encryption is not None:
            return self._encrypt(self._encryption, payload, length, form)
        if not form:
            return None
        return StoredBlock(payload, length, crc32c(data) if crc is None else crc, form)

    @staticmethod
    def _encrypt(encryption: Encryption, payload: memoryview, length: int, form: Form) -> StoredBlock:
        form |= Form.ENCRYPTED
        elements: dict[int, bytes] = {
            Tag.NONCE: encryption.key.next_nonce(),
            Tag.AUTHENTICATED_DATA: encryption.authenticated_data,
            Tag.UNAUTHENTICATED_DATA: encryption.unauthenticated_data,
            Tag.FLAGS: bytes([RAW_READ_DISABLED]) if encryption.raw_read_disabled else b"",
            Tag.KAD_FORMAT: bytes([encryption.kad_format]) if encryption.kad_format else b"",
        }
        associated = _associated_data(form, length, {tag: value for tag, value in elements.items() if value})
        sealed = encryption.key.cipher.encrypt(elements[Tag.NONCE], payload, associated)
        return StoredBlock(sealed, length, 0, form, _encode_extension(elements))


# ---- reading ---------------------------------------------------------------------------------------------------------


def decrypt(block: StoredBlock, key: EncryptionKey) -> StoredBlock:
    """The block without its encryption, perhaps still compressed. Raises WrongKey, UndecodableBlock."""
    elements = _decode_extension(block.extension)
    nonce = elements.get(Tag.NONCE, b"")
    if len(nonce) != NONCE_BYTES:
        raise UndecodableBlock("an encrypted block has no nonce")
    try:
        payload = key.cipher.decrypt(nonce, block.payload, _associated_data(block.form, block.logical_length, elements))
    except InvalidTag as error:
        raise WrongKey("the key does not decrypt the block") from error
    return StoredBlock(payload, block.logical_length, 0, block.form & ~Form.ENCRYPTED)


def decompress(block: StoredBlock) -> bytes | memoryview:
    """The block as the initiator wrote it, from a block that is not encrypted: no more bytes than the record says, and
    than a block can have. Raises UndecodableBlock."""
    payload = block.payload
    if block.form & ~Form.COMPRESSED:
        raise UndecodableBlock(f"a block of form {int(block.form)}, which this version does not know")
    if block.form & Form.COMPRESSED:
        payload = _decompress(payload, block.logical_length)
    if len(payload) != block.logical_length:
        raise UndecodableBlock("a block does not have the length that its header says")
    return payload


def _decompress(payload: bytes | memoryview, length: int) -> bytes:
    if not 1 <= length <= BLOCK_BYTES_MAX:
        raise UndecodableBlock(f"a compressed block of {length} bytes, which no block has")
    try:
        # A frame that says its size is given that much memory, whatever max_output_size is (RFC 8878 3.1.1.1.4).
        if zstandard.frame_content_size(payload) not in (length, SIZE_UNKNOWN):
            raise UndecodableBlock("a compressed block does not have the length that its header says")
        return zstandard.ZstdDecompressor().decompress(payload, max_output_size=length)
    except zstandard.ZstdError as error:
        raise UndecodableBlock(f"a compressed block does not decompress: {error}") from error


# ---- raw form --------------------------------------------------------------------------------------------------------


def to_raw(block: StoredBlock) -> bytes:
    """An encrypted block with all that is needed to write it again elsewhere (RAW decryption mode)."""
    extension = len(block.extension) // 8
    head = RAW.pack(RAW_MAGIC, block.form, extension, 0, block.logical_length, len(block.payload), 0)
    return b"".join([head, block.extension, block.payload])


def from_raw(raw: Buffer) -> StoredBlock:
    """What to_raw() made, marked as written in EXTERNAL encryption mode. Raises UndecodableBlock."""
    view = memoryview(raw)
    if view.nbytes < RAW.size:
        raise UndecodableBlock("too short for a raw block")
    magic, form, units, _, logical_length, stored_length, _ = RAW.unpack_from(view)
    at = RAW.size + units * 8
    if magic != RAW_MAGIC or not form & Form.ENCRYPTED or form > 3 or view.nbytes != at + stored_length:
        raise UndecodableBlock("not a raw block that Tapebay has read")
    if not 1 <= logical_length <= BLOCK_BYTES_MAX:
        raise UndecodableBlock("a raw block of an impossible length")
    elements = _decode_extension(bytes(view[RAW.size : at])) | {Tag.ORIGIN: Origin.EXTERNAL.value}
    extension = _encode_extension(elements)
    if len(extension) > EXTENSION_BYTES_MAX:
        raise UndecodableBlock("a raw block with more beside it than a record can hold")
    return StoredBlock(view[at:], logical_length, 0, Form(form), extension)


class RawEncoder:
    """What is written was encrypted before, and read raw (EXTERNAL encryption mode)."""

    @staticmethod
    def encode(data: Buffer, crc: int | None = None) -> StoredBlock:
        """Raises NotRawBlock."""
        try:
            return from_raw(data)
        except UndecodableBlock as error:
            raise NotRawBlock(str(error)) from error

"""What can go wrong with a cartridge, in the words of storage; the tape device turns these into sense data."""

import errno as errno_codes


class CartridgeError(Exception):
    """The base of everything a cartridge raises on purpose."""


class NotACartridge(CartridgeError):
    """The directory holds no cartridge, or one of a format this version does not know."""


class CartridgeDamaged(CartridgeError):
    """The files that describe the cartridge do not verify; `tapebay cartridge recover` helps."""


class CartridgeInUse(CartridgeError):
    """Another process, or another handle of this one, has the cartridge open."""


class WriteProtected(CartridgeError):
    """The cartridge is write protected or was opened for reading."""


class WormViolation(CartridgeError):
    """Written blocks of a WORM or append-only cartridge would be overwritten or erased."""


class InvalidPartition(CartridgeError):
    """The cartridge has no such partition, or cannot be divided like that."""


class DamagedBlock(CartridgeError):
    """A block cannot be read. The position is behind it, and what follows reads.

    partition, block: where it is. blocks_read: how many blocks the same call had read before it. reason: in words.
    """

    def __init__(self, partition: int, block: int, reason: str, blocks_read: int = 0) -> None:
        super().__init__(f"block {block} of partition {partition} cannot be read: {reason}")
        self.reason = reason
        self.partition = partition
        self.block = block
        self.blocks_read = blocks_read


class EncryptionProblem(CartridgeError):
    """A block cannot be given out under the decryption mode and key that are set. The position stays before it.

    partition, block: where it is. blocks_read: how many blocks the same call had read before it. reason: in words.
    """

    def __init__(self, partition: int, block: int, reason: str, blocks_read: int = 0) -> None:
        super().__init__(f"block {block} of partition {partition}: {reason}")
        self.reason = reason
        self.partition = partition
        self.block = block
        self.blocks_read = blocks_read


class KeyMissing(EncryptionProblem):
    """The block is encrypted and no key is set."""


class KeyWrong(EncryptionProblem):
    """The block is encrypted with another key."""


class NotEncrypted(EncryptionProblem):
    """The block is not encrypted, and only encrypted ones are wanted."""


class RawReadRefused(EncryptionProblem):
    """Whoever wrote the block forbade reading it raw."""


class OriginRefused(EncryptionProblem):
    """The block was written in an encryption mode whose blocks are not wanted."""


class WriteStopped(CartridgeError):
    """The base of what stops a write. blocks_written: how many blocks or filemarks the call had written before."""

    def __init__(self, message: str, blocks_written: int = 0) -> None:
        super().__init__(message)
        self.blocks_written = blocks_written


class NotRawBlock(WriteStopped):
    """What was to be written is no encrypted block that was read raw."""


class ProtectionFailed(WriteStopped):
    """The protection information behind a block is not that block's: it was damaged on its way here."""


class EndOfPartition(WriteStopped):
    """The partition is full."""


class NoSpace(WriteStopped):
    """The file system under the library is full. Nothing is torn: what was accepted before stays."""


class StorageError(WriteStopped):
    """The file system failed: `errno` says how."""

    def __init__(self, message: str, errno: int, blocks_written: int = 0) -> None:
        super().__init__(message, blocks_written)
        self.errno = errno


def storage_failure(error: OSError, doing: str, blocks_written: int = 0) -> NoSpace | StorageError:
    """The right error for an OSError met while `doing` something."""
    message = f"{doing}: {error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
    if error.errno in (errno_codes.ENOSPC, errno_codes.EDQUOT):
        return NoSpace(message, blocks_written)
    return StorageError(message, error.errno or errno_codes.EIO, blocks_written)

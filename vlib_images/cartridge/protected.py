"""Writing blocks that travel with protection information: the check stands between the initiator and the medium.

Reading them is part of Transport: read_block() and read_blocks() with a protection method.
"""

from typing_extensions import Buffer

from datamover.engine import PROTECTION_BYTES, ProtectionMismatch, protection_check
from vlib_images.cartridge.transport import Transport
from vlib_images.errors import ProtectionFailed, WriteStopped


class ProtectedTransport(Transport):
    """What Transport does, and write_protected_blocks()."""

    def write_protected_blocks(self, data: Buffer, block_length: int, method: int) -> int:
        """Write a buffer as blocks of block_length bytes, the last 4 of which are protection information by a method of
        logical block protection; it is checked and not kept. Returns how many blocks.

        Raises as write_blocks() does, and ProtectionFailed: the next block and its protection information differ.
        ValueError: no such method, or block_length leaves no room for a block.
        """
        view = memoryview(data)
        count, rest = divmod(view.nbytes, block_length)
        if rest:
            raise ValueError(f"the buffer is no multiple of {block_length} bytes")
        if not self.at_eod:  # a damaged block must not take away what is behind the position
            self._check(view[:block_length], method)
        if self.encoder is not None or self.external:
            return self._write_each_protected(view, block_length, count, method)
        self._prepare_write()
        before, length = self._partition.end, block_length - PROTECTION_BYTES
        try:
            self._partition.append_protected(view, length, count, method)
        finally:
            written = self._partition.end - before
            self._position += written
            self.usage.wrote(written, written * length, written * length)
        return count

    def _write_each_protected(self, view: memoryview, block_length: int, count: int, method: int) -> int:
        for number in range(count):
            try:
                self._write_encoded_protected(view[number * block_length : (number + 1) * block_length], method)
            except WriteStopped as error:
                error.blocks_written = number
                raise
        return count

    def _write_encoded_protected(self, protected: memoryview, method: int) -> None:
        crc = self._check(protected, method)
        self._prepare_write()
        data = protected[:-PROTECTION_BYTES]
        block = self._encode(data, crc)
        if block is None:
            length = stored_length = data.nbytes
            self._partition.append_protected(protected, length, 1, method)
        else:
            length, stored_length = block.logical_length, len(block.payload)
            self._partition.append_stored(block)
        self._position += 1
        self.usage.wrote(1, length, stored_length)

    @staticmethod
    def _check(protected: memoryview, method: int) -> int:
        """The block's CRC32C."""
        try:
            return protection_check(protected, method)
        except ProtectionMismatch as error:
            raise ProtectionFailed("a block and its protection information differ") from error

"""The C engine: CRC32C, buffers, the iSCSI connection, cartridge segments, extent copies."""

from datamover.engine._engine import crc32c

__all__ = ["crc32c"]

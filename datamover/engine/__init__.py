"""The C engine: CRC32C, buffers, the iSCSI connection, cartridge segments, extent copies."""

from datamover.engine._engine import (
    LIMIT_TRANSFER_BYTES,
    BufferPool,
    DataBuffer,
    PoolExhausted,
    crc32c,
    crc32c_combine,
    crc32c_implementation,
    crc32c_implementations,
    crc32c_with,
)

__all__ = [
    "LIMIT_TRANSFER_BYTES",
    "BufferPool",
    "DataBuffer",
    "PoolExhausted",
    "crc32c",
    "crc32c_combine",
    "crc32c_implementation",
    "crc32c_implementations",
    "crc32c_with",
]

"""The C engine, typed. Import its names from datamover.engine."""

from collections.abc import Buffer

def crc32c(data: Buffer, crc: int = 0, /) -> int: ...

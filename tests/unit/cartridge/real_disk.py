"""What the full-disk tests run on a small tmpfs of their own, in a mount namespace of their own.

python -m tests.unit.cartridge.real_disk DIRECTORY CASE
"""

import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.unit.cartridge.conftest import contents
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.medium import MEDIA
from vlib_images.cartridge.segments import SegmentLimits
from vlib_images.errors import CartridgeError, NoSpace

LIMITS = SegmentLimits(segment_bytes=256 << 10, disk_low_bytes=512 << 10)


def create(directory: Path) -> Cartridge:
    return Cartridge.create(directory / "T", barcode="T00001L8", medium=MEDIA["LTO-8"], limits=LIMITS)


def fill(cartridge: Cartridge) -> int:
    """Writes until the disk is full; returns how many blocks were accepted."""
    assert not cartridge.early_warning
    number, warned = 0, False
    try:
        while True:
            cartridge.write_block(number.to_bytes(4, "big") * 2500)
            number += 1
            cartridge.storage.partitions[0].store._looked_up_at = -(1 << 40)  # look every time: this disk is small
            warned = warned or cartridge.early_warning
            if number % 10 == 0:
                cartridge.write_filemarks(1)
    except NoSpace:
        assert warned, "a full disk without an early warning"
    return number


def check(cartridge: Cartridge, number: int) -> None:
    blocks = [item for item in contents(cartridge) if item is not None]
    assert blocks == [count.to_bytes(4, "big") * 2500 for count in range(number)]


def full(directory: Path) -> None:
    """Everything accepted is there; it can be erased, and then written again."""
    cartridge = create(directory)
    filler = (directory / "filler").open("wb", buffering=0)
    number = fill(cartridge)
    assert number > 100
    check(cartridge, number)
    with contextlib.suppress(NoSpace):  # told, not hidden; what was accepted is in the file all the same
        cartridge.synchronize()
    with contextlib.suppress(NoSpace):
        cartridge.close()
    with filler, contextlib.suppress(OSError):  # not one block is left
        while True:
            filler.write(bytes(4096))
    with Cartridge.open(directory / "T", limits=LIMITS) as cartridge:
        check(cartridge, number)
        cartridge.rewind()
        cartridge.erase()
        cartridge.write_block(b"again")
        cartridge.synchronize()
    with Cartridge.open(directory / "T", limits=LIMITS) as cartridge:
        assert contents(cartridge) == [b"again"]


def read_only(directory: Path) -> None:
    """A file system that is mounted read-only: reading goes on, writing is a clear error."""
    cartridge = create(directory)
    cartridge.write_block(b"data")
    cartridge.close()
    subprocess.run(["mount", "-o", "remount,ro", str(directory)], check=True)
    try:
        Cartridge.open(directory / "T")
    except CartridgeError as error:
        assert "Read-only file system" in str(error), error
    else:
        raise AssertionError("opened for writing on a read-only file system")
    with Cartridge.open(directory / "T", read_only=True) as cartridge:
        assert contents(cartridge) == [b"data"]


CASES: dict[str, Callable[[Path], None]] = {"full": full, "read_only": read_only}

if __name__ == "__main__":
    where = Path(sys.argv[1])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(where)], check=True)
    CASES[sys.argv[2]](where)

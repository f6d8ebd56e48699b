"""The demonstration's own cartridges: it overwrites none that may hold somebody's data.

It takes the first of DEMO01L6, DEMO02L6, ... that is blank, or holds nothing but an earlier run's copy of the disk as
the disk is now, so that writing the same again loses nothing. One in a drive, or on the shelf, is left where it is.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from appliance.demo.copy import BLOCK_BYTES
from appliance.failures import Failure, OperatorError
from appliance.operations.setup import DEMO_DISK
from appliance.settings.settings import Settings
from vlib_images.cartridge.cartridge import Cartridge, ReadKind
from vlib_images.errors import CartridgeError

BARCODES = [f"DEMO{number:02}L6" for number in range(1, 100)]


def choose(settings: Settings, status: dict[str, Any]) -> str:
    """The barcode to use; there may be no such cartridge yet. Raises OperatorError."""
    places = {row["barcode"]: row["place"] for row in status["elements"] if row["barcode"]}
    for barcode in BARCODES:
        directory = settings.library.cartridges / barcode
        if barcode not in places:
            if barcode not in status["shelf"]:
                return barcode
        elif not places[barcode].startswith("drive:") and _may_be_overwritten(settings, directory):
            return barcode
    message = f"{BARCODES[0]} to {BARCODES[-1]} all hold other data; delete one: tapebay cartridge delete {BARCODES[0]}"
    raise OperatorError(Failure.REFUSED, message)


def _may_be_overwritten(settings: Settings, directory: Path) -> bool:
    disk = next(disk for disk in settings.disks if disk.name == DEMO_DISK)
    try:
        with Cartridge.open(directory, read_only=True) as cartridge:
            if cartridge.write_protected:
                return False
            blank = not any(cartridge.end_of_data(number) for number in range(cartridge.partition_count))
            return blank or (cartridge.partition_count == 1 and _holds(cartridge, settings.image_of(disk)))
    except (CartridgeError, OSError):  # whatever it is, it is not ours to overwrite
        return False


def _holds(cartridge: Cartridge, image: Path) -> bool:
    """Whether the cartridge holds the image in blocks of BLOCK_BYTES, a filemark, and nothing else."""
    buffer = bytearray(BLOCK_BYTES)
    with image.open("rb") as file:
        for chunk in _chunks(file):
            result = cartridge.read_block(buffer)
            if result.length != len(chunk) or buffer[: len(chunk)] != chunk:
                return False
    return cartridge.read_block(buffer).kind is ReadKind.FILEMARK and cartridge.at_eod


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(BLOCK_BYTES):
        yield chunk

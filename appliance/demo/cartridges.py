"""The demonstration's own cartridges: it overwrites none that may hold somebody's data.

It takes the first of DEMO01L6, DEMO02L6, ... that is blank, or holds nothing but an earlier run's backup of the disk as
the disk is now, so that writing the same again loses nothing. One in a drive, or on the shelf, is left where it is.
"""

from collections.abc import Callable
from typing import Any

from appliance.failures import Failure, OperatorError
from appliance.operations.setup import DEMO_DISK
from appliance.settings.settings import Settings
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.errors import CartridgeError

BARCODES = [f"DEMO{number:02}L6" for number in range(1, 100)]
FILES = 2  # of a cartridge that holds one backup: the archive, and its index

Ask = Callable[..., Any]  # the daemon


def choose(settings: Settings, status: dict[str, Any], ask: Ask) -> str:
    """The barcode to use; there may be no such cartridge yet. Raises OperatorError."""
    places = {row["barcode"]: row["place"] for row in status["elements"] if row["barcode"]}
    for barcode in BARCODES:
        if barcode not in places:
            if barcode not in status["shelf"]:
                return barcode
        elif not places[barcode].startswith("drive:") and _may_be_overwritten(settings, barcode, ask):
            return barcode
    message = f"{BARCODES[0]} to {BARCODES[-1]} all hold other data; delete one: tapebay cartridge delete {BARCODES[0]}"
    raise OperatorError(Failure.REFUSED, message)


def _may_be_overwritten(settings: Settings, barcode: str, ask: Ask) -> bool:
    try:
        with Cartridge.open(settings.library.cartridges / barcode, read_only=True) as cartridge:
            if cartridge.write_protected:
                return False
            if not any(cartridge.end_of_data(number) for number in range(cartridge.partition_count)):
                return True
            alone = cartridge.partition_count == 1 and _holds_one_backup(cartridge)
    except (CartridgeError, OSError):  # whatever it is, it is not ours to overwrite
        return False
    return alone and _is_of_the_disk_as_it_is(barcode, ask)


def _holds_one_backup(cartridge: Cartridge) -> bool:
    """An archive, its index, and nothing after them."""
    cartridge.space_filemarks(FILES)
    return cartridge.at_eod


def _is_of_the_disk_as_it_is(barcode: str, ask: Ask) -> bool:
    made = [one for one in ask("backup.list") if one["cartridges"] == [barcode] and one["disks"] == [DEMO_DISK]]
    if not made or made[-1]["state"] != "done":
        return False
    return bool(ask("verify", number=made[-1]["number"], disks=True)["equal"])

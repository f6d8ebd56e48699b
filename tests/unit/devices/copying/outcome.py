"""What can be seen of a copy between a disk and a tape that has ended."""

from copy import deepcopy

from scsi_targets.devices.unit.task import Response
from tests.unit.devices.copying.support import BLOCKS, Site, copy_status
from tests.unit.devices.copying.test_failures import DESTINATION
from tests.unit.devices.tape.test_logs import parameters
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.errors import DamagedBlock, EncryptionProblem

COUNTED = [0x02, 0x03, 0x0C, 0x17, 0x1B, 0x2E, 0x31]  # log pages whose numbers do not grow with time
VOLUME_SERIAL = 0x40


def outcome(site: Site, response: Response) -> dict[str, object]:
    """Everything that can be seen of a copy that has ended."""
    cartridge = site.tape.loaded
    entries = cartridge.storage.partitions[0].segments
    entries.refresh()
    image = bytearray(BLOCKS * 512)
    site.disk.medium.read_into(image, 0)
    # How far reading is ahead of a write that fails, into the next segments too, depends on how both are done.
    at_destination = bool(response.sense and response.sense[DESTINATION])
    status = copy_status(site.disk, 3)
    return {
        "answer": (response.status, response.sense),
        "status": (status.copy_command_status, status.transfer_count),
        "segments processed": None if at_destination else status.segments_processed,
        "checksums": None if at_destination else list(site.disk.copy_manager.recent()[-1].checksums),
        "position": cartridge.position,
        "logs": {page: parameters(site.tape, page) | {VOLUME_SERIAL: b""} for page in COUNTED},
        "usage": deepcopy(cartridge.usage),
        "buffered from": site.tape.buffered_from,
        "room": cartridge.storage.partitions[0].room_bytes,
        "segments": [(e.first_object, e.objects, e.filemarks, e.data_bytes, e.used_bytes) for e in entries.entries],
        "extents": list(site.disk.medium.extents(0, BLOCKS * 512)),
        "disk": image,
        "tape": [read(cartridge, number) for number in range(cartridge.end_of_data(0))],
    }


def read(cartridge: Cartridge, number: int) -> bytes | str:
    into = bytearray(1 << 16)
    cartridge.locate_block(0, number)
    try:
        result = cartridge.read_block(into)
    except (DamagedBlock, EncryptionProblem) as error:
        return type(error).__name__
    return bytes(into[: result.length]) if result.kind.name == "BLOCK" else result.kind.name

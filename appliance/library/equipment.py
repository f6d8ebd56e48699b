"""What the robot of a library works on."""

from typing import NamedTuple

from scsi_targets.devices.changer.media_changer import MediaChanger
from scsi_targets.devices.tape.tape_drive import TapeDrive
from vlib_images.library.elements import Layout
from vlib_images.library.partition import Partition


class Equipment(NamedTuple):
    """Elements, the drives and media changers by name, and what each of these shows."""

    layout: Layout
    drives: dict[str, TapeDrive]
    changers: dict[str, MediaChanger]
    partitions: list[Partition]

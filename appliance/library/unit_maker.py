"""The logical units of a library, each made of its section of the settings."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog

from appliance.failures import OperatorError
from appliance.library import disks
from appliance.library.changes import Changes
from appliance.library.copy_journal import CopyJournal
from appliance.library.files import LibraryFiles
from appliance.settings.sections import DiskSettings, DriveSettings
from scsi_targets.devices.changer.media_changer import MediaChanger
from scsi_targets.devices.changer.robot import Robot
from scsi_targets.devices.disk.block_device import BlockDevice
from scsi_targets.devices.tape.models import drive_model
from scsi_targets.devices.tape.tape_drive import TapeDrive
from scsi_targets.devices.unit.identity import Identity
from vlib_images.disk.changes import identity_of
from vlib_images.disk.raw import DiskImage
from vlib_images.library.partition import Partition

DEVICES = "devices"  # the namespace of the state store that logical units keep theirs in
DISK_NAMES = ("TAPEBAY", "VIRTUAL DISK", "0100")  # vendor, product, revision
log = structlog.get_logger(__name__)

OpenImage = Callable[[DiskSettings, Path], DiskImage]


class UnitMaker:
    """changes: is told which images are open. journal: of the copies that units carry out."""

    def __init__(self, files: LibraryFiles, open_image: OpenImage, changes: Changes, journal: CopyJournal) -> None:
        self._files = files
        self._open_image = open_image
        self._changes = changes
        self._copy_journal = journal
        self._state = files.store.namespace(DEVICES)

    def drive(self, section: DriveSettings) -> TapeDrive:
        """Raises StateDamaged."""
        drive = TapeDrive(
            drive_model(section.model),
            self._files.serial_number(section.name, section.serial),
            store=self._state,
            state_key=section.name,
            compression=section.compression,
            compression_level=section.compression_level,
        )
        drive.copy_manager.watcher = self._copy_journal.of(section.name)
        return drive

    def changer(self, partition: Partition, robot: Robot, *, watching: bool = True) -> MediaChanger:
        """watching: False for one that Library.equip() is to put to work. Raises StateDamaged."""
        return MediaChanger(partition, robot, store=self._state, state_key=partition.name, watching=watching)

    def disk(self, section: DiskSettings) -> BlockDevice:
        """Where its image cannot be opened the others are served all the same, and initiators find it not ready."""
        image, problem = None, None
        path = self._files.settings.image_of(section)
        identity = identity_of(path)
        try:
            disks.refuse_own_file(self._files.settings, section)
            image = self._open_image(section, path)
            self._changes.opened(section.name, image, identity)
        except (OperatorError, OSError) as error:
            problem = str(error)
            log.error("a disk is not served; mend it and start again", disk=section.name, reason=problem)
        disk = BlockDevice(
            Identity(*DISK_NAMES, self._files.serial_number(section.name, section.serial)),
            image,
            unavailable=problem,
            block_length=section.block_size,
            physical_block_length=section.physical_block_size,
            removable=section.removable,
            read_zeros=section.read_zeros,
            erase_bytes_per_second=section.erase_rate,
            store=self._state,
            state_key=section.name,
        )
        disk.copy_manager.watcher = self._copy_journal.of(section.name)
        return disk


def remembering(files: LibraryFiles) -> OpenImage:
    """Opens images as the library remembers them."""
    known = disks.KnownDisks(files.store)
    known.forget_others(disk.name for disk in files.settings.disks)
    return partial(disks.open_image, known=known)

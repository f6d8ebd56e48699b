"""Changing what a library contains while it is served.

In this order: the content is kept; drives, slots and partitions come and go; what grows, grows; disks are made; the
directory is replaced and every session sees the new whole between two of its commands (3F/0E, REPORTED LUNS DATA HAS
CHANGED; a media changer whose elements have changed also says 28/00 or 28/01 and 2A/01); units that nobody sees any
more are closed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import structlog

from appliance.failures import Failure, OperatorError
from appliance.library.effects import Situation, plan, refusal
from appliance.library.equipment import Equipment
from appliance.settings.content import Content
from appliance.settings.sections import CHANGER, DiskSettings, Section

if TYPE_CHECKING:
    from appliance.library.files import LibraryFiles
    from appliance.library.library import Library
    from appliance.settings.settings import Settings
    from scsi_targets.devices.changer.media_changer import MediaChanger
    from scsi_targets.devices.unit.device import Device
    from vlib_images.library.partition import Partition

log = structlog.get_logger(__name__)

RETIRE_SECONDS = 10.0  # for the sessions to turn away from a unit that is gone
POLL_SECONDS = 0.01


def change_contents(
    files: LibraryFiles, library: Library | None, content: Content, applied: Content | None = None
) -> None:
    """Make `content` what the library contains: at once where it is served. The caller holds files.changing. Raises
    OperatorError, OSError; then nothing has changed."""
    if library is not None:
        change(library, content, applied)
    else:
        files.contents.change(content, applied)


def change(library: Library, content: Content, applied: Content | None = None) -> None:
    """Make `content` what the library contains and serves. The caller holds
    files.changing. Raises OperatorError, OSError; then nothing has changed."""
    contents = library.files.contents
    before, after, applied_before = contents.content, contents.checked(content), contents.applied
    _refuse_loaded(library, before, after)
    _refuse_reserved(library, before, after)
    _refuse_held(library, before, after)
    _refuse_granted(library, before, after)
    fitted = library.equipment()
    gone = _equip(library, before, after, partial(contents.change, after, applied))
    try:
        for disk in _grown(before, after):
            library.grow_disk(disk.name, int(disk.size or 0))
    except BaseException:
        library.equip(fitted)
        contents.change(before, applied_before)
        raise
    gone |= _replace_disks(library, before, after)
    library.show()
    for name, unit in gone.items():
        _retire(library, name, unit)


def _refuse_loaded(library: Library, before: Content, after: Content) -> None:
    """A drive that goes, becomes another, or whose address another one takes, has to be empty."""
    for position, drive in enumerate(before.drives):
        address = library.drive_addresses().get(drive.name)
        barcode = None if address is None else library.files.inventory.element(address).barcode
        if barcode is not None and after.drives[position : position + 1] != [drive]:
            message = f"cartridge {barcode} is in {drive.name}; unload it first: tapebay unload {drive.name}"
            raise OperatorError(Failure.REFUSED, message)


def _refuse_reserved(library: Library, before: Content, after: Content) -> None:
    """What an initiator has reserved neither goes nor becomes another device under it."""
    disks = {disk.name: disk for disk in after.disks}
    going = [disk.name for disk in before.disks if disk.name not in disks or not _stays(disk, disks[disk.name])]
    going += [drive.name for drive in before.drives if drive not in after.drives]
    shown = _shown(after)
    going += [name for name, what in _shown(before).items() if shown.get(name) != what]
    owners = _owners(after)
    going += [name for name, partition in _owners(before).items() if owners.get(name) != partition]
    for name in going:
        unit = library.units.get(name)
        if unit is not None and (holder := unit.reservations.held_by()) is not None:
            message = f"{name} is in use: {holder}; end that there, or: tapebay reservation break {name}"
            raise OperatorError(Failure.REFUSED, message)
        if unit is not None and unit.lent_to is not None:
            message = f"{name} is granted to {unit.lent_to.name}; end that: tapebay request revoke {unit.lent_to.name}"
            raise OperatorError(Failure.REFUSED, message)


def _refuse_held(library: Library, before: Content, after: Content) -> None:
    """A disk that goes, or whose unit is replaced, has no snapshot that somebody counts on."""
    staying = {disk.name: disk for disk in after.disks}
    going = [disk.name for disk in before.disks if disk.name not in staying or not _stays(disk, staying[disk.name])]
    for kept in library.snapshots.of_disks(going):
        message = (
            f"snapshot {kept.name} of {', '.join(kept.disks)} is {kept.state.value}; release it first: "
            f"tapebay snapshot release {kept.name}"
        )
        raise OperatorError(Failure.REFUSED, message)


def _refuse_granted(library: Library, before: Content, after: Content) -> None:
    """A drive that somebody has by a grant neither goes, nor into a partition, where the broker could not free it."""
    owned, taken = _owners(before), _owners(after)
    going = {drive.name for drive in before.drives if drive not in after.drives}
    going |= {name for name, partition in taken.items() if owned.get(name) != partition}
    requests = library.broker.requests.all() if library.broker is not None else []
    for request in requests:
        for unit in request.units if request.state.holds else ():
            if unit.device in going:
                message = f"{unit.device} is granted; wait, or: tapebay request revoke {request.name}"
                raise OperatorError(Failure.REFUSED, message)


def _shown(content: Content) -> dict[str, Section]:
    """The media changers, and what each is made of, but for the barcode rule."""
    partitions: dict[str, Section] = {
        each.name: each.model_copy(update={"barcodes": "*"}) for each in content.partitions
    }
    return partitions or {CHANGER: content.changer}


def _owners(content: Content) -> dict[str, str]:
    """The partition of each drive that is in one."""
    return {drive: partition.name for partition in content.partitions for drive in partition.drives}


def _grown(before: Content, after: Content) -> list[DiskSettings]:
    """Disks of which nothing changed but that they are larger: their units stay."""
    was = {disk.name: disk for disk in before.disks}
    return [
        disk
        for disk in after.disks
        if disk.name in was and _stays(was[disk.name], disk) and disk.size != was[disk.name].size
    ]


def _stays(was: DiskSettings, disk: DiskSettings) -> bool:
    """Whether a disk's unit can go on: at most its LUN has changed, or it has grown."""
    if was is disk:
        return True
    same = was.model_copy(update={"size": disk.size, "lun": disk.lun}) == disk
    return same and (disk.size == was.size or (disk.size is not None and disk.size >= (was.size or 0)))


def _equip(library: Library, before: Content, after: Content, keep: Callable[[], None]) -> dict[str, Device]:
    """Drives, slots and import/export elements come and go, and partitions are cut anew, once the content is kept. The
    units that are gone."""
    if (before.drives, before.changer, before.partitions) == (after.drives, after.changer, after.partitions):
        keep()
        return {}
    settings = library.files.contents.settings_with(after)
    drives = {
        drive.name: library.drives[drive.name] if drive in before.drives else library.maker.drive(drive)
        for drive in after.drives
    }
    partitions = library.files.partitions(settings)
    changers = {partition.name: _changer(library, partition) for partition in partitions}
    there: dict[str, Device] = {**library.changers, **library.drives}
    wanted: dict[str, Device] = {**changers, **drives}
    try:
        equipment = Equipment(settings.layout(), drives, changers, partitions)
        library.equip(equipment, partial(_keep, library, settings, keep))
    except BaseException:
        for name, unit in wanted.items():
            if there.get(name) is not unit:
                library.retire(name, unit, close=True)
        raise
    return {name: unit for name, unit in there.items() if wanted.get(name) is not unit}


def _changer(library: Library, partition: Partition) -> MediaChanger:
    """The media changer of a partition; another unit where the one of that name is another library's model or serial
    number, which are a logical unit's for its life."""
    there = library.changers.get(partition.name)
    wanted = partition.model, partition.serial_number
    if there is not None and (there.partition.model, there.partition.serial_number) == wanted:
        return there
    return library.maker.changer(partition, library.robot, watching=False)


def _keep(library: Library, settings: Settings, keep: Callable[[], None]) -> None:
    """When nothing moves any more: unless a cartridge came meanwhile that would lose its place or partition."""
    orphans = plan(library.settings, settings, Situation(cartridges=library.files.inventory.places())).orphans
    if orphans:
        raise OperatorError(Failure.REFUSED, refusal(orphans))
    keep()


def _replace_disks(library: Library, before: Content, after: Content) -> dict[str, Device]:
    """New units for disks that are new or are others now. The old ones, which nobody uses from the next view on."""
    was = {disk.name: disk for disk in before.disks}
    wanted = {disk.name: disk for disk in after.disks}
    gone = [name for name, disk in was.items() if name not in wanted or not _stays(disk, wanted[name])]
    old: dict[str, Device] = {name: unit for name, unit in library.units.items() if name in gone}
    kept: dict[str, Device] = {**library.changers, **library.drives}
    kept |= {name: unit for name, unit in library.disks().items() if name not in old}
    library.units = kept
    again = [name for name in old if name in wanted]
    if again:  # their images are opened anew, so nobody may use them any more
        library.show()
        for name in again:
            _retire(library, name, old.pop(name))
    new = {name: library.maker.disk(disk) for name, disk in wanted.items() if name not in kept}
    library.units = {**kept, **new}
    return old


def _retire(library: Library, name: str, unit: Device) -> None:
    """Close a unit when no session uses it any more. One that is not let go of is closed when the daemon ends: closing
    it under a command could hand its file's descriptor to another file."""
    deadline = time.monotonic() + RETIRE_SECONDS
    while unit.nexuses and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    if unit.nexuses:
        log.warning("a session still uses a unit that is gone; it is closed when the daemon ends", unit=name)
    library.retire(name, unit, close=not unit.nexuses)

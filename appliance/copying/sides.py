"""From an end as it was written to what takes part in a copy: a unit of this library, a unit that an operator has
added, or a file; a tape put to its position, and what is there to copy."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.copying.ends import End, EndKind, TapePosition, Where
from appliance.copying.file_unit import BLOCK_BYTES, FileUnit
from appliance.copying.lists import ByteRun
from appliance.failures import Failure, OperatorError
from appliance.library.disks import is_database, is_own_file, same_file
from appliance.settings.remote_address import parse_remote_address
from scsi_targets.client.disk import Disk
from scsi_targets.client.tape import END_OF_DATA, FILEMARKS, Tape
from scsi_targets.client.unit import NAA
from scsi_targets.devices.changer.robot import Manner
from scsi_targets.devices.copying.access import Designator
from scsi_targets.devices.disk.block_device import BlockDevice
from scsi_targets.devices.tape.tape_drive import TapeDrive
from scsi_targets.t10 import vpd
from scsi_targets.t10.copy_descriptors import IdentificationDescriptor, identification_descriptor
from vlib_images.library.elements import ElementType

if TYPE_CHECKING:
    from appliance.library.library import Library
    from appliance.library.remotes import Remote
    from scsi_targets.client.unit import AnySession

BINARY = 1  # CODE SET of a designator
DESIGNATOR_BYTES = IdentificationDescriptor.designator.length


@dataclass(slots=True)
class CopySide:
    """One end of a copy. unit: of this library; elsewhere: a remote unit or a file. Exactly one of them is there."""

    end: End
    is_tape: bool
    cscd: bytes
    unit: BlockDevice | TapeDrive | None = None
    remote: Remote | None = None
    file: FileUnit | None = None

    @property
    def elsewhere(self) -> object | None:
        """What the view of a copy has beside logical units."""
        return self.file or (self.remote.reached() if self.remote is not None else None)

    @property
    def names(self) -> frozenset[Designator]:
        """What the logical unit is known by, here and elsewhere; a file has no such name."""
        if self.unit is not None:
            return frozenset({Designator(BINARY, NAA, self.unit.identity.naa)})
        return self.remote.reached().description.designators if self.remote is not None else frozenset()


@contextmanager
def taking_part(library: Library, end: End, *, writes: bool) -> Iterator[CopySide]:
    """Files are open and cartridges in a drive while the block runs. Raises OperatorError."""
    with ExitStack() as stack:
        yield _OPENERS[end.kind](library, end, writes, stack)


def _disk(library: Library, end: End, _writes: bool, _stack: ExitStack) -> CopySide:
    unit = library.units.get(end.name)
    if not isinstance(unit, BlockDevice):
        raise OperatorError(Failure.NOT_FOUND, f"there is no disk {end.name}; see: tapebay disk list")
    return _local(end, unit)


def _drive(library: Library, end: End, _writes: bool, _stack: ExitStack) -> CopySide:
    names = list(library.drives)
    name = names[int(end.name)] if end.name.isdecimal() and int(end.name) < len(names) else end.name
    if name not in library.drives:
        raise OperatorError(Failure.NOT_FOUND, f"there is no drive {end.name}; there are {', '.join(names) or 'none'}")
    return _local(end, library.drives[name])


def _cartridge(library: Library, end: End, _writes: bool, stack: ExitStack) -> CopySide:
    """In the drive that it is in; else in a free one, and back where it was afterwards."""
    inventory = library.files.inventory
    element = inventory.find(end.name)
    if element is None:
        message = f"cartridge {end.name} is on the shelf; first: tapebay move {end.name} slot:1"
        raise OperatorError(Failure.REFUSED, message)
    address = element.address
    if element.type is not ElementType.DRIVE:
        address = _load(library, end.name, element.address, stack)
    drives = {at: name for name, at in library.drive_addresses().items()}
    return _local(end, library.drives[drives[address]])


def _load(library: Library, barcode: str, home: int, stack: ExitStack) -> int:
    elements = library.files.inventory.elements(ElementType.DRIVE)
    reached = (element for element in elements if library.robot.together(home, element.address))
    free = next((element.address for element in reached if element.barcode is None), None)
    if free is None:
        raise OperatorError(Failure.REFUSED, f"no drive is free for cartridge {barcode}; tapebay unload one")
    library.robot.move(home, free, manner=Manner.OPERATOR)
    name = next(name for name, at in library.drive_addresses().items() if at == free)
    stack.callback(_put_back, library, library.drives[name], free, home)
    return free


def _put_back(library: Library, drive: TapeDrive, address: int, home: int) -> None:
    """What the copy left unwritten to stable storage the robot makes durable."""
    library.robot.move(address, home, manner=Manner.HOST)


def _local(end: End, unit: BlockDevice | TapeDrive) -> CopySide:
    cscd = identification_descriptor(unit.identity.naa, device_type=unit.device_type, pad=False)
    return CopySide(end, isinstance(unit, TapeDrive), cscd, unit=unit)


def _remote(library: Library, end: End, _writes: bool, _stack: ExitStack) -> CopySide:
    return _elsewhere(end, library.remotes.named(end.name))


def _iscsi(library: Library, end: End, _writes: bool, _stack: ExitStack) -> CopySide:
    """Nothing is connected to that was not added: credentials and who may use it were said then."""
    wanted = parse_remote_address(end.name)
    for remote in library.remotes:
        if str(remote.address) == str(wanted):
            return _elsewhere(end, remote)
    raise OperatorError(Failure.NOT_FOUND, f"{wanted} was not added; first: tapebay remote add NAME {wanted}")


def _elsewhere(end: End, remote: Remote) -> CopySide:
    description = remote.reached().description
    fitting = [found for found in description.designators if len(found.name) <= DESIGNATOR_BYTES]
    if not fitting:
        message = f"{remote.name} has no designator of at most {DESIGNATOR_BYTES} bytes, by which a copy could name it"
        raise OperatorError(Failure.REFUSED, message)
    name = min(fitting, key=lambda found: (found.designator_type != 3, found))
    cscd = identification_descriptor(
        name.name, device_type=description.device_type, designator_type=name.designator_type, code_set=name.code_set
    )
    return CopySide(end, description.device_type == vpd.SEQUENTIAL_ACCESS, cscd, remote=remote)


def _file(library: Library, end: End, writes: bool, stack: ExitStack) -> CopySide:
    """A destination is made, or emptied."""
    path = Path(end.name)
    if path.exists() and not path.is_file():  # opening a pipe would wait, and some devices act on it
        raise OperatorError(Failure.REFUSED, f"{path} is no regular file")
    flags = os.O_CLOEXEC | os.O_NONBLOCK | (os.O_RDWR | os.O_CREAT if writes else os.O_RDONLY)
    if writes:
        _refuse_own(library, path)
    elif is_database(library.settings, path):
        raise OperatorError(Failure.REFUSED, f"{path} is the library's own, and in use; copy a copy of it")
    descriptor = os.open(path, flags, 0o640)
    stack.callback(os.close, descriptor)
    if writes:
        _refuse_served(path, descriptor)
    name = b"file to write" if writes else b"file to read"
    cscd = identification_descriptor(
        name, device_type=vpd.DIRECT_ACCESS, designator_type=0, code_set=2, block_length=BLOCK_BYTES
    )
    return CopySide(end, False, cscd, file=FileUnit(path, descriptor, name))


def _refuse_own(library: Library, path: Path) -> None:
    """Nothing is written over what the library itself keeps, nor over its disks behind their back."""
    settings = library.settings
    if is_own_file(settings, path.resolve()):
        raise OperatorError(Failure.REFUSED, f"{path} is the library's own; write to another file")
    for disk in settings.disks:
        if same_file(settings.image_of(disk), path):
            message = f"{path} is the image of disk {disk.name}; to write to that: disk:{disk.name}"
            raise OperatorError(Failure.REFUSED, message)


def _refuse_served(path: Path, descriptor: int) -> None:
    """Whoever serves an image holds this lock on it, whatever the name that it was opened by."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        message = f"{path} is in use, as a disk's image; write to another file"
        raise OperatorError(Failure.IN_USE, message) from None


_OPENERS: Mapping[EndKind, Callable[[Library, End, bool, ExitStack], CopySide]] = {
    EndKind.DISK: _disk,
    EndKind.DRIVE: _drive,
    EndKind.CARTRIDGE: _cartridge,
    EndKind.REMOTE: _remote,
    EndKind.ISCSI: _iscsi,
    EndKind.FILE: _file,
}


# ---- what is there -------------------------------------------------------------------------------------------------


@contextmanager
def talking_to(side: CopySide, session: AnySession, lun: int) -> Iterator[tuple[AnySession, int]]:
    """A session and a number to send commands to a side by; one elsewhere is logged in to for it."""
    if side.remote is None:
        yield session, lun
        return
    address = side.remote.address
    with address.log_in() as there:
        yield there, address.lun


def runs_of(side: CopySide, session: AnySession, lun: int) -> tuple[tuple[ByteRun, ...], int]:
    """The bytes of a disk or file that are meant, and what its addresses count in. Raises ValueError, OperatorError."""
    if side.file is not None:
        return (ByteRun(0, os.fstat(side.file.descriptor).st_size),), BLOCK_BYTES
    with talking_to(side, session, lun) as (there, number):
        capacity = Disk(there, number).capacity
    sector = capacity.block_length
    extents = side.end.extents()
    if not extents:
        return (ByteRun(0, capacity.size_bytes),), sector
    for extent in extents:
        if extent.address + extent.blocks > capacity.blocks:
            wanted = f"{extent.address}+{extent.blocks}"
            message = f"{side.end}: {wanted} ends after the disk, which has {capacity.blocks} blocks"
            raise OperatorError(Failure.REFUSED, message)
    return tuple(ByteRun(extent.address * sector, extent.blocks * sector) for extent in extents), sector


def put(tape: Tape, position: TapePosition) -> None:
    """To where an end says."""
    if position.where is Where.HERE:
        return
    if position.where is Where.BLOCK:
        tape.locate(position.number)
        return
    tape.rewind()
    if position.where is Where.END:
        tape.space(END_OF_DATA)
    elif position.number:
        tape.space(FILEMARKS, position.number)

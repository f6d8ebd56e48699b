"""A library that is served: from settings and files to logical units, targets and the iSCSI server."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import structlog

from appliance.access.directory import CurrentDirectory, Directory
from appliance.access.gate import Gate, GatedDirectory
from appliance.access.keys import ALL_DRIVES, group_number
from appliance.backup.lists import FileLists
from appliance.backup.service import BackupService
from appliance.broker.broker import Broker
from appliance.broker.key_store import working_keys
from appliance.broker.keyring import Keyring
from appliance.broker.requests import Requests
from appliance.failures import Failure, OperatorError
from appliance.library import disks
from appliance.library.cartridges import is_blank
from appliance.library.changes import Changes
from appliance.library.copy_journal import CopyJournal
from appliance.library.equipment import Equipment
from appliance.library.files import LibraryFiles
from appliance.library.offers import Offers
from appliance.library.remotes import Remotes
from appliance.library.snapshots.keeper import NoSuchSnapshot, Snapshots
from appliance.library.snapshots.kept_set import KeptSet
from appliance.library.snapshots.states import Terms
from appliance.library.unit_maker import OpenImage, UnitMaker, remembering
from appliance.settings.settings import Settings
from appliance.settings.units import HostAndPort
from scsi_targets.devices.changer.robot import Robot
from scsi_targets.devices.disk.block_device import BlockDevice
from scsi_targets.devices.tape.base import Loadable
from scsi_targets.devices.tape.tape_drive import TapeDrive
from scsi_targets.devices.unit.device import Device
from scsi_targets.iscsi.limits import Limits
from scsi_targets.iscsi.server import Server
from scsi_targets.t10.sense import CheckCondition
from vlib_images.errors import CartridgeError
from vlib_images.library.database.events import Event
from vlib_images.library.inventory import Inventory
from vlib_images.library.state import StateDamaged

log = structlog.get_logger(__name__)

MOST_BACKUP_SECONDS = 7 * 86400.0
CATALOGUES = "catalogues"  # the folder of the backups' catalogues, in the library's state
LISTS = "lists"  # that of the lists of files that agents send


def limits_of(settings: Settings) -> Limits:
    """iSCSI's limits for the [limits] section."""
    section = settings.limits
    return Limits(
        sessions=section.sessions,
        pool_bytes=section.buffer_memory,
        buffer_budget_bytes=section.connection_memory,
        command_window=section.command_window,
        login_timeout_seconds=section.login_seconds,
        send_timeout_seconds=section.send_seconds,
        failed_logins=section.failed_logins,
        failed_login_seconds=section.failed_login_seconds,
    )


class Library:
    """The logical units and targets of one library, and their server. open() it, start(), stop(), close()."""

    def __init__(self, files: LibraryFiles, open_image: OpenImage) -> None:
        settings = files.settings
        self.files = files
        self.opened_at = time.time()
        self.bound: list[str] = []
        self._stopping = threading.Event()
        self._retired: list[tuple[str, Device]] = []
        self.changes = Changes(settings.library.state)
        self._copy_journal = CopyJournal(files.settings.library.state)
        self.maker = UnitMaker(files, open_image, self.changes, self._copy_journal)
        self.drives = {section.name: self.maker.drive(section) for section in settings.drives}
        self.robot = self._make_robot()
        self.changers = {each.name: self.maker.changer(each, self.robot) for each in files.partitions()}
        self.units: dict[str, Device] = {**self.changers, **self.drives}
        self.units |= {section.name: self.maker.disk(section) for section in settings.disks}
        self._tell_interrupted()
        self.remotes = Remotes(files.store, settings)
        self.directory = CurrentDirectory(Directory(settings, self.units, self.remotes))
        self.offers = Offers(files.store)
        self.gate = self._make_gate()
        self._show_gate()
        entrance = self.directory if self.gate is None else GatedDirectory(self.directory, self.gate)
        self.server = Server(entrance, self.directory.all_portals, limits_of(settings))
        self.snapshots = Snapshots(
            self.disks,
            settings.snapshots.directory,
            files.store,
            budget_bytes=settings.snapshots.budget,
            changes=self.changes,
            offer=self.offer,
            withdraw=self.withdraw,
            record=self._record,
            looked=lambda: self.file_lists.forget_those_over(),
        )
        self.file_lists = FileLists(settings.library.state / LISTS, self._is_over)
        self.broker = self._make_broker()
        self.keyring = self._make_keyring()
        self.backups = BackupService(self, files.database, settings.library.state / CATALOGUES)

    @property
    def settings(self) -> Settings:
        """tapebay.toml, with what the library contains now."""
        return self.files.settings

    @classmethod
    def open(cls, settings: Settings, *, apply: bool = False) -> Self:
        """apply: first carry out what changed in tapebay.toml since it was last applied. Raises OperatorError (in use,
        no library, damaged state), OSError."""
        return cls.build(LibraryFiles.open(settings, apply=apply))

    @classmethod
    def build(cls, files: LibraryFiles, open_image: OpenImage | None = None) -> Self:
        """Of open files, which it closes in the end, also when it raises as open() does."""
        try:
            return cls(files, open_image or remembering(files))
        except StateDamaged as error:
            files.close()
            raise OperatorError(Failure.REFUSED, str(error)) from error
        except BaseException:
            files.close()
            raise

    def start(self) -> list[str]:
        """Serve; returns the addresses listened on, in the order of the configured portals. Raises OperatorError."""
        try:
            self.bound = [str(HostAndPort(*address)) for address in self.server.start()]
        except OSError as error:
            portals = ", ".join(str(portal.listen) for portal in self.settings.portals)
            raise OperatorError(Failure.REFUSED, f"cannot listen on {portals}: {error.strerror}") from error
        self.snapshots.start()
        self._reach_remotes()
        if self.broker is not None:
            self.broker.start()
        return self.bound

    def advertised(self) -> list[str]:
        """The portals as initiators reach them, HOST:PORT,GROUP, in the configured order."""
        portals = zip(self.directory.all_portals, self.bound, strict=True)
        return [f"{portal.advertised or bound},{portal.portal_group_tag}" for portal, bound in portals]

    def stop(self) -> None:
        """Log every session out and close what is left of them. Grants stay: their holders come back. Backups end at
        their last checkpoints."""
        self._stopping.set()
        self.backups.stop()
        if self.broker is not None:
            self.broker.stop()
        self.server.stop()

    def close(self) -> None:
        """Flush everything and let go of it. Cartridges stay in their drives. What fails is logged."""
        self.snapshots.close()
        for name, unit in self.units.items():
            if _close(unit, name):
                self.changes.closed(name)
        for name, unit in self._retired:
            _close(unit, name)
        for name, drive in self.drives.items():
            if drive.cartridge is not None:
                _close(drive.cartridge, f"cartridge in {name}")
        self._copy_journal.close()
        self.files.close()

    def show(self) -> None:
        """Let every session see what there is now."""
        self._show_gate()
        self.remotes.show(self.settings)
        self._reach_remotes()
        self.directory.replace(self.settings, self.units, self.remotes)
        self.server.views_changed()

    def _reach_remotes(self) -> None:
        """A thread asks remote units that were never reached what they are, however long that takes."""
        if any(remote.unit is None for remote in self.remotes):
            threading.Thread(target=self._reach, name="remote units", daemon=True).start()

    def _reach(self) -> None:
        try:
            if self.remotes.reach_new(lambda: self.settings, self._stopping.is_set):
                self.look_again()
        except OSError as error:
            log.error("what remote units are could not be kept", reason=str(error))

    @property
    def name(self) -> str:
        """As it is configured."""
        return self.settings.library.name

    @property
    def inventory(self) -> Inventory:
        """Where cartridges are."""
        return self.files.inventory

    @property
    def copy_rate(self) -> int:
        """The most bytes that a copy moves in a second; 0: as fast as it can."""
        return self.settings.limits.copy_rate or 0

    def still(self, disks: Sequence[str]) -> KeptSet:
        """Disks at one instant, for a backup, which renews its lease. Raises OperatorError, OSError."""
        terms = Terms(list_seconds=None, most_seconds=MOST_BACKUP_SECONDS)
        return self.snapshots.create(disks, terms=terms, increments=True)

    def held(self, snapshot: str) -> KeptSet:
        """A snapshot that an agent holds. Raises OperatorError."""
        try:
            return self.snapshots.get(snapshot)
        except NoSuchSnapshot as error:
            raise OperatorError(Failure.NOT_FOUND, str(error)) from None

    def _is_over(self, snapshot: str) -> bool:
        try:
            return self.snapshots.get(snapshot).state.over
        except NoSuchSnapshot:
            return True

    def disks(self) -> dict[str, BlockDevice]:
        """The disks among the units."""
        return {name: unit for name, unit in self.units.items() if isinstance(unit, BlockDevice)}

    def drive_addresses(self) -> dict[str, int]:
        """The names of the drives that are served, with their element addresses."""
        return dict(zip(self.drives, self.files.inventory.layout.drives, strict=False))  # between two steps of refit()

    def gate_luns(self) -> dict[str, int]:
        """What stands behind the gate by name, with its LUN there, which stays what it is: the drives (of a library
        with partitions, those that are in none), and what is offered to grants alone."""
        settings = self.settings
        free = settings.drives_of_nobody() if settings.partitions else self.drives.keys()
        return self.offers.luns([name for name in self.drives if name in free])

    def gate_units(self) -> dict[str, Device]:
        """The same devices themselves."""
        return {**self.offers.units, **self.drives}

    def offer(self, name: str, unit: Device) -> int:
        """A device that grants show and no target or zone does (a snapshot's): from now on it can be asked for by its
        name. Its LUN behind the gate, the same after a restart. Raises OSError, ValueError: the name is taken."""
        if name in self.units:
            raise ValueError(f"there is a device {name}")
        lun = self.offers.add(name, unit)
        self._show_gate()
        return lun

    def withdraw(self, name: str) -> None:
        """What offer() began; sessions that see it lose sight of it. Whoever offered it closes it, once it has no
        nexus any more. Raises OSError."""
        self.offers.remove(name)
        self._show_gate()
        self.server.views_changed()

    def groups(self) -> dict[str, list[str]]:
        """The groups of drives that requests may name."""
        named = self.settings.gate.groups if self.settings.gate is not None else {}
        return {ALL_DRIVES: list(self.drives), **named}

    def for_grants(self, address: int) -> bool:
        """Whether an element is at the disposal of grants: in no partition, where the library is cut into such."""
        return not self.settings.partitions or self.robot.partition_of(address) is None

    def pool_of(self, barcode: str) -> str | None:
        """The pool that a cartridge is in; None: in none."""
        return self.settings.pool_of(barcode)

    def look_again(self) -> None:
        """Rights have changed: every session asks anew what it sees."""
        self.server.views_changed()

    def look_at(self, barcodes: Sequence[str], seconds: float) -> bool:
        """Find out which cartridges are blank, in so much time; whether all of them are known."""
        return self.files.cartridges.look_at(barcodes, seconds)

    def blank(self, barcode: str) -> str | None:
        """The medium of a cartridge that is known to be blank."""
        return self.files.cartridges.blank(barcode)

    def look_again_at(self, barcode: str) -> bool:
        """Whether a cartridge is blank, from its own files."""
        return is_blank(self.files.cartridges.describe(barcode, anew=True))

    def medium(self, barcode: str) -> str | None:
        """What kind of medium a cartridge is; None: it cannot be read."""
        return self.files.cartridges.medium(barcode)

    def equip(self, equipment: Equipment, keep: Callable[[], None] = lambda: None) -> None:
        """Other slots, import/export elements, drives and media changers from now on. keep: makes it durable, before
        any initiator is told. Raises what it raises; InventoryError, RobotError when a cartridge would lose its element
        or its drive; then nothing has changed."""
        layout, drives, changers, partitions = equipment
        at = dict(zip(layout.drives, drives.values(), strict=True))
        self.robot.refit(layout, at, [(changers[partition.name], partition) for partition in partitions], keep)
        self.drives, self.changers = drives, changers

    def equipment(self) -> Equipment:
        """What there is now."""
        partitions = [changer.partition for changer in self.changers.values()]
        return Equipment(self.files.inventory.layout, self.drives, self.changers, partitions)

    def retire(self, name: str, unit: Device, *, close: bool) -> None:
        """A unit that the library no longer has: closed now, or with the library."""
        self.changes.forget(name)
        if close:
            _close(unit, name)
        else:
            self._retired.append((name, unit))

    def grow_disk(self, name: str, size_bytes: int) -> None:
        """Lengthen the image of a served disk and remember it; initiators are told that its capacity has changed. A
        disk that is not served yet grows when it is. Raises OperatorError REFUSED, OSError."""
        disk = self.units.get(name)
        if not isinstance(disk, BlockDevice):
            return
        try:
            disk.grow(size_bytes)
        except (ValueError, CheckCondition) as error:
            raise OperatorError(Failure.REFUSED, f"disk {name} cannot grow now: {error}") from error
        disks.KnownDisks(self.files.store).remember(name, Path(disk.medium.name), size_bytes)

    def _make_gate(self) -> Gate | None:
        if self.settings.gate is None:
            return None
        keys = working_keys(self.files.store, self.files.database.path)
        settings, rate = self.settings.gate, self.settings.limits.copy_rate or 0
        numbers = {group_number(name): name for name in self.groups()}
        if len(numbers) < len(self.groups()):
            one = next(name for name in self.groups() if numbers[group_number(name)] != name)
            message = f"[gate.groups]: {one} and {numbers[group_number(one)]} cannot be told apart in keys; rename one"
            raise OperatorError(Failure.CONFIGURATION, message)
        portals, seconds = self.directory.all_portals, settings.key_seconds
        return Gate(settings.target, portals, keys, key_seconds=seconds, copy_bytes_per_second=rate)

    def _make_broker(self) -> Broker | None:
        if self.gate is None or self.settings.gate is None:
            return None
        requests, outage_seconds = Requests(self.files.database), self.settings.gate.broker_outage_seconds
        return Broker(self, self.files.inventory, requests, self.gate, outage_seconds=outage_seconds)

    def _make_keyring(self) -> Keyring | None:
        if self.gate is None or self.broker is None:
            return None
        return Keyring(self.files.store, self.gate, self.broker, self.look_again)

    def _show_gate(self) -> None:
        if self.gate is not None:
            units, luns = self.gate_units(), self.gate_luns()
            groups = {
                group_number(group): [luns[name] for name in names if name in luns]
                for group, names in self.groups().items()
            }
            self.gate.show({lun: units[name] for name, lun in luns.items() if name in units}, groups)

    def _make_robot(self) -> Robot:
        addresses = self.files.inventory.layout.drives
        drives = dict(zip(addresses, self.drives.values(), strict=True))
        return Robot(self.files.inventory, drives, self.files.cartridges.open)

    def _record(self, action: str, subject: str, details: dict[str, object]) -> None:
        """Something that happened, into the audit record. Raises OSError."""
        with self.files.database.change(Event(action, subject, details)):
            pass

    def _tell_interrupted(self) -> None:
        """Copies that the last process did not live to end are among the recent ones of their device."""
        for name, record in self._copy_journal.interrupted:
            if isinstance(unit := self.units.get(name), BlockDevice | TapeDrive):
                unit.copy_manager.remember(record)


def _close(closing: Device | Loadable, name: str) -> bool:
    """Whether all of it was."""
    try:
        closing.close()
        return True
    except (CartridgeError, OSError) as error:
        log.error("closing failed; what was not synchronized may be lost", what=name, reason=str(error))
        return False

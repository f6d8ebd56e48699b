"""A library of two partitions, two drives and two disks, three principals, and their sessions, without a network."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self
from unittest.mock import patch
from uuid import UUID

from appliance.access.directory import Directory
from appliance.settings import config_file
from appliance.settings.sections import ZoneSettings
from appliance.settings.settings import Settings
from scsi_targets.devices.changer.media_changer import MediaChanger
from scsi_targets.devices.changer.models import MODELS
from scsi_targets.devices.changer.robot import Robot
from scsi_targets.devices.disk.block_device import BlockDevice
from scsi_targets.devices.tape.models import drive_model
from scsi_targets.devices.tape.tape_drive import TapeDrive
from scsi_targets.devices.unit.device import Device
from scsi_targets.devices.unit.identity import Identity
from scsi_targets.devices.unit.principal import Principal
from scsi_targets.devices.unit.state_store import MemoryStore
from scsi_targets.devices.unit.task import Nexus, Response, Task
from scsi_targets.devices.unit.view import View
from scsi_targets.iscsi.directory import Portal, Who
from scsi_targets.iscsi.pdu import TaskFunction, TaskManagementRequest
from scsi_targets.iscsi.task_management import TaskManager
from tests.support.database import new_database
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.medium import MEDIA
from vlib_images.cartridge.memory_files import MemoryFiles
from vlib_images.disk.memory import MemoryImage
from vlib_images.library.elements import Layout
from vlib_images.library.inventory import Inventory

IQN = "iqn.2026-11.io.tapebay:library"
PORTAL = Portal("127.0.0.1", 3260)
ALICE, BOB, CAROL = NAMES = [f"iqn.1993-08.org.debian:{name}" for name in ("alice", "bob", "carol")]
# Each principal, with the initiator name that it comes with. Carol has an account: her name alone is nothing.
PRINCIPALS = {Principal.initiator(ALICE): ALICE, Principal.initiator(BOB): BOB, Principal.account("payroll"): CAROL}
LUNS = {0: "left", 1: "right", 2: "drive0", 3: "drive1", 5: "a", 300: "b"}
DEVICES = tuple(LUNS.values())
DISKS, DRIVES, CHANGERS = ("a", "b"), ("drive0", "drive1"), ("left", "right")
# Zones know devices by their names only, so that the names of disks serve for all.
SETTINGS = config_file.parse(
    Path("tapebay.toml"),
    f"""
[[portals]]
listen = "127.0.0.1:3260"
[[targets]]
iqn = "{IQN}"
luns = {{ {", ".join(f'{lun} = "{name}"' for lun, name in LUNS.items())} }}
[[chap.accounts]]
initiator = "{CAROL}"
user = "payroll"
secret = "twelve chars"
""" + "".join(f'[[disks]]\nname = "{name}"\nsize = "1 MiB"\n' for name in DEVICES),
)  # fmt: skip

LIBRARY = Layout(range(1, 2), storage=range(4096, 4106), import_export=range(16, 18), drives=range(256, 258))
LEFT, RIGHT = MODELS["IBM 3573-TL"], MODELS["HP MSL G3 Series"]
PARTITIONS = [
    LEFT.partition("left", "LIB_LEFT", transport=LIBRARY.transport, storage=range(4096, 4101),
                   import_export=range(16, 17), drives=range(256, 257)),
    RIGHT.partition("right", "LIB_RIGHT", transport=LIBRARY.transport, storage=range(4101, 4106),
                    import_export=range(17, 18), drives=range(257, 258)),
]  # fmt: skip
BARCODES = {"LEF001L6": 4096, "LEF002L6": 4097, "RIG001L6": 4101, "RIG002L6": 4102}

Zones = Sequence[tuple[set[str], bool, Sequence[str]]]  # initiator names, whether payroll is in it, devices


def zoned(zones: Zones, before: Settings = SETTINGS) -> Settings:
    """The library with those zones. One that was there before is the same object, as where one of many is changed."""
    sections = [
        ZoneSettings(name=f"z{number}", initiators=sorted(names), accounts=["payroll"] * payroll, devices=list(devices))
        for number, (names, payroll, devices) in enumerate(zones)
    ]
    there = [next((zone for zone in before.zones if zone == section), section) for section in sections]
    return SETTINGS.model_copy(update={"zones": there})


def who(principal: Principal) -> Who:
    account = principal.name if principal == Principal.account(principal.name) else None
    return Who(PRINCIPALS[principal], bytes(6), IQN, PORTAL, "192.0.2.1", account)


def nexus_of(principal: Principal) -> Nexus:
    return Nexus(PRINCIPALS[principal], bytes(6), IQN, principal=principal)


class KeptImage(MemoryImage):
    """One that outlives the unit that uses it."""

    def close(self) -> None:
        pass


class Site:
    """The library. Its stores, images and cartridges outlive power_cut()."""

    def __init__(self, folder: Path) -> None:
        self.store = MemoryStore()
        self.images = {name: KeptImage(1 << 20, name=name) for name in DISKS}
        self.inventory = Inventory(new_database(folder), LIBRARY)
        self.cartridges = {barcode: MemoryFiles(barcode) for barcode in BARCODES}
        for barcode, address in BARCODES.items():
            with patch("uuid.uuid4", return_value=UUID(int=address)):
                Cartridge.create(self.cartridges[barcode], barcode=barcode, medium=MEDIA["LTO-6"]).close()
            self.inventory.add(barcode, address)
        self._make_units()
        self.settings = SETTINGS
        self.directory = Directory(SETTINGS, self.units)

    def _make_units(self) -> None:
        drives = [
            TapeDrive(drive_model("IBM ULT3580-TD6"), f"10WT00000{number}", store=self.store, state_key=name)
            for number, name in enumerate(DRIVES)
        ]
        self.robot = Robot(self.inventory, dict(zip(LIBRARY.drives, drives, strict=True)), self._open)
        changers = [
            MediaChanger(partition, self.robot, store=self.store, state_key=partition.name) for partition in PARTITIONS
        ]
        disks = [
            BlockDevice(
                Identity("TAPEBAY", "DISK", "1", f"SERIAL{name}"), self.images[name], store=self.store, state_key=name
            )
            for name in DISKS
        ]
        self.units: dict[str, Device] = dict(zip(DEVICES, [*changers, *drives, *disks], strict=True))

    def _open(self, barcode: str) -> Cartridge:
        return Cartridge.open(self.cartridges[barcode])

    def show(self, zones: Zones) -> None:
        """Zones instead of those that were."""
        self.settings = zoned(zones, self.settings)
        self.directory = Directory(self.settings, self.units, before=self.directory)

    def power_cut(self, zones: Zones) -> None:
        """Everything that is not kept is gone; every session too."""
        self._close_units()
        self._make_units()
        self.settings = zoned(zones)
        self.directory = Directory(self.settings, self.units)

    def _close_units(self) -> None:
        loaded = [self.units[name].cartridge for name in DRIVES]  # type: ignore[attr-defined]
        for unit in self.units.values():
            unit.close()
        for cartridge in loaded:
            if cartridge is not None:
                cartridge.close()

    close = _close_units


def send(view: View, nexus: Nexus, lun: int, cdb: bytes, data: bytes | None = None) -> Response:
    """A command, to its end, whoever completes it."""
    answers: SimpleQueue[Response] = SimpleQueue()
    task = Task(nexus, lun, cdb.ljust(16, b"\0"), data_out=data, data_in_limit=1 << 16, complete=answers.put, view=view)
    response = view.execute(task)
    return response if response is not None else answers.get(timeout=60)


def told(response: Response) -> tuple[int, bytes, bytes]:
    """Status, sense data, Data-In."""
    data = b"" if response.data_in is None else bytes(memoryview(response.data_in)[: response.data_length])
    return response.status, bytes(response.sense), data


def sense_of(answer: tuple[int, bytes, bytes]) -> tuple[int, int, int] | None:
    """Key, ASC and ASCQ of fixed-format sense data."""
    status, sense, _ = answer
    return (sense[2] & 0x0F, sense[12], sense[13]) if status == 2 else None


class NoConnection:
    """Nothing waits for data: commands come one at a time."""

    def abort(self, **_which: Any) -> bool:
        return False

    def plug(self, _cmd_sn: int) -> bool:
        return False


class Holder:
    """A session, as far as task management knows it."""

    def __init__(self, view: View) -> None:
        self.view: View | None = view
        self.connection: Any = NoConnection()


Step = tuple[int, object]  # a LUN, and a TaskFunction or a CDB with its Data-Out
MEMORY = Path("/dev/shm")  # the inventory synchronizes each move


def encode_lun(lun: int) -> int:
    """The LUN field of a request, 8 bytes as a number."""
    return (lun if lun < 256 else 0x4000 | lun) << 48


class Play:
    """A library in which principals do one thing after another; time stands still. answers: what each was told."""

    def __init__(self, zones: Zones, principals: Sequence[Principal]) -> None:
        self._stack = ExitStack()
        folder = tempfile.TemporaryDirectory(prefix="sharing.", dir=MEMORY if MEMORY.is_dir() else None)
        # Times that pages tell are no news of another zone.
        for clock, now in (("time", 1_800_000_000.0), ("monotonic", 1_000.0), ("monotonic_ns", 10**12)):
            self._stack.enter_context(patch(f"time.{clock}", return_value=now))
        self.site = Site(Path(self._stack.enter_context(folder)))
        self._stack.callback(self.site.close)
        self.site.show(zones)
        self.views = {each: self.site.directory.open(who(each)) for each in principals}
        self._holders = {each: Holder(view) for each, view in self.views.items()}
        self.answers: dict[Principal, list[Any]] = {each: [] for each in principals}
        for principal, view in self.views.items():
            view.nexus_established(nexus_of(principal))
            for unit in view.units():
                while unit.take_unit_attention(nexus_of(principal)):
                    pass

    def perform(self, principal: Principal, step: Step) -> None:
        lun, what = step
        nexus = nexus_of(principal)
        if isinstance(what, TaskFunction):
            manager = TaskManager(self._holders[principal], nexus, lambda: list(self._holders.values()))
            request = TaskManagementRequest.make(function=what, lun=encode_lun(lun))
            self.answers[principal].append(manager.perform(request))
        else:
            cdb, data = what  # type: ignore[misc]
            self.answers[principal].append(told(send(self.views[principal], nexus, lun, cdb, data)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

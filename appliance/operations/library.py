"""The library as a whole: what it serves, whether it lives, its end."""

import os
import shutil
import signal
import time
from pathlib import Path

from pydantic import Field

from appliance import __version__
from appliance.operations.session import SessionStatus, sessions_of
from appliance.operations.verb import Nothing, OnLibrary, Result, Scope, verb

FULL_PERCENT = 95  # of a file system: what an operator should know before writes fail


class PortalDetails(Result):
    """Where initiators connect."""

    listen: str
    advertised: str | None
    group: int


class TargetStatus(Result):
    """What initiators log in to: LUN to device name."""

    iqn: str
    luns: dict[str, str]


TYPES = {0x00: "disk", 0x01: "tape drive", 0x08: "media changer"}  # peripheral device types (SPC-4, INQUIRY)


class DeviceStatus(Result):
    """A logical unit; `holds` is the cartridge in a drive, `problem` why a disk is not served."""

    name: str
    type: str
    model: str
    serial: str
    partition: str | None
    holds: str | None
    problem: str | None


class ElementDetails(Result):
    """A place of the robot's; `source` is the place that its cartridge came from. partition, partition_address: the
    partition of the library that has it, and by which element address that shows it."""

    place: str
    address: int
    partition: str | None
    partition_address: int | None
    barcode: str | None
    source: str | None


class Storage(Result):
    """A file system that the library writes to."""

    path: str
    holds: list[str] = Field(description="What of the library lies there: state, cartridges, disks.")
    total_bytes: int
    free_bytes: int = Field(description="What the daemon's user may still write.")
    full: bool = Field(description=f"At least {FULL_PERCENT} % are written.")


class BrokerBrief(Result):
    """Whether requests for drives are served; why: why not."""

    up: bool
    why: str


class Status(Result):
    """Everything `tapebay status` shows."""

    library: str
    version: str
    pid: int
    config: str
    uptime_seconds: float
    portals: list[PortalDetails]
    targets: list[TargetStatus]
    gate: TargetStatus | None = Field(
        description="The target that keys of grants open, which no other target or zone shows; none: there is no gate."
    )
    devices: list[DeviceStatus]
    elements: list[ElementDetails]
    shelf: list[str]
    storage: list[Storage]
    broker: BrokerBrief | None = Field(description="None: the library has no gate, and nothing is had by request.")
    sessions: list[SessionStatus]


class Health(Result):
    """Answered at all, it says that the daemon lives and serves its portals. broker: as status tells it."""

    portals: list[str]
    sessions: int
    broker: BrokerBrief | None


@verb("health", Scope.READ)
def health(context: OnLibrary, parameters: Nothing) -> Health:
    """Whether the daemon lives: it answers."""
    sessions = len(context.library.server.sessions())
    return Health(portals=context.library.bound, sessions=sessions, broker=_broker(context))


@verb("shutdown", Scope.ADMINISTER)
def shutdown(context: OnLibrary, parameters: Nothing) -> None:
    """Stop as SIGTERM does, after this has been answered."""
    os.kill(os.getpid(), signal.SIGTERM)


@verb("status", Scope.READ)
def status(context: OnLibrary, parameters: Nothing) -> Status:
    """Portals, targets, the gate, devices, cartridges, storage, sessions."""
    library = context.library
    settings = library.settings
    return Status(
        library=settings.library.name,
        version=__version__,
        pid=os.getpid(),
        config=str(context.config),
        uptime_seconds=round(time.time() - library.opened_at, 1),
        portals=[
            PortalDetails(listen=bound, advertised=portal.advertised, group=portal.portal_group_tag)
            for bound, portal in zip(library.bound, library.directory.all_portals, strict=True)
        ],
        targets=[
            TargetStatus(iqn=target.iqn, luns={str(lun): name for lun, name in settings.lun_map(target).items()})
            for target in settings.targets
        ],
        gate=_gate(context),
        devices=_devices(context),
        elements=_elements(context),
        shelf=context.files.inventory.shelf(),
        storage=_storage(context),
        broker=_broker(context),
        sessions=sessions_of(library),
    )


def _gate(context: OnLibrary) -> TargetStatus | None:
    if (gate := context.library.gate) is None:
        return None
    luns = {lun: name for name, lun in context.library.gate_luns().items()}
    return TargetStatus(iqn=gate.target_name, luns={str(lun): luns[lun] for lun in sorted(luns)})


def _broker(context: OnLibrary) -> BrokerBrief | None:
    if (broker := context.library.broker) is None:
        return None
    down = broker.down
    return BrokerBrief(up=not down, why=down)


def _devices(context: OnLibrary) -> list[DeviceStatus]:
    inventory = context.files.inventory
    holds = {name: inventory.element(address).barcode for name, address in context.drives.items()}
    return [
        DeviceStatus(
            name=name,
            type=TYPES[unit.device_type],
            model=f"{unit.identity.vendor} {unit.identity.product}",
            serial=unit.identity.serial_number,
            partition=context.library.settings.partition_of(name),
            holds=holds.get(name),
            problem=getattr(unit, "unavailable", None),
        )
        for name, unit in context.library.units.items()
    ]


def _elements(context: OnLibrary) -> list[ElementDetails]:
    from appliance.library.partitions import shown_by
    from appliance.operations.places import format_place

    elements = context.files.inventory.elements()
    places = {element.address: format_place(element) for element in elements}
    owners = shown_by(context.files.partitions()) if context.files.settings.partitions else {}
    nobody = None, None
    return [
        ElementDetails(
            place=places[element.address],
            address=element.address,
            partition=owners.get(element.address, nobody)[0],
            partition_address=owners.get(element.address, nobody)[1],
            barcode=element.barcode,
            source=None if element.source is None else places[element.source],
        )
        for element in elements
    ]


def _storage(context: OnLibrary) -> list[Storage]:
    paths = context.library.settings.library
    found: dict[int, Storage] = {}
    for name, path in (("state", paths.state), ("cartridges", paths.cartridges), ("disks", paths.disks)):
        if not path.exists():
            continue
        device = path.stat().st_dev
        if device in found:
            found[device].holds.append(name)
        else:
            found[device] = _usage(path, name)
    return list(found.values())


def _usage(path: Path, name: str) -> Storage:
    usage = shutil.disk_usage(path)
    writable = usage.used + usage.free  # without what is root's reserve
    full = not usage.free or usage.used * 100 >= writable * FULL_PERCENT
    return Storage(path=str(path), holds=[name], total_bytes=usage.total, free_bytes=usage.free, full=full)

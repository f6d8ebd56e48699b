"""The settings of one library: the sections of tapebay.toml, and what they mean together."""

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    Field,
    PrivateAttr,
    model_validator,
)

from appliance.settings.partitions import problems_with
from appliance.settings.pools import Membership, problems_with_pools
from appliance.settings.sections import (
    CHANGER,
    ApiSettings,
    ChangerSettings,
    ChapSettings,
    DiskSettings,
    DriveSettings,
    GateSettings,
    LibrarySettings,
    LimitsSettings,
    LoggingSettings,
    PartitionSettings,
    PoolSettings,
    PortalSettings,
    RemoteSettings,
    Section,
    SnapshotSettings,
    TargetSettings,
    ZoneSettings,
)
from appliance.settings.units import HostAndPort
from scsi_targets.devices.changer.models import find_model
from vlib_images.library.elements import Layout


class Settings(Section):
    """A whole tapebay.toml, or what a library makes of it."""

    library: LibrarySettings = LibrarySettings()
    portals: Annotated[list[PortalSettings], Field(min_length=1)]
    targets: Annotated[list[TargetSettings], Field(min_length=1)]
    changer: ChangerSettings = ChangerSettings()
    drives: list[DriveSettings] = []
    partitions: list[PartitionSettings] = []
    pools: list[PoolSettings] = []
    disks: list[DiskSettings] = []
    chap: ChapSettings = ChapSettings()
    zones: list[ZoneSettings] = []
    remotes: list[RemoteSettings] = []
    gate: GateSettings | None = None
    api: ApiSettings | None = None
    snapshots: SnapshotSettings = SnapshotSettings()
    limits: LimitsSettings = LimitsSettings()
    logging: LoggingSettings = LoggingSettings()

    _directory: Path = PrivateAttr(default=Path())
    _luns: dict[str, int] = PrivateAttr(default_factory=dict)

    @property
    def directory(self) -> Path:
        """Where the file lies; the images of disks are looked for from there."""
        return self._directory

    def placed(self, directory: Path, luns: Mapping[str, int] | None = None) -> "Settings":
        """The same, read in `directory`, with LUNs that devices have already in targets that name none."""
        copy = self.model_copy()
        copy._directory = directory
        copy._luns = dict(luns or {})
        return copy

    def addresses(self) -> list[HostAndPort]:
        """All that the daemon listens on: portals, the API."""
        return [portal.listen for portal in self.portals] + ([self.api.listen] if self.api else [])

    def device_names(self) -> list[str]:
        """The media changers, the drives, the disks: the order of their default LUNs."""
        return [*self.changer_names(), *(drive.name for drive in self.drives), *(disk.name for disk in self.disks)]

    def changer_names(self) -> list[str]:
        """A media changer for each partition; where there are none, that of the whole library."""
        return [partition.name for partition in self.partitions] or [CHANGER]

    def partition_of(self, device: str) -> str | None:
        """The partition that a media changer or drive is in."""
        return next((each.name for each in self.partitions if device in (each.name, *each.drives)), None)

    def pool_of(self, barcode: str) -> str | None:
        """The pool that a cartridge is in."""
        return self._membership.of(barcode)

    @cached_property
    def _membership(self) -> Membership:
        return Membership(self.pools)

    def drives_of_nobody(self) -> set[str]:
        """Where there are partitions, the drives that are in none: only operators, and grants, use them."""
        if not self.partitions:
            return set()
        taken = {name for partition in self.partitions for name in partition.drives}
        return {drive.name for drive in self.drives} - taken

    def image_of(self, disk: DiskSettings) -> Path:
        """Where a disk's image lies."""
        return self.directory / disk.image if disk.image else self.library.disks / f"{disk.name}.img"

    def lun_map(self, target: TargetSettings) -> dict[int, str]:
        """LUN to device name, as the target says; else as automatic_luns() does. Without drives of nobody."""
        hidden = self.drives_of_nobody()
        luns = target.luns if target.luns is not None else {n: name for name, n in self.automatic_luns().items()}
        return {lun: name for lun, name in luns.items() if name not in hidden}

    def automatic_luns(self) -> dict[str, int]:
        """Device name to LUN, by LUN: the media changers from 0, then the drives, then the disks.

        A disk's own `lun` comes first, then what a device has already; the others fill the free numbers in that order.
        """
        luns = {disk.name: disk.lun for disk in self.disks if disk.lun is not None}
        names, taken = self.device_names(), set(luns.values())
        known = set(names)
        for name, lun in self._luns.items():
            if name in known and name not in luns and lun not in taken:
                luns[name] = lun
                taken.add(lun)
        free = (lun for lun in range(16384) if lun not in taken)
        for name in names:
            if name not in luns:
                luns[name] = next(free)
        return dict(sorted(luns.items(), key=itemgetter(1)))

    def layout(self) -> Layout:
        """The element addresses that the configured model gives its elements. Raises ValueError: too many."""
        changer = self.changer
        model = find_model(changer.model)
        return model.layout(slots=changer.slots, import_export=changer.import_export, drives=len(self.drives))

    @model_validator(mode="after")
    def _together(self) -> "Settings":
        problems = [*_repeated(self), *_luns(self), *_zones(self), *_remotes(self), *_elements(self)]
        problems += problems_with(
            self.partitions, self.changer.slots, self.changer.import_export, [drive.name for drive in self.drives]
        )
        problems += problems_with_pools(self.pools)
        if problems:
            raise ValueError("\n".join(problems))
        return self


def _repeated(settings: Settings) -> list[str]:
    devices: list[ChangerSettings | PartitionSettings | DriveSettings | DiskSettings]
    devices = [settings.changer, *settings.partitions, *settings.drives, *settings.disks]
    lists: dict[str, list[Any]] = {
        "device name": settings.device_names() + [remote.name for remote in settings.remotes],
        "target iqn": [target.iqn for target in settings.targets] + ([settings.gate.target] if settings.gate else []),
        "zone name": [zone.name for zone in settings.zones],
        "pool name": [pool.name for pool in settings.pools],
        "address": [str(listen) for listen in settings.addresses() if listen.port],
        "serial": [device.serial for device in devices if device.serial is not None],
        "LUN": [disk.lun for disk in settings.disks if disk.lun is not None],
    }
    return [
        f"{what} {value!r} is given {count} times; each must be different"
        for what, values in lists.items()
        for value, count in sorted(Counter(values).items())
        if count > 1
    ]


def _elements(settings: Settings) -> list[str]:
    """What the model's element addresses have no room for."""
    try:
        settings.layout()
    except ValueError as error:
        return [f"changer: {error}"]
    return []


def _luns(settings: Settings) -> list[str]:
    known = set(settings.device_names())
    problems = []
    for target in settings.targets:
        names = list((target.luns or {}).values())
        problems += [f"target {target.iqn}: {_no_device(settings, name)}" for name in names if name not in known]
        if len(names) != len(set(names)):
            problems.append(f"target {target.iqn}: a device has two LUNs; give each device one")
    return problems


def _no_device(settings: Settings, name: str) -> str:
    known = ", ".join(sorted(settings.device_names()))
    if name == CHANGER:
        return f"a library with partitions has no {CHANGER!r} of the whole, but one of each; it has {known}"
    return f"there is no device {name!r}; the library has {known}"


def _remotes(settings: Settings) -> list[str]:
    """Whose sessions may copy them."""
    known = [target.iqn for target in settings.targets]
    problems = [
        f"remote {remote.name}: this library has no target {remote.target}"
        for remote in settings.remotes
        if remote.target is not None and remote.target not in known
    ]
    if len(known) > 1:
        problems += [
            f"remote {remote.name}: say whose sessions may copy it: target = {' or '.join(known)}"
            for remote in settings.remotes
            if remote.target is None
        ]
    return problems


def _zones(settings: Settings) -> list[str]:
    known, users = set(settings.device_names()), {account.user for account in settings.chap.accounts}
    problems = []
    for zone in settings.zones:
        problems += [
            f"zone {zone.name}: {_no_device(settings, name)}" for name in zone.device_names() if name not in known
        ]
        problems += [
            f"zone {zone.name}: there is no account {user!r}; make it first, or take it out of the zone"
            for user in zone.accounts
            if user not in users
        ]
        if len(zone.luns) != len(set(zone.luns.values())):
            problems.append(f"zone {zone.name}: a device has two LUNs; give each device one")
    return problems

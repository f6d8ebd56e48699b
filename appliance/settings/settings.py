"""The settings of one library, as tapebay.toml gives them: what each may be, and what they mean together.

docs/configuration.md explains them to operators; appliance/template.py writes the annotated file.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FieldSerializationInfo,
    PlainSerializer,
    PrivateAttr,
    SecretStr,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from appliance.settings import CONTROL_SOCKET, secrets
from appliance.settings.numbers import parse_numbers
from appliance.settings.partitions import problems_with
from appliance.settings.pools import Membership, problems_with_pools
from appliance.settings.remote_address import parse_remote_address
from appliance.settings.units import HostAndPort, parse_address, parse_size
from scsi_targets.devices.changer.models import MAXIMUM_ELEMENTS, find_model
from scsi_targets.devices.tape.models import drive_model
from vlib_images.library.elements import BARCODE, Layout

ISCSI_NAME = re.compile(r"(iqn\.\d{4}-\d{2}\.[a-z0-9.-]+(:[^\s]+)?|eui\.[0-9a-f]{16}|naa\.([0-9a-f]{16}|[0-9a-f]{32}))")
DEVICE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
SERIAL = re.compile(r"[A-Z0-9]{6,32}")
# Logical libraries of a partitioned Scalar have serial numbers like 273001234_LLA.
LIBRARY_SERIAL = re.compile(r"[A-Z0-9][A-Z0-9_]{4,30}[A-Z0-9]")

CHANGER = "changer"
COPY_MANAGER = "iqn.2026-11.io.tapebay:copy-manager"  # who we are to other targets
SECRET_PLACES = ("_file", "_environment", "_command")  # of a secret that does not stand in tapebay.toml


def _address(value: object) -> object:
    return parse_address(value) if isinstance(value, str) else value


def _listen(value: HostAndPort) -> HostAndPort:
    try:
        ipaddress.ip_address(value.host.partition("%")[0])
    except ValueError:
        raise ValueError(f"{value.host!r} is not an IP address; listen on an address of this machine") from None
    return value


def _changer_model(value: str) -> str:
    try:
        find_model(value)
    except KeyError as error:
        raise ValueError(error.args[0]) from None
    return value


def _drive_model(value: str) -> str:
    drive_model(value)
    return value


def _size(value: object) -> object:
    return parse_size(value) if isinstance(value, str | int) and not isinstance(value, bool) else value


def iscsi_name(value: str) -> str:
    """RFC 7143 4.2.7: at most 223 bytes, iqn., eui. or naa. form. Capitals mean the same and are folded, as in what
    an initiator sends (RFC 3722: names are compared in lower case)."""
    value = value.lower()
    if len(value.encode()) > 223 or not ISCSI_NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not an iSCSI name; write for example iqn.2026-11.io.tapebay:library")
    return value


def _device_name(value: str) -> str:
    if not DEVICE_NAME.fullmatch(value):
        raise ValueError(
            f"{value!r} is not a device name: a lower-case letter, then letters, digits, '-' or '_', 32 at most"
        )
    return value


def _serial(value: str) -> str:
    if not SERIAL.fullmatch(value):
        raise ValueError(f"{value!r} is not a serial number: 6 to 32 upper-case letters and digits")
    return value


def _library_serial(value: str) -> str:
    if not LIBRARY_SERIAL.fullmatch(value):
        raise ValueError(
            f"{value!r} is not a library's serial number: 6 to 32 upper-case letters, digits and '_', "
            "a letter or digit first and last"
        )
    return value


def _initiator_pattern(value: str) -> str:
    """An iSCSI name, or a pattern of such names."""
    if "*" not in value and "?" not in value:
        return iscsi_name(value)
    if not re.fullmatch(r"[a-z0-9*?.:_-]+", value.lower()):
        raise ValueError(f"{value!r} is no pattern of iSCSI names; write for example iqn.1993-08.org.debian:*")
    return value.lower()


def _remote_address(value: str) -> str:
    return str(parse_remote_address(value))


def _network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value, strict=False))
    except ValueError:
        raise ValueError(
            f"{value!r} is no network; write for example 192.0.2.0/24, 2001:db8::/64 or an address"
        ) from None


def _numbers(value: str) -> str:
    parse_numbers(value)
    return value


def _barcodes(value: str) -> str:
    """Patterns of barcodes between commas."""
    patterns = [pattern.strip() for pattern in value.split(",")]
    if not all(re.fullmatch(r"[A-Z0-9*?_-]+", pattern) for pattern in patterns):
        raise ValueError(f"{value!r} are no patterns of barcodes; write for example A* or PAY???L6,CLN*")
    return ",".join(patterns)


def _pool_barcodes(value: str) -> str:
    """The same, or nothing: a pool may only name cartridges."""
    return _barcodes(value) if value.strip() else ""


def _barcode(value: str) -> str:
    if not BARCODE.fullmatch(value):
        raise ValueError(f"{value!r} is no barcode; write for example A00001L6")
    return value


AddressSetting = Annotated[HostAndPort, BeforeValidator(_address), PlainSerializer(str)]
SizeSetting = Annotated[int, BeforeValidator(_size), Field(gt=0)]
IscsiName = Annotated[str, AfterValidator(iscsi_name)]
DeviceName = Annotated[str, AfterValidator(_device_name)]
Serial = Annotated[str, AfterValidator(_serial)]
LibrarySerial = Annotated[str, AfterValidator(_library_serial)]
Lun = Annotated[int, Field(ge=0, le=16383)]  # SAM-5 4.7.4: the peripheral and flat addressing methods
Numbers = Annotated[str, AfterValidator(_numbers)]
BarcodePatterns = Annotated[str, Field(max_length=1000), AfterValidator(_barcodes)]
PoolBarcodes = Annotated[str, Field(max_length=1000), AfterValidator(_pool_barcodes)]
CartridgeBarcode = Annotated[str, AfterValidator(_barcode)]
InitiatorPattern = Annotated[str, AfterValidator(_initiator_pattern)]
Network = Annotated[str, AfterValidator(_network)]
ChapName = Annotated[str, Field(min_length=1, max_length=255)]
ChapSecret = Annotated[SecretStr, Field(min_length=12, max_length=255)]


class Section(BaseModel):
    """What every section has in common: an unknown setting is an error, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LibrarySettings(Section):
    name: DeviceName = "tapebay"
    cartridges: Path = Path("cartridges")
    disks: Path = Path("disks")
    state: Path = Path("state")
    control_socket: Path = Path(CONTROL_SOCKET)


class PortalSettings(Section):
    listen: Annotated[AddressSetting, AfterValidator(_listen)]
    advertise: AddressSetting | None = None
    group: Annotated[int, Field(ge=0, le=65535)] = 1


class TargetSettings(Section):
    iqn: IscsiName
    initiators: list[str] = ["*"]
    luns: dict[Lun, DeviceName] | None = None


class ChangerSettings(Section):
    model: Annotated[str, AfterValidator(_changer_model)] = "IBM 3573-TL"
    serial: LibrarySerial | None = None
    slots: Annotated[int, Field(ge=1, le=MAXIMUM_ELEMENTS)] = 20
    import_export: Annotated[int, Field(ge=0, le=MAXIMUM_ELEMENTS)] = 2


class PartitionSettings(Section):
    """A part of the library that is a whole one to who sees it, with a media changer of that name.

    slots, import_export: the library's, by number ("1-20,25"), in the order of the partition's own addresses. drives:
    in the order of theirs. model: what it presents itself as; by default what the library does. barcodes: of the
    cartridges that may be in it.
    """

    name: DeviceName
    model: Annotated[str, AfterValidator(_changer_model)] | None = None
    serial: LibrarySerial | None = None
    slots: Numbers
    import_export: Numbers = ""
    drives: list[DeviceName] = []
    barcodes: BarcodePatterns = "*"

    def slot_numbers(self) -> tuple[int, ...]:
        """From 1."""
        return parse_numbers(self.slots)

    def import_export_numbers(self) -> tuple[int, ...]:
        """From 1."""
        return parse_numbers(self.import_export)

    @field_validator("name")
    @classmethod
    def _not_the_whole(cls, value: str) -> str:
        if value == CHANGER:
            raise ValueError(f"{value!r} is the media changer of a library without partitions; choose another name")
        return value


class PoolSettings(Section):
    """Cartridges that belong together: requests take blank ones out of a pool, and tokens may be for a pool.

    barcodes: patterns of those that are in it. cartridges: more of them, by name, which counts before the patterns of
    any pool.
    """

    name: DeviceName
    barcodes: PoolBarcodes = ""
    cartridges: Annotated[list[CartridgeBarcode], Field(max_length=10_000)] = []


class DriveSettings(Section):
    name: DeviceName
    model: Annotated[str, AfterValidator(_drive_model)] = "IBM ULT3580-TD6"
    serial: Serial | None = None
    compression: bool = False
    compression_level: Annotated[int, Field(ge=1, le=19)] = 1


class DiskSettings(Section):
    name: DeviceName
    block_size: Literal[512, 4096] = 512
    size: SizeSetting | None = None
    image: Path | None = None
    physical_block_size: Literal[512, 4096] | None = None
    read_only: bool = False
    removable: bool = False
    read_zeros: bool = True
    erase_rate: SizeSetting | None = None
    serial: Serial | None = None
    lun: Lun | None = None

    @field_validator("size", mode="before")
    @classmethod
    def _up_to_whole_blocks(cls, value: object, info: ValidationInfo) -> object:
        """A size like "1.5G" is no number of blocks: who writes a unit means about that much, and gets no less."""
        if not isinstance(value, str) or value.strip().isdecimal():
            return value
        block_size = info.data.get("block_size", 512)
        return -(-parse_size(value) // block_size) * block_size

    @model_validator(mode="after")
    def _whole_blocks(self) -> "DiskSettings":
        if self.size is not None and self.size % self.block_size:
            up = -(-self.size // self.block_size) * self.block_size
            raise ValueError(f"size {self.size} is not a multiple of block_size {self.block_size}; write {up}")
        if self.physical_block_size is not None and self.physical_block_size < self.block_size:
            raise ValueError(
                f"physical_block_size {self.physical_block_size} is less than block_size {self.block_size}"
            )
        return self


class ZoneSettings(Section):
    """Who sees what: principals times devices. A principal is an initiator that has nothing to show but its name, or a
    CHAP account that was proved.

    luns: the numbers of devices that have others here than in the target; such a device need not stand in `devices`.
    networks, portal_groups: from where; none: from anywhere. remotes: units of other targets that copies may reach.
    """

    name: DeviceName
    initiators: list[InitiatorPattern] = []
    accounts: list[ChapName] = []
    devices: list[DeviceName] = []
    luns: dict[Lun, DeviceName] = {}
    networks: list[Network] = []
    portal_groups: list[Annotated[int, Field(ge=0, le=65535)]] = []
    remotes: list[DeviceName] = []

    def device_names(self) -> list[str]:
        """Its devices, each once."""
        return list(dict.fromkeys([*self.devices, *self.luns.values()]))


class ChapAccount(Section):
    """Who must prove what: the initiator's user and secret, and with mutual_* the target's.

    A secret stands here, or where only its owner reads it: *_file, *_environment, *_command (settings.secrets);
    resolved() fetches it from there.
    """

    initiator: str = "*"
    target: str = "*"
    user: ChapName
    secret: ChapSecret = SecretStr("")  # never so once it is resolved
    secret_file: Path | None = None
    secret_environment: str | None = None
    secret_command: list[str] | None = None
    mutual_user: ChapName | None = None
    mutual_secret: ChapSecret | None = None
    mutual_secret_file: Path | None = None
    mutual_secret_environment: str | None = None
    mutual_secret_command: list[str] | None = None

    @field_serializer("secret", "mutual_secret", when_used="json-unless-none")
    def _secret(self, value: SecretStr, info: FieldSerializationInfo) -> str:
        """Stars, but for the library's own state."""
        return value.get_secret_value() if (info.context or {}).get("secrets") else str(value)

    @model_validator(mode="after")
    def _mutual_pair(self) -> "ChapAccount":
        if len(self._places("secret")) != 1:
            raise ValueError("give one of secret, secret_file, secret_environment and secret_command")
        if len(self._places("mutual_secret")) != (self.mutual_user is not None):
            raise ValueError("mutual CHAP needs both mutual_user and mutual_secret (or one of its other places)")
        if (
            self.secret.get_secret_value() and self.mutual_secret == self.secret
        ):  # RFC 7143 12.1.3: a target that reuses it can be made to answer itself
            raise ValueError("mutual_secret must differ from secret")
        return self

    def _places(self, name: str) -> list[str]:
        """Where a secret is said to be."""
        settings = (name, *(f"{name}{place}" for place in SECRET_PLACES))
        return [one for one in settings if getattr(self, one) not in (None, SecretStr(""))]

    def resolved(self, directory: Path) -> "ChapAccount":
        """With its secrets themselves; files are looked for from `directory`. Raises ValueError."""
        fetched: dict[str, Any] = {}
        for name in ("secret", "mutual_secret"):
            for place in self._places(name):
                if place != name:
                    fetched[name] = _fetch(self, name, directory)
        given = self.model_dump(exclude_unset=True).items()
        kept = {name: value for name, value in given if not name.endswith(SECRET_PLACES)}
        return ChapAccount(**kept, **fetched) if fetched else self


def _fetch(account: "ChapAccount | RemoteSettings", name: str, directory: Path) -> str:
    file, variable = getattr(account, f"{name}_file"), getattr(account, f"{name}_environment")
    if file is not None:
        return secrets.from_file(directory / file)
    return secrets.from_environment(variable) if variable else secrets.from_command(getattr(account, f"{name}_command"))


class RemoteSettings(Section):
    """A disk or tape drive of another iSCSI target, for copies. target: of this library, whose sessions may copy it;
    its only one where none is named. user and secret: what the other target asks for; a secret stands here or
    elsewhere, as that of an account does. initiator: who we are there."""

    name: DeviceName
    address: Annotated[str, AfterValidator(_remote_address)]
    target: IscsiName | None = None
    user: str | None = None
    secret: SecretStr = SecretStr("")
    secret_file: Path | None = None
    secret_environment: str | None = None
    secret_command: list[str] | None = None
    initiator: IscsiName = COPY_MANAGER

    @field_serializer("secret", when_used="json-unless-none")
    def _secret(self, value: SecretStr, info: FieldSerializationInfo) -> str:
        """Stars, but for the library's own state."""
        return value.get_secret_value() if (info.context or {}).get("secrets") else str(value)

    @model_validator(mode="after")
    def _pair(self) -> "RemoteSettings":
        if len(self._places()) != (self.user is not None):
            raise ValueError("give both user and one of secret, secret_file, secret_environment and secret_command")
        return self

    def _places(self) -> list[str]:
        settings = ("secret", *(f"secret{place}" for place in SECRET_PLACES))
        return [one for one in settings if getattr(self, one) not in (None, SecretStr(""))]

    def resolved(self, directory: Path) -> "RemoteSettings":
        """With its secret itself; a file is looked for from `directory`. Raises SecretError, ValueError."""
        if self._places() in ([], ["secret"]):
            return self
        given = self.model_dump(exclude_unset=True).items()
        kept = {name: value for name, value in given if not name.endswith(SECRET_PLACES)}
        return RemoteSettings(**kept | {"secret": _fetch(self, "secret", directory)})


class ChapSettings(Section):
    discovery: bool = False
    accounts: list[ChapAccount] = []


class LimitsSettings(Section):
    sessions: Annotated[int, Field(ge=1, le=10000)] = 256
    buffer_memory: Annotated[SizeSetting, Field(ge=32 << 20)] = 512 << 20
    connection_memory: Annotated[SizeSetting, Field(ge=1 << 20)] = 64 << 20
    command_window: Annotated[int, Field(ge=1, le=4096)] = 128
    login_seconds: Annotated[float, Field(gt=0, le=600)] = 15.0
    send_seconds: Annotated[float, Field(gt=0, le=3600)] = 60.0
    copy_rate: SizeSetting | None = None
    failed_logins: Annotated[int, Field(ge=1, le=1000)] = 10
    failed_login_seconds: Annotated[float, Field(gt=0, le=86400)] = 10.0


class GateSettings(Section):
    target: IscsiName
    groups: dict[str, list[DeviceName]] = {}
    key_seconds: Annotated[float, Field(ge=1, le=86400)] = 900.0
    broker_outage_seconds: Annotated[float, Field(ge=60, le=30 * 86400)] = 86400.0


class ApiSettings(Section):
    """The API on TCP, beside the control socket. certificate, key: PEM files; without them only a loopback address."""

    listen: Annotated[AddressSetting, AfterValidator(_listen)]
    certificate: Path | None = None
    key: Path | None = None

    @model_validator(mode="after")
    def _secure(self) -> "ApiSettings":
        if (self.certificate is None) != (self.key is None):
            raise ValueError("give both certificate and key, or neither")
        if self.certificate is None and not ipaddress.ip_address(self.listen.host.partition("%")[0]).is_loopback:
            raise ValueError(
                f"tokens would cross the network readable at {self.listen}: give certificate and key (PEM files), or "
                f'listen on this machine only, for example "127.0.0.1:{self.listen.port}"'
            )
        return self


class SnapshotSettings(Section):
    directory: Path = Path("snapshots")
    budget: SizeSetting | None = None


class LoggingSettings(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


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

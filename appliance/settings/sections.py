"""The sections of tapebay.toml, each by itself. What they mean together: settings.py.

docs/configuration.md explains them to operators; appliance/settings/template.py writes the annotated file.
"""

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FieldSerializationInfo,
    SecretStr,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from appliance.settings import CONTROL_SOCKET, secrets
from appliance.settings.numbers import parse_numbers
from appliance.settings.units import parse_size
from appliance.settings.values import (
    AddressSetting,
    BarcodePatterns,
    CartridgeBarcode,
    ChangerModelName,
    ChapName,
    ChapSecret,
    DeviceName,
    DriveModelName,
    InitiatorPattern,
    IscsiName,
    LibrarySerial,
    ListenSetting,
    Lun,
    Network,
    Numbers,
    PoolBarcodes,
    RemoteAddressSetting,
    Serial,
    SizeSetting,
)
from scsi_targets.devices.changer.models import MAXIMUM_ELEMENTS

CHANGER = "changer"
COPY_MANAGER = "iqn.2026-11.io.tapebay:copy-manager"  # who we are to other targets
SECRET_PLACES = ("_file", "_environment", "_command")  # of a secret that does not stand in tapebay.toml


class Section(BaseModel):
    """What every section has in common: an unknown setting is an error, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> dict[str, Any]:
        """For the library's state: secrets included."""
        return self.model_dump(mode="json", exclude_defaults=True, context={"secrets": True})


class LibrarySettings(Section):
    name: DeviceName = "tapebay"
    cartridges: Path = Path("cartridges")
    disks: Path = Path("disks")
    state: Path = Path("state")
    control_socket: Path = Path(CONTROL_SOCKET)


class PortalSettings(Section):
    listen: ListenSetting
    advertise: AddressSetting | None = None
    group: Annotated[int, Field(ge=0, le=65535)] = 1


class TargetSettings(Section):
    iqn: IscsiName
    initiators: list[str] = ["*"]
    luns: dict[Lun, DeviceName] | None = None


class ChangerSettings(Section):
    model: ChangerModelName = "IBM 3573-TL"
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
    model: ChangerModelName | None = None
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
    model: DriveModelName = "IBM ULT3580-TD6"
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
    address: RemoteAddressSetting
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

    listen: ListenSetting
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

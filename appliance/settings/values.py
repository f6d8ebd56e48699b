"""What a value of tapebay.toml may be, and what is wrong with another: names, addresses, sizes, serial numbers."""

import ipaddress
import re
from typing import Annotated

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    SecretStr,
)

from appliance.settings.numbers import parse_numbers
from appliance.settings.remote_address import parse_remote_address
from appliance.settings.units import HostAndPort, parse_address, parse_size
from scsi_targets.devices.changer.models import find_model
from scsi_targets.devices.tape.models import drive_model
from vlib_images.library.elements import BARCODE

ISCSI_NAME = re.compile(r"(iqn\.\d{4}-\d{2}\.[a-z0-9.-]+(:[^\s]+)?|eui\.[0-9a-f]{16}|naa\.([0-9a-f]{16}|[0-9a-f]{32}))")
DEVICE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
SERIAL = re.compile(r"[A-Z0-9]{6,32}")
# Logical libraries of a partitioned Scalar have serial numbers like 273001234_LLA.
LIBRARY_SERIAL = re.compile(r"[A-Z0-9][A-Z0-9_]{4,30}[A-Z0-9]")


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
ListenSetting = Annotated[AddressSetting, AfterValidator(_listen)]
RemoteAddressSetting = Annotated[str, AfterValidator(_remote_address)]
ChangerModelName = Annotated[str, AfterValidator(_changer_model)]
DriveModelName = Annotated[str, AfterValidator(_drive_model)]
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

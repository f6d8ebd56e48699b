"""Which device of this server is which logical unit of a grant: found by serial number, never by guess."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

BY_ID: Final = (Path("/dev/tape/by-id"), Path("/dev/disk/by-id"))
DEVICES: Final = Path("/dev")
# What the kernel's st and sd drivers call the device that does not rewind, and the disk.
_KINDS: Final = (("scsi_tape", "nst[0-9]*"), ("block", "*"))


def devices_of(session: Path, units: Sequence[Mapping[str, Any]]) -> dict[str, str] | None:
    """The path of each unit's device, by its name in the library; None: the kernel has not found all of them yet.
    session: the session's folder in sysfs. units: as the API tells them."""
    found = {}
    for unit in units:
        path = next((path for folder in _logical_units(session) if (path := _device(folder, unit)) is not None), None)
        if path is None:
            return None
        found[str(unit["device"])] = path
    return found


def _logical_units(session: Path) -> Iterator[Path]:
    """The folders HOST:CHANNEL:TARGET:LUN of a session."""
    return session.glob("device/target*/*:*:*:*")


def _device(folder: Path, unit: Mapping[str, Any]) -> str | None:
    if _serial_number(folder) not in (unit["serial_number"], None):
        return None
    if _serial_number(folder) is None and folder.name.rpartition(":")[2] != str(unit["lun"]):
        return None
    for kind, pattern in _KINDS:
        for device in (folder / kind).glob(pattern):
            if device.name[-1].isdigit() or kind == "block":  # nst0, not nst0a of another mode
                return _stable_name(DEVICES / device.name)
    return None


def _serial_number(folder: Path) -> str | None:
    """As the logical unit tells it (vital product data, page 80h); None: the kernel has not kept the page."""
    try:
        page = (folder / "vpd_pg80").read_bytes()
    except OSError:
        return None
    return page[4 : 4 + int.from_bytes(page[2:4], "big")].decode("ascii", "replace").strip()


def _stable_name(device: Path) -> str | None:
    """The name of udev's that stays the same, where udev has made one; None: the device is not there yet."""
    if not device.exists():
        return None
    for folder in BY_ID:
        for link in sorted(folder.glob("*")) if folder.is_dir() else ():
            if link.resolve() == device:
                return str(link)
    return str(device)

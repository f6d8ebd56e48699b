"""Logical units of other iSCSI targets that an operator has added: copy sources and destinations, kept in the library's
state with what they were when they were added. A copy can reach no others."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import structlog

from appliance.failures import Failure, OperatorError
from appliance.settings.settings import DEVICE_NAME, Settings
from appliance.settings.units import parse_address
from datamover.initiator import Credentials, InitiatorError
from datamover.libiscsi import LibraryUnavailable
from scsi_targets.client.unit import CommandFailed
from scsi_targets.devices.copying.access import Designator
from scsi_targets.devices.copying.remote import RemoteUnit, describe
from scsi_targets.devices.copying.remote_access import Description, RemoteAddress
from scsi_targets.t10 import vpd
from vlib_images.library.state import LibraryState

log = structlog.get_logger(__name__)

NAMESPACE = "remotes"
ADDRESS = re.compile(r"iscsi://(?P<portal>[^/]+)/(?P<target>[^/]+)/(?P<lun>\d{1,5})")
KINDS = {vpd.DIRECT_ACCESS: "disk", vpd.SEQUENTIAL_ACCESS: "tape drive"}


class Remote(NamedTuple):
    """One of them. target: of this library, in whose sessions it can be copied from and to."""

    name: str
    target: str
    unit: RemoteUnit

    @property
    def kind(self) -> str:
        """What it is."""
        return KINDS[self.unit.description.device_type]

    @property
    def naa(self) -> str:
        """The name that copies call it by, as hexadecimal digits; "" when it has none of that type."""
        names = [found.name for found in self.unit.description.designators if found.designator_type == 3]
        return names[0].hex() if names else ""


class Remotes:
    """Those of one library, in the order of their names. Raises StateDamaged, OSError as its store does."""

    def __init__(self, store: LibraryState) -> None:
        self._store = store
        self._remotes = {remote.name: remote for remote in _read(store)}

    def __iter__(self) -> Iterator[Remote]:
        return iter(list(self._remotes.values()))

    def of(self, target_name: str, names: Collection[str] | None = None) -> tuple[RemoteUnit, ...]:
        """What sessions of a target may copy from and to; names: of these only."""
        return tuple(
            remote.unit for remote in self if remote.target == target_name and (names is None or remote.name in names)
        )

    def add(self, settings: Settings, name: str, address: RemoteAddress, target: str) -> Remote:
        """Logs in, asks the logical unit what it is, and keeps it. Raises OperatorError: USAGE, REFUSED."""
        if not DEVICE_NAME.fullmatch(name):
            raise OperatorError(Failure.USAGE, f"{name!r} is no device name; write for example array-1")
        if name in self._remotes or name in settings.device_names():
            raise OperatorError(Failure.REFUSED, f"there is a device {name} already; choose another name")
        if target not in [section.iqn for section in settings.targets]:
            raise OperatorError(Failure.NOT_FOUND, f"this library has no target {target}")
        remote = Remote(name, target, RemoteUnit(address, _described(address)))
        self._refuse_twins(remote)
        self._store.put(NAMESPACE, name, _row(remote))
        self._remotes[name] = remote
        return remote

    def _refuse_twins(self, remote: Remote) -> None:
        names = remote.unit.description.designators
        for other in self:
            if other.target == remote.target and names & other.unit.description.designators:
                raise OperatorError(Failure.REFUSED, f"{remote.unit.address} is {other.name}, which was added already")

    def remove(self, name: str) -> Remote:
        """Copies that run end by themselves; no other reaches it. Raises OperatorError NOT_FOUND."""
        if name not in self._remotes:
            raise OperatorError(Failure.NOT_FOUND, f"there is no remote unit {name}; list them: tapebay remote list")
        self._store.update(NAMESPACE, {name: None})
        return self._remotes.pop(name)


def parse_remote_address(text: str, initiator_name: str, credentials: Credentials | None) -> RemoteAddress:
    """Of "iscsi://HOST[:PORT]/IQN/LUN". Raises OperatorError USAGE."""
    found = ADDRESS.fullmatch(text.strip())
    if found is None:
        raise OperatorError(Failure.USAGE, f"{text!r} is no address; write iscsi://HOST:3260/IQN/LUN")
    portal = found["portal"] if re.search(r":\d+$", found["portal"]) else f"{found['portal']}:3260"
    try:
        parse_address(portal)
    except ValueError as error:
        raise OperatorError(Failure.USAGE, str(error)) from None
    return RemoteAddress(portal, found["target"].lower(), int(found["lun"]), initiator_name, credentials)


def _described(address: RemoteAddress) -> Description:
    try:
        return describe(address)
    except (InitiatorError, LibraryUnavailable, CommandFailed, ValueError) as error:
        raise OperatorError(Failure.REFUSED, f"{address} cannot be added: {error}") from error


def _row(remote: Remote) -> dict[str, Any]:
    address, description = remote.unit.address, remote.unit.description
    credentials = address.credentials
    return {
        "target": remote.target,
        "portal": address.portal,
        "remote_target": address.target_name,
        "lun": address.lun,
        "initiator": address.initiator_name,
        "user": credentials.user if credentials else None,
        "secret": credentials.secret if credentials else None,
        "device_type": description.device_type,
        "block_length": description.block_length,
        "designators": [[*found[:2], found.name.hex()] for found in sorted(description.designators)],
    }


def _read(store: LibraryState) -> Iterator[Remote]:
    for name, row in sorted(store.items(NAMESPACE).items()):
        try:
            yield _remote(name, row)
        except (KeyError, TypeError, ValueError) as error:  # the rest of the library is none the worse
            log.error("a remote unit cannot be read; add it again", name=name, reason=str(error))


def _remote(name: str, row: Any) -> Remote:
    credentials = Credentials(row["user"], row["secret"]) if row["user"] is not None else None
    address = RemoteAddress(row["portal"], row["remote_target"], row["lun"], row["initiator"], credentials)
    names = frozenset(Designator(code_set, kind, bytes.fromhex(text)) for code_set, kind, text in row["designators"])
    description = Description(row["device_type"], names, row["block_length"])
    if description.device_type not in KINDS:
        raise ValueError(f"device type {description.device_type}")
    return Remote(name, row["target"], RemoteUnit(address, description))

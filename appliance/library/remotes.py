"""Logical units of other iSCSI targets that the library contains: copy sources and destinations. A copy can reach no
others.

Content says where they are; what stood there when it was first reached is kept beside it, and from then on a copy
reaches that unit and no other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import structlog

from appliance.failures import Failure, OperatorError
from appliance.settings.remote_address import parse_remote_address
from appliance.settings.sections import RemoteSettings
from appliance.settings.settings import Settings
from datamover.initiator import Credentials, InitiatorError
from datamover.libiscsi import LibraryUnavailable
from scsi_targets.client.unit import CommandFailed, NoSuchAnswer
from scsi_targets.devices.copying.access import Designator
from scsi_targets.devices.copying.remote import RemoteUnit, describe
from scsi_targets.devices.copying.remote_access import Description, RemoteAddress
from scsi_targets.t10 import vpd
from vlib_images.library.state import LibraryState

log = structlog.get_logger(__name__)

NAMESPACE = "remotes"
KINDS = {vpd.DIRECT_ACCESS: "disk", vpd.SEQUENTIAL_ACCESS: "tape drive"}


@dataclass(frozen=True, slots=True)
class Remote:
    """One of them. target: of this library, in whose sessions it can be copied from and to. unit: None until it was
    reached once."""

    name: str
    target: str
    address: RemoteAddress
    unit: RemoteUnit | None

    @property
    def kind(self) -> str:
        """What it is, "" until that is known."""
        return KINDS[self.unit.description.device_type] if self.unit is not None else ""

    @property
    def naa(self) -> str:
        """The name that copies call it by, as hexadecimal digits; "" when it has none of that type."""
        known = self.unit.description.designators if self.unit is not None else ()
        names = [found.name for found in known if found.designator_type == 3]
        return names[0].hex() if names else ""

    def reached(self) -> RemoteUnit:
        """The unit. Raises OperatorError REFUSED when it was never reached."""
        if self.unit is None:
            message = f"{self.name} ({self.address}) was not reached yet; see why: tapebay remote reach {self.name}"
            raise OperatorError(Failure.REFUSED, message)
        return self.unit


class Remotes:
    """Those of one library, in the order of their names. Thread-safe. Raises OSError as its store does."""

    def __init__(self, store: LibraryState, settings: Settings) -> None:
        self._store = store
        self._reaching = threading.Lock()  # one asks what units are
        self._remotes: dict[str, Remote] = {}
        self.show(settings)

    def __iter__(self) -> Iterator[Remote]:
        return iter(list(self._remotes.values()))

    def show(self, settings: Settings) -> None:
        """Those of these settings from now on; a unit that has not changed stays the same object."""
        known, before = _read(self._store) if settings.remotes else {}, self._remotes
        made = [_remote(row, settings, known, before.get(row.name)) for row in settings.remotes]
        self._remotes = {remote.name: remote for remote in sorted(made, key=lambda remote: remote.name)}

    def named(self, name: str) -> Remote:
        """Raises OperatorError NOT_FOUND."""
        if (remote := self._remotes.get(name)) is None:
            raise OperatorError(Failure.NOT_FOUND, f"there is no remote unit {name}; list them: tapebay remote list")
        return remote

    def of(self, target_name: str, names: Collection[str] | None = None) -> tuple[RemoteUnit, ...]:
        """What sessions of a target may copy from and to; names: of these only."""
        return tuple(
            remote.unit
            for remote in self
            if remote.unit is not None and remote.target == target_name and (names is None or remote.name in names)
        )

    def ask(self, row: RemoteSettings) -> Description:
        """What stands at its address now. Raises OperatorError REFUSED: it does not answer, or is there already."""
        description = _described(_address(row))
        for other in self:
            names = other.unit.description.designators if other.unit is not None else frozenset()
            same_target = row.target in (None, other.target)
            if other.name != row.name and same_target and description.designators & names:
                message = f"{row.address} is {other.name}, which was added already"
                raise OperatorError(Failure.REFUSED, message)
        return description

    def learn(self, row: RemoteSettings, description: Description) -> None:
        """Keeps what it is, for show()."""
        self._store.put(NAMESPACE, row.name, _document(row, description))

    def forget(self, name: str) -> None:
        """The opposite."""
        self._store.update(NAMESPACE, {name: None})

    def reach_new(self, settings: Callable[[], Settings], stopped: Callable[[], bool]) -> bool:
        """Asks those what they are that were never reached; whether any answered. The others are in the log."""
        with self._reaching:
            new = {remote.name for remote in self if remote.unit is None}
            answered = [row.name for row in settings().remotes if row.name in new and self._reach(row, stopped)]
            if answered:
                self.show(settings())
            return bool(answered)

    def _reach(self, row: RemoteSettings, stopped: Callable[[], bool]) -> bool:
        try:
            description = self.ask(row)
        except OperatorError as error:
            log.warning("a remote unit is not reached", name=row.name, reason=str(error))
            return False
        if not stopped():
            self.learn(row, description)
        return True


def _address(row: RemoteSettings) -> RemoteAddress:
    location = parse_remote_address(row.address)
    credentials = Credentials(row.user, row.secret.get_secret_value()) if row.user is not None else None
    return RemoteAddress(location.portal, location.target_name, location.lun, row.initiator, credentials)


def _described(address: RemoteAddress) -> Description:
    try:
        return describe(address)
    except (InitiatorError, LibraryUnavailable, CommandFailed, NoSuchAnswer, ValueError) as error:
        raise OperatorError(Failure.REFUSED, f"{address} cannot be added: {error}") from error


def _remote(row: RemoteSettings, settings: Settings, known: dict[str, Any], before: Remote | None) -> Remote:
    address, target = _address(row), row.target or settings.targets[0].iqn
    description = _description(row, known.get(row.name))
    if description is None:
        return Remote(row.name, target, address, None)
    unit = before.unit if before is not None else None
    if unit is None or (unit.address, unit.description) != (address, description):
        unit = RemoteUnit(address, description)
    return Remote(row.name, target, address, unit)


def _document(row: RemoteSettings, description: Description) -> dict[str, Any]:
    return {
        "address": row.address,
        "device_type": description.device_type,
        "block_length": description.block_length,
        "designators": [[*found[:2], found.name.hex()] for found in sorted(description.designators)],
    }


def _read(store: LibraryState) -> dict[str, Any]:
    return dict(store.items(NAMESPACE))


def _description(row: RemoteSettings, document: Any) -> Description | None:
    """None: it was never reached at that address, or what is kept of it cannot be read."""
    try:
        if document is None or document["address"] != row.address:
            return None
        designators = document["designators"]
        names = frozenset(Designator(code_set, kind, bytes.fromhex(text)) for code_set, kind, text in designators)
        description = Description(document["device_type"], names, document["block_length"])
        KINDS[description.device_type]
    except (KeyError, TypeError, ValueError) as error:  # the rest of the library is none the worse
        log.error("what a remote unit is cannot be read; it is asked again", name=row.name, reason=str(error))
        return None
    return description

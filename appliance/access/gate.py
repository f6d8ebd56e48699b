"""The gate: one target behind which every drive stands, and a key opens those that were granted, for as long as that.

It is a TargetDirectory of its own beside the one that settings answer. What it knows is in memory: the working keys,
the leases of live grants, and which grants and policy tags are denied. So no login reads the database, and logins go on
while whoever makes grants is down.

A key is judged in two steps. Its name alone gives the secret to be proved (keys.py), with the same work for whatever
name is shown; only who has proved it is told, by the login status 0202h, that the key is over or somebody else's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from appliance.access.keys import ANY_VOLUME, Capability, WorkingKeys, initiator_hash, raw_of, volume_hash
from scsi_targets.devices.unit.logical_unit import LogicalUnit
from scsi_targets.devices.unit.principal import Permission, Principal
from scsi_targets.devices.unit.view import View
from scsi_targets.iscsi.directory import ChapCredentials, Forbidden, Portal, TargetDirectory, Who
from scsi_targets.iscsi.log_lines import LogLines
from scsi_targets.t10 import sense
from scsi_targets.t10.sense import CheckCondition

log = structlog.get_logger(__name__)

TOLERANCE_MS = 90_000  # a clock that was set: a tenth of the 15 minutes that a key has for its first login
LEASE_SECONDS = 24 * 3600.0  # of a grant that the gate was not told of: its maker is down or not there

InitiatorPort = tuple[str, bytes, int]  # initiator name, ISID, portal group tag: one session at a time


@dataclass(eq=False)
class Lease:
    """A live grant, as the gate knows it. ends_at: monotonic seconds. port: who logged in first with its key."""

    ends_at: float
    key_expires_at_ms: int
    mounted: bool = True
    ended: bool = False
    port: InitiatorPort | None = None


@dataclass(frozen=True, slots=True, eq=False)
class KeyView(View):
    """What a key shows. volumes: by LUN, volume_hash() of the only volume that may be used; asked for each command, as
    somebody else may have another cartridge put into the drive."""

    volumes: Mapping[int, bytes] = field(default_factory=dict)
    lease: Lease = field(kw_only=True)

    def shows_as(self, other: View) -> bool:
        same = isinstance(other, KeyView) and dict(other.volumes) == dict(self.volumes)
        return same and View.shows_as(self, other)

    def check(self, lun: int, use: Permission) -> None:
        """Commands that need no permission (INQUIRY, REPORT LUNS, REQUEST SENSE) are always answered. Raises
        CheckCondition: BECOMING READY until the volume is mounted, ACCESS DENIED for what the key does not allow, once
        it is over, and for another volume."""
        if not use:
            return
        if self.lease.ended:
            raise CheckCondition(sense.ACCESS_DENIED)
        if not self.lease.mounted:
            raise CheckCondition(sense.LOGICAL_UNIT_BECOMING_READY)
        if not self.permits(lun, use) or not self._has_its_volume(lun):
            raise CheckCondition(sense.ACCESS_DENIED)

    def check_with(self, unit: LogicalUnit, use: Permission) -> None:
        for lun in self.luns_of(unit):
            self.check(lun, use)

    def _has_its_volume(self, lun: int) -> bool:
        """Of an empty drive too: it says itself that there is no medium."""
        volume = self.volumes.get(lun, ANY_VOLUME)
        cartridge = getattr(self.logical_units[lun], "cartridge", None)
        return volume == ANY_VOLUME or cartridge is None or volume_hash(cartridge.barcode) == volume


class Gate:
    """Thread-safe. portals: those of the server. Whoever calls end() or anything that takes a right away then lets the
    server's sessions look again (`Server.views_changed`), which ends them."""

    def __init__(
        self,
        target_name: str,
        portals: Sequence[Portal],
        keys: WorkingKeys,
        *,
        copy_bytes_per_second: int = 0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.target_name = target_name
        self._portals = list(portals)
        self.keys = keys  # replaced whole when one is rotated
        self._clock, self._wall_clock = clock, wall_clock
        self._copy_bytes_per_second = copy_bytes_per_second
        self._units: Mapping[int, LogicalUnit] = {}
        self._lock = threading.Lock()
        self._leases: dict[bytes, Lease] = {}
        self._denied: dict[bytes, int] = {}  # grants that are over, and until when a key of them might still be shown
        self._denied_tags: set[bytes] = set()
        self._lines = LogLines(burst=20, pause_seconds=10)

    # ---- for whoever makes grants ------------------------------------------------------------------------------------

    def show(self, units: Mapping[int, LogicalUnit]) -> None:
        """The drives behind the gate, by their LUNs, which never change."""
        self._units = dict(units)

    def extend(self, grant: bytes, seconds: float, key_expires_at_ms: int, *, mounted: bool) -> None:
        """A grant is live for so long from now on; a key of it may be shown first until that expiry. Its drives answer
        that they become ready until its volumes are mounted."""
        with self._lock:
            if grant in self._denied:
                return
            lease = self._leases.setdefault(grant, Lease(0.0, key_expires_at_ms))
            lease.ends_at, lease.mounted = self._clock() + seconds, mounted

    def end(self, grant: bytes, key_expires_at_ms: int) -> None:
        """A grant is over: at once no command is done any more, and nobody logs in with a key of it again."""
        with self._lock:
            if (lease := self._leases.pop(grant, None)) is not None:
                lease.ended = True
            self._denied[grant] = key_expires_at_ms
            now = self._now_ms()
            self._denied = {one: until for one, until in self._denied.items() if until + TOLERANCE_MS >= now}

    def deny_tag(self, tag: bytes) -> None:
        """Every key with that policy tag is revoked."""
        with self._lock:
            self._denied_tags.add(tag)

    # ---- logins ------------------------------------------------------------------------------------------------------

    def portals(self) -> list[Portal]:
        """Where the gate is reached."""
        return self._portals

    def credentials(self, who: Who, username: str) -> ChapCredentials | None:
        """What the holder of a key proves; None for what is no key of this gate."""
        key, reason = self.keys.verify(self.target_name, username)
        if key is None:
            if (more := self._lines.admit(who.peer)) is not None:
                log.warning("not a key", peer=who.peer, initiator=who.initiator_name, reason=reason, **more)
            return None
        return ChapCredentials(key.name, key.secret, self.target_name, key.mutual_secret)

    def open(self, who: Who) -> View:
        """What the key shows whose secret was proved. Raises Forbidden."""
        if who.account is None:
            raise Forbidden("the gate is opened by a key only")
        if self.keys.verify(self.target_name, who.account)[0] is None:
            raise Forbidden("the key was made with a working key that is no longer valid")
        capability = Capability.decode(raw_of(who.account))
        lease = self._admit(who, capability)
        units = {unit.lun: self._units[unit.lun] for unit in capability.units if unit.lun in self._units}
        return KeyView(
            Principal.key(capability.grant.hex()),
            self.target_name,
            units,
            tuple(portal.portal_group_tag for portal in self._portals),
            {unit.lun: unit.permissions for unit in capability.units},
            copy_bytes_per_second=self._copy_bytes_per_second,
            volumes={unit.lun: unit.volume for unit in capability.units},
            lease=lease,
        )

    def _admit(self, who: Who, capability: Capability) -> Lease:
        grant = capability.grant
        port = (who.initiator_name, who.isid, who.portal.portal_group_tag)
        if capability.initiator != initiator_hash(who.initiator_name):
            raise Forbidden(f"the key of grant {grant.hex()} is for another initiator than {who.initiator_name}")
        with self._lock:
            if grant in self._denied or capability.policy_tag in self._denied_tags:
                raise Forbidden(f"grant {grant.hex()} is over or revoked")
            lease = self._leases.get(grant)
            if lease is None or lease.port is None:
                self._check_first(capability)
                return self._first(grant, lease, port, capability.expires_at_ms)
            if lease.ends_at <= self._clock():
                raise Forbidden(f"the lease of grant {grant.hex()} has ended")
            if lease.port != port:
                raise Forbidden(f"grant {grant.hex()} is used by another initiator port: a key is for one session")
            return lease

    def _check_first(self, capability: Capability) -> None:
        """The first login is bounded by the key's expiry; those after it by the lease, as an initiator whose connection
        broke comes back with the name and secret that it began with."""
        if self._now_ms() > capability.expires_at_ms + TOLERANCE_MS:
            raise Forbidden(f"the key of grant {capability.grant.hex()} has expired before its first login")

    def _first(self, grant: bytes, lease: Lease | None, port: InitiatorPort, key_expires_at_ms: int) -> Lease:
        if lease is None:
            lease = self._leases[grant] = Lease(self._clock() + LEASE_SECONDS, key_expires_at_ms)
        elif lease.ends_at <= self._clock():
            raise Forbidden(f"the lease of grant {grant.hex()} has ended")
        lease.port = port
        return lease

    def _now_ms(self) -> int:
        return int(self._wall_clock() * 1000)


class Rest(TargetDirectory, Protocol):
    """The directory of the targets that settings name."""

    @property
    def all_portals(self) -> list[Portal]: ...


class GatedDirectory:
    """The gate's target beside those of another directory, neither of which changes the other."""

    def __init__(self, rest: Rest, gate: Gate) -> None:
        self._rest = rest
        self._gate = gate

    def target_names(self, who: Who) -> list[str]:
        """A session that was opened by a key is shown the gate and nothing else, and nobody else is shown the gate."""
        return [self._gate.target_name] if self._is_gate(who.target_name) else self._rest.target_names(who)

    def portals(self, target_name: str) -> list[Portal]:
        return self._gate.portals() if self._is_gate(target_name) else self._rest.portals(target_name)

    def authentication(self, who: Who) -> bool:
        return self._is_gate(who.target_name) or self._rest.authentication(who)

    def credentials(self, who: Who, username: str) -> ChapCredentials | None:
        asked = self._gate if self._is_gate(who.target_name) else self._rest
        return asked.credentials(who, username)

    def open(self, who: Who) -> View:
        return self._gate.open(who) if self._is_gate(who.target_name) else self._rest.open(who)

    def _is_gate(self, target_name: str | None) -> bool:
        return target_name == self._gate.target_name

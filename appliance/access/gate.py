"""The gate: one target behind which every drive stands, and a key opens those that were granted, for as long as that.

It is a TargetDirectory of its own beside the one that settings answer. What it knows is in memory: the working keys,
the leases of live grants, and which grants and policy tags are denied. So no login reads the database, and logins go on
while whoever makes grants is down.

A key is judged by its name first: working key, expiry, policy tag, deny list, initiator, with the same work for
whatever name is shown. Whatever came of that, the secret is to be proved; only who has proved it is told, by the login
status 0202h, that the key is over or somebody else's. Everybody else learns that the login failed, and the log says
why.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Protocol

from appliance.access.drive_choice import DriveChoice
from appliance.access.key_view import InitiatorPort, KeyView, Lease
from appliance.access.keys import Capability, DriveGroup, WorkingKeys, initiator_hash
from scsi_targets.devices.unit.logical_unit import LogicalUnit
from scsi_targets.devices.unit.principal import Principal
from scsi_targets.devices.unit.view import View
from scsi_targets.iscsi.directory import ChapCredentials, Forbidden, Portal, TargetDirectory, Unavailable, Who

TOLERANCE: Final = 0.1  # of the time that a key has for its first login: for clocks that were set
KEY_SECONDS: Final = 900.0
# open-iscsi that is cut off comes again until its replacement timeout, whatever it is answered, and its commands wait
# as long; when it has logged out they fail at once. So it gets more time for that than a busy host takes.
LOGOUT_SECONDS: Final = 15.0

FirstLogin = Callable[[bytes, InitiatorPort, Mapping[int, int]], None]


def nobody_told(_grant: bytes, _port: InitiatorPort, _luns: Mapping[int, int]) -> None:
    """For who makes no grants."""


class Gate:
    """Thread-safe. portals: those of the server. on_first_login: told, once a grant, which initiator port its key is
    bound to from now on, and which drives the gate chose; it is not to wait. Whoever calls revoke() or anything that
    takes a right away then lets the server's sessions look again (`Server.views_changed`), which ends them."""

    def __init__(
        self,
        target_name: str,
        portals: Sequence[Portal],
        keys: WorkingKeys,
        *,
        copy_bytes_per_second: int = 0,
        key_seconds: float = KEY_SECONDS,
        logout_seconds: float = LOGOUT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.target_name = target_name
        self._portals = list(portals)
        self.keys = keys  # replaced whole when one is rotated
        self.key_seconds = key_seconds
        self._logout_seconds = logout_seconds
        self.on_first_login: FirstLogin = nobody_told
        self._tolerance_ms = int(key_seconds * TOLERANCE * 1000)
        self._clock, self._wall_clock = clock, wall_clock
        self._copy_bytes_per_second = copy_bytes_per_second
        self._units: Mapping[int, LogicalUnit] = {}
        self._choice = DriveChoice({}, {}, clock)
        self._lock = threading.Lock()
        self._leases: dict[bytes, Lease] = {}
        self._over: dict[bytes, int] = {}  # grants that are over, and until when a key of them might still be shown
        self._denied_tags: frozenset[bytes] = frozenset()

    # ---- for whoever makes grants ------------------------------------------------------------------------------------

    def show(self, units: Mapping[int, LogicalUnit], groups: Mapping[int, Collection[int]] | None = None) -> None:
        """What stands behind the gate, by LUNs that never change; groups of drives, by their numbers."""
        self._units = dict(units)
        self._choice.show(self._units, dict(groups or {}))

    def extend(self, grant: bytes, seconds: float, *, mounted: bool) -> None:
        """A grant is live for so long from now on. Its drives answer that they become ready until its volumes are
        mounted. A grant that is over stays over."""
        with self._lock:
            if grant not in self._over:
                lease = self._leases.setdefault(grant, Lease(0.0, self._clock))
                lease.ends_at, lease.mounted = self._clock() + seconds, mounted

    def bind(self, grant: bytes, port: InitiatorPort | None, luns: Mapping[int, int]) -> None:
        """What was told of a live grant by on_first_login, before a restart."""
        with self._lock:
            lease = self._leases[grant]
            lease.port, lease.luns, lease.told = port, dict(luns), True

    def offer(self, grant: bytes, candidates: Mapping[int, tuple[int, ...]]) -> None:
        """What the gate may choose from for a grant whose key names groups of drives; of one that is over, nothing."""
        with self._lock:
            if (lease := self._leases.get(grant)) is not None:
                lease.candidates = dict(candidates)

    def revoke(self, grant: bytes, key_expires_at_ms: int) -> None:
        """A grant is over: at once no command is done any more, and nobody logs in with a key of it again."""
        with self._lock:
            self._over[grant] = key_expires_at_ms  # first: a thread that ends in the middle has let nobody in
            if (lease := self._leases.get(grant)) is not None:
                lease.revoked = True
            self._leases.pop(grant, None)
            self._choice.forget(grant)
            now = self._now_ms()
            self._over = {one: until for one, until in self._over.items() if until + self._tolerance_ms >= now}

    def deny_tags(self, tags: Collection[bytes]) -> None:
        """Every key with one of these policy tags is revoked; those denied before and not among them are not any
        more."""
        with self._lock:
            self._denied_tags = frozenset(tags)

    def denies(self, tag: bytes) -> bool:
        """Whether every key with that policy tag is revoked."""
        return tag in self._denied_tags

    # ---- logins ------------------------------------------------------------------------------------------------------

    def portals(self) -> list[Portal]:
        """Where the gate is reached."""
        return self._portals

    def credentials(self, who: Who, username: str) -> ChapCredentials:
        """What the holder of a key proves; for what is no key of this gate, what nobody can."""
        judged = self.keys.verify(self.target_name, username)
        with self._lock:
            refusal = self._refusal(who, judged.capability)
        key = judged.key
        return ChapCredentials(
            username, key.secret, self.target_name, key.mutual_secret, bool(judged.problem), judged.problem or refusal
        )

    def open(self, who: Who) -> View:
        """What the key shows whose secret was proved. Raises Forbidden, Unavailable."""
        if who.account is None:
            raise Forbidden("the gate is opened by a key only")
        judged = self.keys.verify(self.target_name, who.account)
        if judged.problem:
            raise Forbidden(judged.problem)
        capability = judged.capability
        lease = self._admit(who, capability)
        shown = {lease.luns.get(unit.lun, unit.lun): unit for unit in capability.units}
        units = {lun: self._units[lun] for lun in shown if lun in self._units}
        return KeyView(
            Principal.key(capability.grant.hex()),
            self.target_name,
            units,
            tuple(portal.portal_group_tag for portal in self._portals),
            {lun: unit.permissions for lun, unit in shown.items()},
            # Looked at again then: the lease may have been extended meanwhile.
            self._wall_clock() + max(0.0, lease.ends_at - self._clock()),
            copy_bytes_per_second=self._copy_bytes_per_second,
            logout_seconds=self._logout_seconds,
            volumes={lun: unit.volume for lun, unit in shown.items()},
            lease=lease,
        )

    def _admit(self, who: Who, capability: Capability) -> Lease:
        with self._lock:
            if refusal := self._refusal(who, capability):
                raise Forbidden(refusal)
            lease = self._leases[capability.grant]
            if lease.port is None:
                lease.luns = self._chosen(capability, lease)
                lease.port = port_of(who)
        if not lease.told:  # also where the first login ended, with its thread, before it could
            self.on_first_login(capability.grant, port_of(who), lease.luns)
            lease.told = True
        return lease

    def _chosen(self, capability: Capability, lease: Lease) -> dict[int, int]:
        """The drives that the gate chooses, where the key leaves it the choice: once, until the grant is over."""
        wanted = [(unit, group) for unit in capability.units if (group := DriveGroup.of(unit.lun)) is not None]
        chosen = self._choice.choose(capability.grant, wanted, lease.candidates)
        if chosen is None:
            raise Unavailable(f"no drive is free for grant {capability.grant.hex()}; the initiator tries again")
        return chosen

    def _refusal(self, who: Who, capability: Capability) -> str:
        """Why a key is not good for a login, whatever is proved; "": it is. Expiry bounds the first login only: those
        after it are bounded by the lease, as an initiator whose connection broke comes back with the name and secret
        that it began with."""
        grant = capability.grant.hex()
        lease = self._leases.get(capability.grant)
        first = lease is None or lease.port is None
        if first and self._now_ms() > capability.expires_at_ms + self._tolerance_ms:
            return f"the key of grant {grant} has expired before its first login"
        if capability.policy_tag in self._denied_tags:
            return f"the policy tag of grant {grant} is denied"
        if capability.grant in self._over:
            return f"grant {grant} is over or revoked"
        if lease is None:
            return f"there is no live grant {grant}"
        if lease.over:
            return f"the lease of grant {grant} has ended"
        if capability.initiator != initiator_hash(who.initiator_name):
            return f"the key of grant {grant} is for another initiator than {who.initiator_name}"
        if lease.port is not None and lease.port != port_of(who):
            return f"grant {grant} is used by another initiator port: a key is for one session"
        return ""

    def _now_ms(self) -> int:
        return int(self._wall_clock() * 1000)


def port_of(who: Who) -> InitiatorPort:
    """What a key is bound to by its first login."""
    return who.initiator_name, who.isid, who.portal.portal_group_tag


class TargetsBeside(TargetDirectory, Protocol):
    """The directory of the targets that settings name."""

    @property
    def all_portals(self) -> list[Portal]: ...


class GatedDirectory:
    """The gate's target beside those of another directory, neither of which changes the other."""

    def __init__(self, rest: TargetsBeside, gate: Gate) -> None:
        self._rest = rest
        self._gate = gate

    def target_names(self, who: Who) -> list[str]:
        """A session that was opened by a key is shown the gate and nothing else, and nobody else is shown the gate."""
        return [self._gate.target_name] if self._is_gate(who.target_name) else self._rest.target_names(who)

    def portals(self, target_name: str, who: Who | None = None) -> list[Portal]:
        return self._gate.portals() if self._is_gate(target_name) else self._rest.portals(target_name, who)

    def authentication(self, who: Who) -> bool:
        return self._is_gate(who.target_name) or self._rest.authentication(who)

    def credentials(self, who: Who, username: str) -> ChapCredentials | None:
        asked = self._gate if self._is_gate(who.target_name) else self._rest
        return asked.credentials(who, username)

    def open(self, who: Who) -> View:
        return self._gate.open(who) if self._is_gate(who.target_name) else self._rest.open(who)

    def _is_gate(self, target_name: str | None) -> bool:
        return target_name == self._gate.target_name

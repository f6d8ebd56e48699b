"""Reservations of one logical unit: RESERVE/RELEASE (SPC-2 5.5) and persistent reservations (SPC-5 5.14).

Pure state: no CDBs, no threads. The logical unit's lock is held by the caller. Methods return which nexuses must be
told (unit attentions); refusals are raised as Conflict or ValueError.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

from scsi_targets.devices.unit.dispatch import ReservationRule
from scsi_targets.devices.unit.principal import Principal, PrincipalKind
from scsi_targets.devices.unit.task import Nexus


class Conflict(Exception):
    """The command ends with status RESERVATION CONFLICT."""


class ReservationType(IntEnum):
    """TYPE of a persistent reservation (SPC-5 table 81)."""

    WRITE_EXCLUSIVE = 1
    EXCLUSIVE_ACCESS = 3
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 5
    EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 6
    WRITE_EXCLUSIVE_ALL_REGISTRANTS = 7
    EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 8

    @property
    def write_exclusive(self) -> bool:
        return self in (1, 5, 7)

    @property
    def registrants(self) -> bool:
        """Whether every registered nexus keeps access."""
        return self >= 5

    @property
    def all_registrants(self) -> bool:
        """Whether every registered nexus is a holder."""
        return self >= 7


# A registration costs memory and, with APTPL, disk: a peer cannot make it grow without bound.
MAX_REGISTRATIONS = 256


class TooManyRegistrations(Exception):
    """There is no room for one more registration (INSUFFICIENT REGISTRATION RESOURCES)."""


class ReleaseTypeMismatch(Exception):
    """A release names another type than the reservation has (INVALID RELEASE OF PERSISTENT RESERVATION)."""


@dataclass
class Reservations:
    """Who holds the logical unit, and who is registered with it: nexus to reservation key."""

    legacy_holder: Nexus | None = None
    registrations: dict[Nexus, int] = field(default_factory=dict)
    generation: int = 0
    holder: Nexus | None = None  # for the all-registrants types: any of them, kept only to know there is a reservation
    type: ReservationType | None = None
    aptpl: bool = False

    def copy(self) -> Reservations:
        """The same state, to be changed while this one stays."""
        return replace(self, registrations=dict(self.registrations))

    def held_by(self) -> str | None:
        """Who has reserved the logical unit and how, in words for an operator; None: nobody."""
        if self.legacy_holder is not None:
            return f"{self.legacy_holder.initiator_name} has reserved it (RESERVE)"
        if self.type is not None:
            holder = self.holder.initiator_name if self.holder is not None else "an initiator"
            return f"{holder} has reserved it (PERSISTENT RESERVE OUT)"
        return None

    # ---- access ------------------------------------------------------------------------------------------------

    def check(self, nexus: Nexus, rule: ReservationRule) -> None:
        """Raises Conflict when another nexus's reservation forbids a command with this rule."""
        if rule is ReservationRule.ALLOWED:
            return
        if self.legacy_holder is not None:
            if self.legacy_holder != nexus:
                raise Conflict
            return
        if self.type is None or rule is ReservationRule.PERSISTENT_ALLOWED:
            return
        if self.is_holder(nexus) or (self.type.registrants and nexus in self.registrations):
            return
        if rule is ReservationRule.READS and self.type.write_exclusive:
            return
        raise Conflict

    def is_holder(self, nexus: Nexus) -> bool:
        """Whether this nexus is a persistent reservation holder."""
        if self.type is None:
            return False
        return nexus in self.registrations if self.type.all_registrants else self.holder == nexus

    # ---- RESERVE and RELEASE -------------------------------------------------------------------------------------

    def reserve(self, nexus: Nexus) -> None:
        """RESERVE(6/10). With any persistent registration present it conflicts (SPC-2 5.5.3.2)."""
        if self.registrations or self.legacy_holder not in (None, nexus):
            raise Conflict
        self.legacy_holder = nexus

    def release(self, nexus: Nexus) -> None:
        """RELEASE(6/10): from a nexus that holds nothing it does nothing, with GOOD status (SPC-2 7.16)."""
        if self.registrations:
            raise Conflict
        if self.legacy_holder == nexus:
            self.legacy_holder = None

    # ---- persistent reservations ---------------------------------------------------------------------------------

    def register(
        self,
        nexus: Nexus,
        reservation_key: int,
        new_key: int,
        *,
        ignore_existing: bool,
        aptpl: bool,
        others: Iterable[Nexus] = (),
    ) -> set[Nexus]:
        """REGISTER and REGISTER AND IGNORE EXISTING KEY. others: registered with the same key, unless they are
        registered already. Returns the nexuses to tell RESERVATIONS RELEASED. Raises TooManyRegistrations."""
        known = self.registrations.get(nexus)
        if not ignore_existing and reservation_key != (known or 0):
            raise Conflict
        tell: set[Nexus] = set()
        if new_key:
            self._add(nexus, new_key)
            for other in others:
                if other not in self.registrations:
                    self._add(other, new_key)
        elif known is not None:
            tell = self._unregister(nexus)
        elif not ignore_existing:
            return tell  # an unregistered nexus that registers key 0: nothing happens, GOOD (SPC-5 table 73)
        self.aptpl = aptpl
        self.generation += 1
        return tell

    def _add(self, nexus: Nexus, key: int) -> None:
        if nexus not in self.registrations and len(self.registrations) >= MAX_REGISTRATIONS:
            raise TooManyRegistrations
        self.registrations[nexus] = key

    def _unregister(self, nexus: Nexus) -> set[Nexus]:
        was_holder = self.is_holder(nexus)
        del self.registrations[nexus]
        if not was_holder or self.type is None:
            return set()
        if self.type.all_registrants and self.registrations:
            self.holder = next(iter(self.registrations))
            return set()
        tell = set(self.registrations) if self.type.registrants else set()
        self.holder = self.type = None
        return tell

    def reserve_persistent(self, nexus: Nexus, reservation_key: int, type_: ReservationType) -> None:
        """RESERVE service action."""
        self._check_registered(nexus, reservation_key)
        if self.type is not None:
            if not self.is_holder(nexus) or self.type is not type_:
                raise Conflict
            return
        self.holder, self.type = nexus, type_

    def release_persistent(self, nexus: Nexus, reservation_key: int, type_: int) -> set[Nexus]:
        """RELEASE service action. Returns the nexuses to tell. Raises ReleaseTypeMismatch."""
        self._check_registered(nexus, reservation_key)
        if self.type is None or not self.is_holder(nexus):
            return set()
        if self.type != type_:
            raise ReleaseTypeMismatch
        tell = set(self.registrations) - {nexus} if self.type.registrants else set()
        self.holder = self.type = None
        return tell

    def clear(self, nexus: Nexus, reservation_key: int) -> set[Nexus]:
        """CLEAR: every registration and the reservation go. Returns the nexuses to tell RESERVATIONS PREEMPTED."""
        self._check_registered(nexus, reservation_key)
        tell = set(self.registrations) - {nexus}
        self.registrations.clear()
        self.holder = self.type = None
        self.generation += 1
        return tell

    def preempt(
        self, nexus: Nexus, reservation_key: int, victim_key: int, type_: ReservationType
    ) -> tuple[set[Nexus], set[Nexus]]:
        """PREEMPT (SPC-5 5.14.11.4): (nexuses whose registrations went, nexuses whose reservation was released only).

        Raises ValueError when the service action reservation key is zero where that is not allowed, Conflict when no
        registration has the key."""
        self._check_registered(nexus, reservation_key)
        all_registrants = self.type is not None and self.type.all_registrants
        if victim_key == 0 and not all_registrants:
            raise ValueError("a service action reservation key of zero preempts only an all-registrants reservation")
        if all_registrants and victim_key == 0:
            removed = set(self.registrations) - {nexus}
            takes_over = True
        else:
            removed = {n for n, key in self.registrations.items() if key == victim_key}
            holder_hit = self.holder is not None and self.registrations[self.holder] == victim_key
            takes_over = self.type is not None and not all_registrants and holder_hit
            if not removed:
                raise Conflict
        old_type = self.type
        for victim in removed - {nexus}:
            del self.registrations[victim]
        released: set[Nexus] = set()
        if takes_over:
            if old_type is not None and old_type is not type_ and old_type.registrants:
                released = set(self.registrations) - {nexus}
            self.holder, self.type = nexus, type_
        elif nexus in removed:
            del self.registrations[nexus]
        if self.holder is not None and self.holder not in self.registrations:
            self.holder = next(iter(self.registrations), None) if all_registrants else None
            if self.holder is None:
                self.type = None
        self.generation += 1
        return removed - {nexus}, released

    def register_and_move(
        self, nexus: Nexus, reservation_key: int, new_key: int, to: Nexus, unregister: bool, aptpl: bool
    ) -> None:
        """REGISTER AND MOVE: the reservation goes to another nexus (SPC-5 5.14.8). ValueError: illegal request;
        TooManyRegistrations."""
        self._check_registered(nexus, reservation_key)
        if self.type is None or not self.is_holder(nexus):
            raise Conflict
        if self.type.all_registrants or new_key == 0 or to == nexus:
            raise ValueError("an all-registrants reservation, key zero or the holder itself cannot be moved to")
        self._add(to, new_key)
        self.holder = to
        if unregister:
            del self.registrations[nexus]
        self.aptpl = aptpl
        self.generation += 1

    def withdraw(self, nexuses: Iterable[Nexus]) -> tuple[set[Nexus], set[Nexus]]:
        """An operator takes from nexuses whatever they have. Returns them, and the registrants whose reservation went
        with its holder."""
        lost, released = set(nexuses), set[Nexus]()
        if self.legacy_holder in lost:
            self.legacy_holder = None
        if lost & self.registrations.keys():
            self.generation += 1
        for nexus in lost & self.registrations.keys():
            released |= self._unregister(nexus)
        return lost, released - lost

    def _check_registered(self, nexus: Nexus, reservation_key: int) -> None:
        if self.registrations.get(nexus) != reservation_key:
            raise Conflict

    # ---- events --------------------------------------------------------------------------------------------------

    def recognise(self, nexus: Nexus) -> None:
        """A login: takes over a registration of the same ports that was kept before principals were."""
        before = next(
            (n for n in self.registrations if n.principal.kind is PrincipalKind.UNRECORDED and n.same_ports(nexus)),
            None,
        )
        if before is None or nexus in self.registrations:
            return
        self.registrations = {nexus if n == before else n: key for n, key in self.registrations.items()}
        if self.holder == before:
            self.holder = nexus

    def nexus_lost(self, nexus: Nexus) -> None:
        """Logout or connection loss: RESERVE is freed, persistent ones stay (SPC-2 5.5.1, SPC-5 5.14.5)."""
        if self.legacy_holder == nexus:
            self.legacy_holder = None

    def forget(self, principal: Principal) -> None:
        """A principal that never comes back: its registrations and reservations go. Nobody of it is left to be told,
        and nobody else could release them."""
        gone = {nexus for nexus in self.registrations if nexus.principal == principal}
        self.registrations = {nexus: key for nexus, key in self.registrations.items() if nexus not in gone}
        if self.legacy_holder is not None and self.legacy_holder.principal == principal:
            self.legacy_holder = None
        if self.holder in gone:
            all_registrants = self.type is not None and self.type.all_registrants
            self.holder = next(iter(self.registrations), None) if all_registrants else None
            if self.holder is None:
                self.type = None
        if gone:
            self.generation += 1

    def reset(self) -> None:
        """Logical unit reset, target reset: RESERVE is freed, persistent reservations stay."""
        self.legacy_holder = None

    # ---- persistence (APTPL) -------------------------------------------------------------------------------------

    def to_state(self) -> dict[str, Any] | None:
        """What must survive a loss of power: None when APTPL is not active or nothing is registered."""
        if not self.aptpl or not self.registrations:
            return None
        return {
            "type": int(self.type) if self.type is not None else None,
            "registrations": [
                {
                    "initiator_name": n.initiator_name, "isid": n.isid.hex(), "target_name": n.target_name,
                    "portal_group_tag": n.portal_group_tag, "key": key, "holder": n == self.holder,
                    "principal": [n.principal.kind.value, n.principal.name],
                }
                for n, key in self.registrations.items()
            ],
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any] | None) -> Reservations:
        """The reservations as to_state() described them. KeyError, TypeError or ValueError: malformed."""
        self = cls()
        if state is None:
            return self
        self.aptpl = True
        for row in state["registrations"]:
            kind, name = row.get("principal", (PrincipalKind.UNRECORDED, ""))
            nexus = Nexus(
                row["initiator_name"], bytes.fromhex(row["isid"]), row["target_name"], row["portal_group_tag"],
                principal=Principal(PrincipalKind(kind), name),
            )  # fmt: skip
            if not nexus.possible:  # versions before 0.2 registered whatever REGISTER AND MOVE named
                continue
            self.registrations[nexus] = row["key"]
            if row["holder"]:
                self.holder = nexus
        if state["type"] is not None and self.holder is not None:
            self.type = ReservationType(state["type"])
        return self

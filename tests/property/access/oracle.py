"""Who may do what to which device, in few lines, and what the devices hold: nothing here comes from the code it judges.

A principal is one session here, so reservations are kept by principal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from scsi_targets.devices.unit.principal import Principal
from tests.property.access.site import BARCODES, CHANGERS, DEVICES, DISKS, DRIVES, PARTITIONS

GOOD, CONFLICT = 0x00, 0x18
NOTHING, WRONG_KEY, WRONG_RELEASE = (5, 0x25, 0), (5, 0x26, 0), (5, 0x26, 4)
Answer = int | tuple[int, int, int]  # a status, or the sense key, ASC and ASCQ of CHECK CONDITION
Action = Literal["inquire", "release", "manage", "register", "read", "write", "reserve"]
WRITE_EXCLUSIVE, REGISTRANTS, ALL_REGISTRANTS = (1, 5, 7), (5, 6, 7, 8), (7, 8)


@dataclass
class Held:
    """What is reserved of one device: by RESERVE, and by PERSISTENT RESERVE OUT."""

    reserved: Principal | None = None
    keys: dict[Principal, int] = field(default_factory=dict)
    holder: Principal | None = None
    type: int = 0
    survives: bool = False

    def is_holder(self, who: Principal) -> bool:
        return bool(self.type) and (who in self.keys if self.type in ALL_REGISTRANTS else who == self.holder)

    def may(self, who: Principal, action: Action) -> bool:
        if action in ("inquire", "manage"):
            return True
        if self.reserved not in (None, who):
            return action == "release"
        if action in ("reserve", "release"):
            return not self.keys
        if action == "register":
            return self.reserved is None
        if not self.type or self.is_holder(who) or (self.type in REGISTRANTS and who in self.keys):
            return True
        return action == "read" and self.type in WRITE_EXCLUSIVE

    # ---- PERSISTENT RESERVE OUT, SPC-4 5.12 ----

    def register(self, who: Principal, key: int, new: int, *, ignore: bool, survives: bool) -> Answer:
        if not ignore and key != self.keys.get(who, 0):
            return CONFLICT
        if not new and who not in self.keys:
            self.survives = survives if ignore else self.survives
            return GOOD
        self.survives = survives
        if new:
            self.keys[who] = new
        else:
            self._remove([who])
        return GOOD

    def _remove(self, gone: Iterable[Principal]) -> None:
        held = {who: self.is_holder(who) for who in gone}
        for who in held:
            del self.keys[who]
        if any(held.values()) and not (self.type in ALL_REGISTRANTS and self.keys):
            self.holder, self.type = None, 0

    def reserve(self, who: Principal, key: int, type_: int) -> Answer:
        if self.keys.get(who) != key or (self.type and (not self.is_holder(who) or self.type != type_)):
            return CONFLICT
        if not self.type:
            self.holder, self.type = who, type_
        return GOOD

    def release(self, who: Principal, key: int, type_: int) -> Answer:
        if self.keys.get(who) != key:
            return CONFLICT
        if self.is_holder(who):
            if type_ != self.type:
                return WRONG_RELEASE
            self.holder, self.type = None, 0
        return GOOD

    def clear(self, who: Principal, key: int) -> Answer:
        if self.keys.get(who) != key:
            return CONFLICT
        self.keys, self.holder, self.type = {}, None, 0
        return GOOD

    def preempt(self, who: Principal, key: int, victim: int, type_: int) -> Answer:
        if self.keys.get(who) != key:
            return CONFLICT
        every = self.type in ALL_REGISTRANTS
        if not victim and not every:
            return WRONG_KEY
        victims = [p for p, k in self.keys.items() if (p != who if not victim else k == victim)]
        if victim and not victims:
            return CONFLICT
        takes_over = not victim or (self.type and not every and self.keys[self.holder] == victim)
        if takes_over:
            self.keys = {p: k for p, k in self.keys.items() if p == who or p not in victims}
            self.holder, self.type = who, type_
        else:
            self._remove(victims)
        return GOOD

    def power_cut(self) -> None:
        self.reserved = None
        if not self.survives or not self.keys:
            self.keys, self.holder, self.type, self.survives = {}, None, 0, False


class Oracle:
    """What ought to be."""

    def __init__(self) -> None:
        self.zones: Sequence[tuple[set[str], bool, Sequence[str]]] = []
        self.held = {name: Held() for name in DEVICES}
        self.kept = dict.fromkeys([*DISKS, *BARCODES], b"")
        self.at_start = dict.fromkeys(BARCODES, True)  # the tape's position
        # The elements of each changer, by its own addresses.
        self.elements: dict[str, dict[int, str | None]] = {}
        for partition in PARTITIONS:
            runs = [run for kind, run in partition.layout.ranges() if kind.name != "TRANSPORT"]
            self.elements[partition.name] = {address: None for run in runs for address in run}
            for barcode, inside in BARCODES.items():
                if (address := partition.outside(inside)) is not None:
                    self.elements[partition.name][address] = barcode
        self.drive_address = {p.name: p.layout.drives[0] for p in PARTITIONS}

    def sees(self, who: Principal) -> set[str]:
        if not self.zones:  # open, but not to who has no account where there are accounts
            return set(DEVICES) if who == Principal.account("payroll") else set()
        return {
            device
            for names, payroll, devices in self.zones
            for device in devices
            if (payroll if who == Principal.account("payroll") else who.name in names)
        }

    def may(self, who: Principal, device: str, action: Action) -> bool:
        return device in self.sees(who) and self.held[device].may(who, action)

    # ---- cartridges ----

    def loaded(self, drive: str) -> str | None:
        changer = CHANGERS[DRIVES.index(drive)]
        return self.elements[changer][self.drive_address[changer]]

    def move(self, changer: str, source: int, destination: int) -> Answer:
        elements = self.elements[changer]
        if source not in elements or destination not in elements:
            return 5, 0x21, 1
        if elements[source] is None:
            return 5, 0x3B, 0x0E
        if elements[destination] is not None:
            return GOOD if source == destination else (5, 0x3B, 0x0D)
        elements[destination], elements[source] = elements[source], None
        self.at_start[elements[destination] or ""] = True
        return GOOD

    # ---- what happens to sessions and devices ----

    def left(self, who: Principal, devices: Iterable[str]) -> None:
        for device in devices:
            if self.held[device].reserved == who:
                self.held[device].reserved = None

    def reset(self, device: str) -> None:
        self.held[device].reserved = None

    def power_cut(self) -> None:
        for held in self.held.values():
            held.power_cut()
        self.at_start = dict.fromkeys(self.at_start, True)

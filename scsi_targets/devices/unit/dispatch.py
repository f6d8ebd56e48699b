"""The row that a command has in its device's table: what it is, and when it is legal.

A handler is declared where it is written:

    @handles(ssc.Write6, medium=REQUIRED, writes=True, reservation=CONFLICTS)
    def write_6(self, cdb: ssc.Write6, task: Task) -> Response: ...

The row carries the legality (SAM-5, SPC-5 tables of commands allowed under reservations); logical_unit.py checks it
once, before any handler runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

from scsi_targets.devices.unit.principal import Permission
from scsi_targets.t10.fields import Command


class Medium(Enum):
    """Whether a command needs a medium in the device."""

    NOT_NEEDED = 0
    REQUIRED = 1


class ReservationRule(Enum):
    """What a command does when another I_T nexus holds a reservation: the columns of the standards' tables of commands
    allowed in the presence of reservations (SPC-2 table 9 for RESERVE, SPC-4 5.12.1 and the tables of SBC-3, SSC-3 and
    SMC-3 for persistent ones). tests/unit/devices/unit/test_reservation_rules.py has them row by row."""

    CONFLICTS = 0  # conflicts with RESERVE and with every persistent type
    READS = 1  # conflicts with RESERVE and Exclusive Access; allowed under Write Exclusive
    PERSISTENT_ALLOWED = 2  # conflicts with RESERVE only
    ALLOWED = 3  # never conflicts (or the handler asks for itself)


class UnitAttentionRule(Enum):
    """What a command does with a pending unit attention condition (SAM-5 5.14)."""

    REPORTS = 0  # CHECK CONDITION, and the condition is cleared
    IGNORES = 1  # INQUIRY, REPORT LUNS, REQUEST SENSE: executed, the condition stays or the handler takes it


REQUIRED = Medium.REQUIRED
CONFLICTS = ReservationRule.CONFLICTS
READS = ReservationRule.READS
PERSISTENT_ALLOWED = ReservationRule.PERSISTENT_ALLOWED
ALLOWED = ReservationRule.ALLOWED
IGNORES = UnitAttentionRule.IGNORES


@dataclass(frozen=True, slots=True)
class Row:
    """One supported command of one device class."""

    command: type[Command]
    method: str
    medium: Medium
    writes: bool  # refused with DATA PROTECT when the medium is write protected
    reservation: ReservationRule
    unit_attention: UnitAttentionRule
    slow: bool  # may take long: runs on the logical unit's worker, so that the connection goes on
    while_busy: bool  # runs at once even while a slow command does
    concurrent: bool  # the handler runs outside the logical unit's lock (disk reads and writes)
    exclusive: bool  # needs the medium for itself: queues while a copy has it
    timeout_seconds: int  # recommended command timeout reported to initiators
    permission: Permission  # all of it must be granted by the view that the command comes through
    secret: bool  # the Data-Out holds a secret: it is overwritten however the command ends

    # What the check of every command asks, made once.
    reports: bool = field(init=False)  # a pending unit attention goes before the command
    needs_medium: bool = field(init=False)
    control_byte: int = field(init=False)  # where the CDB has its CONTROL byte

    def __post_init__(self) -> None:
        object.__setattr__(self, "reports", self.unit_attention is UnitAttentionRule.REPORTS)
        object.__setattr__(self, "needs_medium", self.medium is Medium.REQUIRED)
        object.__setattr__(self, "control_byte", self.command.length - 1)


RowTable = dict[int, "Row | dict[int, Row]"]
Handler = TypeVar("Handler", bound=Callable[..., Any])


def handles(
    command: type[Command],
    *,
    medium: Medium = Medium.NOT_NEEDED,
    writes: bool = False,
    reservation: ReservationRule = ReservationRule.CONFLICTS,
    unit_attention: UnitAttentionRule = UnitAttentionRule.REPORTS,
    slow: bool = False,
    while_busy: bool = False,
    concurrent: bool = False,
    exclusive: bool | None = None,
    timeout_seconds: int = 60,
    permission: Permission | None = None,
    secret: bool = False,
) -> Callable[[Handler], Handler]:
    """Marks a method as the handler of a command. May be stacked when one method serves several CDBs.

    exclusive: by default what needs the medium or is slow. permission: by default WRITE_DATA for what `writes`,
    READ_DATA for what needs the medium otherwise, nothing for what ignores unit attentions, READ_PARAMETERS for the
    rest."""
    alone = exclusive if exclusive is not None else slow or medium is Medium.REQUIRED
    if permission is None:
        permission = _usual_permission(medium, writes, unit_attention)

    def mark(method: Handler) -> Handler:
        name = getattr(method, "__name__", "")
        row = Row(command, name, medium, writes, reservation, unit_attention, slow, while_busy, concurrent, alone,
                  timeout_seconds, permission, secret)  # fmt: skip
        method.__dict__.setdefault("_rows", []).append(row)
        return method

    return mark


def _usual_permission(medium: Medium, writes: bool, unit_attention: UnitAttentionRule) -> Permission:
    if writes:
        return Permission.WRITE_DATA
    if medium is Medium.REQUIRED:
        return Permission.READ_DATA
    return Permission(0) if unit_attention is UnitAttentionRule.IGNORES else Permission.READ_PARAMETERS


def collect_rows(owner: type) -> RowTable:
    """The table of a device class, its bases' rows included; a subclass's handler takes the place of its base's.

    Raises TypeError when one operation code is declared both with and without service actions."""
    table: RowTable = {}
    for base in reversed(owner.__mro__):
        for member in vars(base).values():
            for row in getattr(member, "_rows", ()):
                insert(table, row)
    return table


def copy_table(table: RowTable) -> RowTable:
    """The same rows in a table that may be changed."""
    return {opcode: dict(found) if isinstance(found, dict) else found for opcode, found in table.items()}


def insert(table: RowTable, row: Row, *, twice: bool = True) -> None:
    """Puts a row into its place. TypeError: the operation code is there with and without service actions; or, unless
    `twice`, the command is there already."""
    opcode, action = row.command.opcode, row.command.service_action
    found = table.setdefault(opcode, row if action is None else {})
    if isinstance(found, dict) is (action is None):
        raise TypeError(f"{row.command.__name__}: operation code {opcode:02X}h with and without service actions")
    before = found.setdefault(action or 0, row) if isinstance(found, dict) else found
    if before is not row and not twice:
        raise TypeError(f"{row.command.__name__}: operation code {opcode:02X}h is another part's already")
    if isinstance(found, dict):
        found[action or 0] = row
    else:
        table[opcode] = row


def remove(table: RowTable, command: type[Command]) -> Row:
    """Takes a command's row out of a table. KeyError: it is not there."""
    found = table[command.opcode]
    if not isinstance(found, dict):
        del table[command.opcode]
        return found
    row = found.pop(command.service_action or 0)
    if not found:
        del table[command.opcode]
    return row


def find_row(table: RowTable, cdb: bytes) -> Row | None:
    """The row for a CDB; None when the operation code or the service action is not supported."""
    found = table.get(cdb[0])
    if isinstance(found, dict):
        action = next(iter(found.values())).command.service_action_of(cdb)
        return found.get(action)
    return found


def row_of(table: RowTable, command: type[Command]) -> Row:
    """The row of a command that the device supports; KeyError when it does not."""
    found = table[command.opcode]
    return found if isinstance(found, Row) else found[command.service_action or 0]


def all_rows(table: RowTable) -> list[Row]:
    """Every row, in the order of operation code and service action."""
    rows: list[Row] = []
    for _, found in sorted(table.items()):
        rows += [row for _, row in sorted(found.items())] if isinstance(found, dict) else [found]
    return rows

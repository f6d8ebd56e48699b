"""Which commands one logical unit has, and who handles each: the rows and methods of its spine and of its parts."""

from __future__ import annotations

from collections.abc import Callable

from scsi_targets.devices.unit.dispatch import Row, RowTable, all_rows, collect_rows, copy_table, insert, remove
from scsi_targets.devices.unit.part import Part
from scsi_targets.devices.unit.task import Outcome
from scsi_targets.t10.fields import Command


class CommandTable:
    """rows: by operation code and service action. handlers: by command, its rows' methods, bound."""

    def __init__(self, spine: Part, rows: RowTable) -> None:
        self.rows = copy_table(rows)
        self.handlers: dict[type[Command], Callable[..., Outcome]] = {}
        self._withdrawn: RowTable = {}
        for row in all_rows(self.rows):
            self._handle_by(spine, row)

    def add(self, part: Part) -> None:
        """The commands of a part. Raises TypeError when another has one of them already."""
        for row in all_rows(collect_rows(type(part))):
            insert(self.rows, row, twice=False)
            self._handle_by(part, row)

    def withdraw(self, *commands: type[Command]) -> None:
        """Takes commands out of the table, those of before coming back: what the device cannot do with its medium."""
        for row in all_rows(self._withdrawn):
            insert(self.rows, row)
        self._withdrawn = {}
        for command in commands:
            insert(self._withdrawn, remove(self.rows, command))

    def _handle_by(self, part: Part, row: Row) -> None:
        self.handlers[row.command] = getattr(part, row.method)

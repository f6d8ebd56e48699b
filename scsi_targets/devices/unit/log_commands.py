"""LOG SENSE and LOG SELECT (SPC-5 6.7, 6.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scsi_targets.devices.unit.dispatch import ALLOWED, CONFLICTS, handles
from scsi_targets.devices.unit.parameter_data import reply
from scsi_targets.devices.unit.part import LOG_PAGE, Part, marked, merged
from scsi_targets.devices.unit.principal import Permission
from scsi_targets.devices.unit.task import Response, Task
from scsi_targets.t10 import log_pages, sense, spc
from scsi_targets.t10.log_pages import SUPPORTED_SUBPAGES, LogParameter
from scsi_targets.t10.sense import CheckCondition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scsi_targets.devices.unit.logical_unit import LogicalUnit


class LogCommands(Part):
    """Serves the log pages of all parts; 00h and the lists of subpages derive from them."""

    def __init__(self, unit: LogicalUnit, parts: Sequence[Part]) -> None:
        self._unit = unit
        self.pages = merged(parts, LOG_PAGE)
        self._sources = {key: part for part in parts for key in marked(part, LOG_PAGE)}

    @handles(spc.LogSense, reservation=ALLOWED)
    def log_sense(self, cdb: spc.LogSense, task: Task) -> Response:
        if cdb.save_parameters:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.LogSense.save_parameters)
        key = cdb.page_code, cdb.subpage_code
        listed = self._supported_list(*key)
        if listed is not None:
            header = log_pages.LogPageHeader.encode(
                subpage_format=bool(cdb.subpage_code), page_code=cdb.page_code, subpage_code=cdb.subpage_code,
                page_length=len(listed),
            )  # fmt: skip
            return reply(header + listed, cdb.allocation_length)
        if key not in self.pages:
            known = any(page == cdb.page_code for page, _ in self.pages)
            field = spc.LogSense.subpage_code if known else spc.LogSense.page_code
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, field)
        parameters: list[LogParameter] = self.pages[key](task.nexus)
        if cdb.parameter_pointer and all(p.code < cdb.parameter_pointer for p in parameters):
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.LogSense.parameter_pointer)
        data = log_pages.log_page(*key, parameters, from_code=cdb.parameter_pointer)
        self._sources[key].on_log_page_read(*key, task.nexus)
        return reply(data, cdb.allocation_length)

    def _supported_list(self, page: int, subpage: int) -> bytes | None:
        """The supported pages (00h), pages and subpages (00h/FFh) or one page's subpages (page/FFh); None when another
        page is asked for."""
        pages = sorted({(0, 0), (0, SUPPORTED_SUBPAGES), *self.pages})
        if (page, subpage) == (0, 0):
            return bytes(sorted({p for p, _ in pages}))
        if subpage == SUPPORTED_SUBPAGES:
            chosen = [(p, s) for p, s in pages if page in (0, p)]
            if chosen:
                return b"".join(bytes(pair) for pair in chosen)
        return None

    @handles(spc.LogSelect, permission=Permission.WRITE_PARAMETERS, reservation=CONFLICTS)
    def log_select(self, cdb: spc.LogSelect, task: Task) -> None:
        if cdb.parameter_list_length:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.LogSelect.parameter_list_length)
        if cdb.save_parameters:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.LogSelect.save_parameters)
        chosen = [
            key
            for key in self.pages
            if (cdb.page_code, cdb.subpage_code) in ((0, 0), key, (key[0], SUPPORTED_SUBPAGES))
        ]
        if not chosen:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.LogSelect.page_code)
        if cdb.parameter_code_reset:
            for key in chosen:
                self._sources[key].reset_log_page(*key)
            self._unit.tell_others(task.nexus, sense.LOG_PARAMETERS_CHANGED)

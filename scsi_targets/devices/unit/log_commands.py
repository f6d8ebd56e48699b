"""LOG SENSE and LOG SELECT (SPC-5 6.7, 6.8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from scsi_targets.devices.unit.dispatch import ALLOWED, CONFLICTS, handles
from scsi_targets.devices.unit.parameter_data import reply
from scsi_targets.devices.unit.primary import PrimaryCommands
from scsi_targets.devices.unit.task import Response, Task
from scsi_targets.t10 import log_pages, sense, spc
from scsi_targets.t10.log_pages import SUPPORTED_SUBPAGES, LogParameter
from scsi_targets.t10.sense import CheckCondition

LogValues = Callable[[Any], list[LogParameter]]


def log_page(page: int, subpage: int = 0) -> Callable[[LogValues], LogValues]:
    """Marks a method `(self) -> list[LogParameter]` as the source of a log page."""

    def mark(method: LogValues) -> LogValues:
        method.__dict__["_log_page"] = (page, subpage)
        return method

    return mark


class LogCommands(PrimaryCommands):
    """A device declares its pages by @log_page; 00h and the subpage lists derive from them."""

    log_page_methods: ClassVar[dict[tuple[int, int], str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.log_page_methods = {
            member.__dict__["_log_page"]: name
            for base in reversed(cls.__mro__)
            for name, member in vars(base).items()
            if "_log_page" in getattr(member, "__dict__", {})
        }

    def reset_log_page(self, page: int, subpage: int) -> None:
        """LOG SELECT with PCR: a device sets the page's resettable counters to zero."""

    @handles(spc.LogSense, reservation=ALLOWED)
    def log_sense(self, cdb: spc.LogSense, task: Task) -> Response:
        if cdb.save_parameters:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.LogSense.save_parameters)
        listed = self._supported_list(cdb.page_code, cdb.subpage_code)
        if listed is not None:
            first = cdb.page_code | (0x40 if cdb.subpage_code else 0)
            return reply(
                bytes([first, cdb.subpage_code]) + len(listed).to_bytes(2, "big") + listed, cdb.allocation_length
            )
        method = self.log_page_methods.get((cdb.page_code, cdb.subpage_code))
        if method is None:
            known = any(page == cdb.page_code for page, _ in self.log_page_methods)
            field = spc.LogSense.subpage_code if known else spc.LogSense.page_code
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, field)
        parameters: list[LogParameter] = getattr(self, method)()
        if cdb.parameter_pointer and all(p.code < cdb.parameter_pointer for p in parameters):
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.LogSense.parameter_pointer)
        data = log_pages.log_page(cdb.page_code, cdb.subpage_code, parameters, from_code=cdb.parameter_pointer)
        return reply(data, cdb.allocation_length)

    def _supported_list(self, page: int, subpage: int) -> bytes | None:
        """The supported pages (00h), pages and subpages (00h/FFh) or one page's subpages (page/FFh)."""
        pages = sorted({(0, 0), (0, SUPPORTED_SUBPAGES), *self.log_page_methods})
        if (page, subpage) == (0, 0):
            return bytes(sorted({p for p, _ in pages}))
        if subpage == SUPPORTED_SUBPAGES:
            chosen = [(p, s) for p, s in pages if page in (0, p)]
            if chosen:
                return b"".join(bytes(pair) for pair in chosen)
        return None

    @handles(spc.LogSelect, reservation=CONFLICTS)
    def log_select(self, cdb: spc.LogSelect, task: Task) -> None:
        if cdb.parameter_list_length:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.LogSelect.parameter_list_length)
        if cdb.save_parameters:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.LogSelect.save_parameters)
        chosen = [
            key
            for key in self.log_page_methods
            if (cdb.page_code, cdb.subpage_code) in ((0, 0), key, (key[0], SUPPORTED_SUBPAGES))
        ]
        if not chosen:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.LogSelect.page_code)
        if cdb.parameter_code_reset:
            for page, subpage in chosen:
                self.reset_log_page(page, subpage)
            self.tell_others(task.nexus, sense.LOG_PARAMETERS_CHANGED)

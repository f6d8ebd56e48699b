"""SEND DIAGNOSTIC and RECEIVE DIAGNOSTIC RESULTS (SPC-5 6.28, 6.42)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scsi_targets.devices.unit.dispatch import CONFLICTS, READS, handles
from scsi_targets.devices.unit.parameter_data import parameter_list, reply
from scsi_targets.devices.unit.part import DIAGNOSTIC_PAGE, Part, diagnostic_page, merged
from scsi_targets.devices.unit.principal import Permission
from scsi_targets.t10 import sense, spc
from scsi_targets.t10.sense import CheckCondition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scsi_targets.devices.unit.task import Response, Task

# SELF-TEST CODE: the default self-test, background and foreground ones, aborting a background one (SPC-5 table 221).
SELF_TESTS = frozenset({0, 1, 2, 4, 5, 6})


class Diagnostics(Part):
    """Has the parts test themselves, and gives them the diagnostic pages that they take. Page 00h is its own."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self.pages = merged([self, *parts], DIAGNOSTIC_PAGE)

    @handles(spc.SendDiagnostic, permission=Permission.WRITE_PARAMETERS, reservation=CONFLICTS)
    def send_diagnostic(self, cdb: spc.SendDiagnostic, task: Task) -> None:
        if cdb.self_test_code not in SELF_TESTS or (cdb.self_test and cdb.self_test_code):
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.SendDiagnostic.self_test_code)
        if cdb.parameter_list_length:
            self._take_diagnostic_page(cdb, task)
        else:
            for part in self._parts:
                part.self_test()

    def _take_diagnostic_page(self, cdb: spc.SendDiagnostic, task: Task) -> None:
        field = spc.SendDiagnostic.parameter_list_length
        if cdb.self_test or cdb.self_test_code:  # then there must be no parameter list (SPC-5 6.42)
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, field)
        if not cdb.page_format:  # vendor-specific parameters, of which there are none
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.SendDiagnostic.page_format)
        data = parameter_list(task, cdb.parameter_list_length, field, minimum=spc.DiagnosticPageHeader.length)
        header = spc.DiagnosticPageHeader.decode(data)
        if header.page_code not in self.pages:
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, spc.DiagnosticPageHeader.page_code)
        if len(data) != spc.DiagnosticPageHeader.length + header.page_length:
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, spc.DiagnosticPageHeader.page_length)
        self.pages[header.page_code](data[spc.DiagnosticPageHeader.length :])

    @diagnostic_page(0x00)
    def select_supported_diagnostic_pages(self, body: bytes) -> None:
        """Page 00h selects what RECEIVE DIAGNOSTIC RESULTS returns, which is page 00h in any case (SPC-5 7.2.13)."""
        if body:
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, spc.DiagnosticPageHeader.page_length)

    @handles(spc.ReceiveDiagnosticResults, reservation=READS)
    def receive_diagnostic_results(self, cdb: spc.ReceiveDiagnosticResults, task: Task) -> Response:
        if cdb.page_code_valid and cdb.page_code:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, spc.ReceiveDiagnosticResults.page_code)
        listed = bytes(sorted(self.pages))
        header = spc.DiagnosticPageHeader.encode(page_code=0, page_length=len(listed))
        return reply(header + listed, cdb.allocation_length)

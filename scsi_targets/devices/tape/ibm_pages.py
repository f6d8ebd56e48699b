"""What IBM drives have of their own, as far as hosts ask for it: mode pages 24h and 25h, diagnostic page 80h."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from scsi_targets.devices.unit.part import Part, diagnostic_page
from scsi_targets.t10 import sense, spc
from scsi_targets.t10.sense import CheckCondition
from scsi_targets.t10.ssc_pages import (
    CRC32C,
    REED_SOLOMON_CRC,
    InitiatorSpecificExtensionsPage,
    ReadWriteControlPage,
)

if TYPE_CHECKING:
    from scsi_targets.devices.unit.mode import ModePages
    from scsi_targets.t10.mode_pages import ModePage

log = structlog.get_logger(__name__)

DRIVE_DUMP_PAGE = 0x80
FORCE_DUMP = 0x0160
DRIVE_DUMP_PARAMETERS_BYTES = 4  # a diagnostic to run, 2 bytes, and 2 reserved ones


class IbmPages(Part):
    """protection_methods: of logical block protection. density_code: tells the loaded medium's density, 0 without."""

    def __init__(self, protection_methods: tuple[int, ...], density_code: Callable[[], int]) -> None:
        self._protection_methods = protection_methods
        self._density_code = density_code

    def mode_pages(self) -> Mapping[type[ModePage], Mapping[str, Any]]:
        methods = self._protection_methods
        return {
            InitiatorSpecificExtensionsPage: {
                "reed_solomon_crc": REED_SOLOMON_CRC in methods,
                "crc32c": CRC32C in methods,
            },
            ReadWriteControlPage: {},
        }

    def refresh_mode_pages(self, mode: ModePages) -> None:
        mode.update(ReadWriteControlPage, density_code=self._density_code())

    @diagnostic_page(DRIVE_DUMP_PAGE)
    def run_diagnostic(self, body: bytes) -> None:
        """LTFS asks for a dump whenever it meets an error that it does not expect, and then for its length by READ
        BUFFER: this drive has no state that a dump could show, so its dump is empty."""
        if len(body) != DRIVE_DUMP_PARAMETERS_BYTES:
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, spc.DiagnosticPageHeader.page_length)
        if int.from_bytes(body[:2], "big") != FORCE_DUMP:
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, spc.DiagnosticPageHeader.length)
        log.info("a host asked for a dump of the drive")

"""The mode pages of a disk, and what they govern: the write-back cache and software write protection (SBC-4 6.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from scsi_targets.devices.unit.part import Part
from scsi_targets.t10.mode_pages import DisconnectReconnectModePage, InformationalExceptionsModePage, ModePage
from scsi_targets.t10.sbc_pages import BlockControlModePage, CachingModePage, ReadWriteErrorRecoveryModePage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scsi_targets.devices.disk.storage import BlockStorage
    from scsi_targets.devices.unit.mode import ModePages, SelectedPage

log = structlog.get_logger(__name__)

PAGES: tuple[type[ModePage], ...] = (
    ReadWriteErrorRecoveryModePage,
    DisconnectReconnectModePage,
    CachingModePage,
    BlockControlModePage,
    InformationalExceptionsModePage,
)


class DiskModes(Part):
    """WCE of the Caching mode page and SWP of the Control mode page."""

    def __init__(self, disk: BlockStorage) -> None:
        self._disk = disk

    def extended_inquiry_fields(self) -> Mapping[str, Any]:
        return {"volatile_cache": True}

    def mode_pages(self) -> Mapping[type[ModePage], Mapping[str, Any]]:
        return {page: {} for page in PAGES}

    def prepare_mode_pages(self, pages: Sequence[SelectedPage]) -> None:
        for page, raw, _ in pages:
            if page is CachingModePage and not CachingModePage(raw).writeback_cache_enable:
                self._end_caching()

    def apply_mode_pages(self, mode: ModePages) -> None:
        if mode.current(CachingModePage).writeback_cache_enable:
            self._disk.writeback_cache = True
        elif self._disk.writeback_cache:  # by a reset: MODE SELECT has prepared it
            try:
                self._end_caching()
            except OSError as error:  # a reset has no status to tell it with
                log.error("the cache could not be written", disk=self._disk.state_key, reason=str(error))
                self._disk.writeback_cache = False
        self._disk.software_write_protect = bool(mode.current(BlockControlModePage).software_write_protect)
        self._disk.update_access()

    def _end_caching(self) -> None:
        """Whatever is written from now on is durable; then what is cached is made so, before anybody relies on WCE = 0
        (SBC-4 6.5.6). When that fails, caching goes on."""
        was, self._disk.writeback_cache = self._disk.writeback_cache, False
        try:
            self._disk.flush()
        except OSError:
            self._disk.writeback_cache = was
            raise

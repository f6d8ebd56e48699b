"""Logical block protection (SSC-5 4.2.27): each block between this drive and an initiator carries a CRC behind it.

An I_T nexus turns it on for itself, by the Control Data Protection mode page. Lengths on that nexus (TRANSFER LENGTH,
the fixed block length, what READ and VERIFY report) count the protection information; on the medium, and to every
other nexus, the block is as it was without. Copy managers never carry it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scsi_targets.devices.tape.part import TapePart
from scsi_targets.devices.unit.mode import ModePages
from scsi_targets.devices.unit.part import vpd_page
from scsi_targets.t10 import sense, vpd
from scsi_targets.t10.sense import CheckCondition
from scsi_targets.t10.ssc_pages import (
    PROTECTION_INFORMATION_LENGTH,
    ControlDataProtectionPage,
    LogicalBlockProtectionMethodDescriptor,
)

if TYPE_CHECKING:
    from scsi_targets.devices.unit.mode import SelectedPage
    from scsi_targets.devices.unit.task import Nexus, Task
    from scsi_targets.t10.mode_pages import ModePage

ALL_OTHER_PAGES, ALL_SUBPAGES = 0x3F, 0xFF


class BlockProtection(TapePart):
    """The switch, and what INQUIRY tells of it; the drive's transfers and VERIFY ask the drive which method is on."""

    def mode_pages(self) -> Mapping[type[ModePage], Mapping[str, Any]]:
        return {ControlDataProtectionPage: {}}

    def check_mode_pages(self, pages: Sequence[SelectedPage]) -> None:
        for selected in pages:
            if selected.page is ControlDataProtectionPage:
                self._check_protection(ControlDataProtectionPage(selected.raw), selected.offset)

    def _check_protection(self, page: ControlDataProtectionPage, offset: int) -> None:
        if not page.method:  # off, whatever the other fields say
            return
        if page.method not in self._drive.model.block_protection_methods:
            field = ControlDataProtectionPage.method
        elif page.information_length != PROTECTION_INFORMATION_LENGTH:
            field = ControlDataProtectionPage.information_length
        else:
            return
        raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, offset + field.byte)

    def apply_mode_pages(self, mode: ModePages) -> None:
        self._apply_protection(mode)

    def _apply_protection(self, mode: ModePages) -> None:
        pages = mode.own(ControlDataProtectionPage).items()
        for nexus in [nexus for nexus, page in pages if not page.method]:  # then LBP_W and LBP_R show zero as well
            mode.disown(ControlDataProtectionPage, nexus)
        self._drive.protecting_writes = {
            nexus: page.method for nexus, page in pages if page.method and page.protect_writes
        }
        self._drive.protecting_reads = {
            nexus: page.method for nexus, page in pages if page.method and page.protect_reads
        }

    def on_nexus_lost(self, nexus: Nexus) -> None:
        self._apply_protection(self._drive.mode)

    # ---- INQUIRY -------------------------------------------------------------------------------------------------

    def inquiry_fields(self) -> Mapping[str, Any]:
        return {"protect": 1}

    def extended_inquiry_fields(self) -> Mapping[str, Any]:
        # SPT 001b: a sequential-access device with logical block protection (SPC-5 7.8.8)
        return {"supported_protection_types": 0b001}

    @vpd_page(0x87)
    def mode_page_policy(self, task: Task) -> bytes:
        """Mode Page Policy (SPC-5 7.8.13): one page is each nexus's own, all others are shared."""
        page = ControlDataProtectionPage
        return vpd.ModePagePolicyDescriptor.encode(
            page_code=page.page, subpage_code=page.subpage, policy=vpd.PER_I_T_NEXUS_POLICY
        ) + vpd.ModePagePolicyDescriptor.encode(
            page_code=ALL_OTHER_PAGES, subpage_code=ALL_SUBPAGES, policy=vpd.SHARED_POLICY
        )

    @vpd_page(0xB5)
    def logical_block_protection(self, task: Task) -> bytes:
        """Logical Block Protection (SSC-5 8.5): the methods of this model."""
        return bytes(4) + b"".join(
            LogicalBlockProtectionMethodDescriptor.encode(method=method)
            for method in self._drive.model.block_protection_methods
        )

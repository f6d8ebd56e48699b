"""What a device is made of: a short spine and a list of parts.

The spine is LogicalUnit (queue, legality, attentions, reservations), PrimaryCommands (SPC's commands) and the base of
a kind of device (its medium and its transfers). Everything else is a part: a plain object with its own constructor and
its own state, that does not know the other parts' insides. What a part contributes stands in its class:

    class EchoBuffer(Part):
        @handles(spc.WriteBuffer, reservation=CONFLICTS)      # commands, as rows of the device's table
        @log_page(0x2E)        (self, nexus) -> list[LogParameter]
        @vpd_page(0xB0)        (self, task) -> bytes
        @diagnostic_page(0x80) (self, body) -> None           # that SEND DIAGNOSTIC takes
        def mode_pages(self): ...                             # and check_, prepare_, apply_, refresh_mode_pages
        def on_reset(self): ...                               # the events that it wants

A device's constructor makes its parts and ends with `self.attach(one, another, ...)`. Events reach the parts in that
order. A command, log page, VPD page or diagnostic page that two parts declare is a TypeError when they are attached. A
mode page may be named by several parts, when its fields concern several: it is there once, with all their defaults. A
kind of device has a base class of its own for the events of its medium (TapePart, DiskPart), delivered the same way.

Handlers, pages and events run under the unit's lock, but for handlers whose row says `slow` or `concurrent`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from scsi_targets.devices.unit.mode import ModePages, SelectedPage
    from scsi_targets.devices.unit.task import Nexus
    from scsi_targets.t10.mode_pages import ModePage

Method = TypeVar("Method", bound=Callable[..., Any])

# The attributes by which the decorators below mark a method.
LOG_PAGE, VPD_PAGE, DIAGNOSTIC_PAGE = "_log_page", "_vpd_page", "_diagnostic_page"


class Part:
    """Nothing yet: each part overrides what it has. All of it is optional."""

    # ---- INQUIRY ---------------------------------------------------------------------------------------------------

    def inquiry_fields(self) -> Mapping[str, Any]:
        """Fields of StandardInquiryData that this part sets."""
        return {}

    def extended_inquiry_fields(self) -> Mapping[str, Any]:
        """Fields of ExtendedInquiryData (VPD page 86h) that this part sets."""
        return {}

    # ---- mode pages ------------------------------------------------------------------------------------------------

    def mode_pages(self) -> Mapping[type[ModePage], Mapping[str, Any]]:
        """The mode pages that this part has a say in, and the defaults of fields that depend on the device. Asked once,
        when the part is attached."""
        return {}

    def check_mode_pages(self, pages: Sequence[SelectedPage]) -> None:
        """MODE SELECT: checks values that the changeable mask cannot. Raises CheckCondition, changes nothing."""

    def prepare_mode_pages(self, pages: Sequence[SelectedPage]) -> None:
        """MODE SELECT, all checked: does what must have succeeded before these pages become current, and may raise."""

    def on_mode_pages_restored(self) -> None:
        """The saved values are the current ones again: the start, or a reset. apply_mode_pages() follows."""

    def apply_mode_pages(self, mode: ModePages) -> None:
        """Brings current values into effect, however they came: at the start, by MODE SELECT, by a reset. Once each."""

    def refresh_mode_pages(self, mode: ModePages) -> None:
        """MODE SENSE is about to be answered: updates pages that mirror the part's state."""

    # ---- log pages and self-test -----------------------------------------------------------------------------------

    def on_log_page_read(self, page: int, subpage: int, nexus: Nexus) -> None:
        """A page of this part was given to a nexus."""

    def reset_log_page(self, page: int, subpage: int) -> None:
        """LOG SELECT with PCR: sets the resettable counters of one of this part's pages to zero."""

    def self_test(self) -> None:
        """SEND DIAGNOSTIC: raises CheckCondition when this part cannot do its work."""

    # ---- events ----------------------------------------------------------------------------------------------------

    def on_reset(self) -> None:
        """A logical unit reset: drops what does not survive it."""

    def on_nexus_lost(self, nexus: Nexus) -> None:
        """A nexus went away: drops what that nexus held."""

    def on_reservations_changed(self, *, preempted: bool) -> None:
        """Somebody may have lost a reservation; `preempted`: another nexus took it away."""

    def close(self) -> None:
        """The device ends: stops threads, forgets secrets. Commands have ended."""


def _marking(attribute: str, key: object) -> Callable[[Method], Method]:
    def mark(method: Method) -> Method:
        method.__dict__[attribute] = key
        return method

    return mark


def log_page(page: int, subpage: int = 0) -> Callable[[Method], Method]:
    """Marks a method `(self, nexus) -> list[LogParameter]` as the source of a log page."""
    return _marking(LOG_PAGE, (page, subpage))


def vpd_page(page_code: int) -> Callable[[Method], Method]:
    """Marks a method `(self, task) -> bytes` as the body of a VPD page (header excluded)."""
    return _marking(VPD_PAGE, page_code)


def diagnostic_page(page_code: int) -> Callable[[Method], Method]:
    """Marks a method `(self, body) -> None` as what SEND DIAGNOSTIC does with a page (header excluded)."""
    return _marking(DIAGNOSTIC_PAGE, page_code)


def marked(owner: object, attribute: str) -> dict[Any, Callable[..., Any]]:
    """The methods of an object that one of the above marked, by page; a subclass's takes the place of its base's."""
    names = {
        member.__dict__[attribute]: name
        for base in reversed(type(owner).__mro__)
        for name, member in vars(base).items()
        if attribute in getattr(member, "__dict__", {})
    }
    return {key: getattr(owner, name) for key, name in names.items()}


def merged(owners: Sequence[object], attribute: str) -> dict[Any, Callable[..., Any]]:
    """What all of them have marked together. TypeError: two have the same page."""
    found: dict[Any, Callable[..., Any]] = {}
    for owner in owners:
        own = marked(owner, attribute)
        if twice := own.keys() & found.keys():
            raise TypeError(f"{type(owner).__name__}: {attribute[1:]} {sorted(twice)} is another part's already")
        found |= own
    return found

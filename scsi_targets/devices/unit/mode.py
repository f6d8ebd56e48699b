"""The mode pages of one logical unit: current, default and saved values, MODE SENSE's choice, MODE SELECT's checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from scsi_targets.t10 import sense
from scsi_targets.t10.mode_pages import ModePage
from scsi_targets.t10.sense import CheckCondition

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scsi_targets.devices.unit.task import Nexus

ALL_PAGES = 0x3F
ALL_SUBPAGES = 0xFF
CURRENT, CHANGEABLE, DEFAULT, SAVED = 0, 1, 2, 3

AnyModePage = TypeVar("AnyModePage", bound=ModePage)


class SelectedPage(NamedTuple):
    """A page of a MODE SELECT parameter list: its class, its bytes, where it lies in the list (for field pointers)."""

    page: type[ModePage]
    raw: bytes
    offset: int


class ModePages:
    """The pages a logical unit supports. `defaults` overrides declared defaults: {PageClass: {field: value}}."""

    def __init__(
        self,
        pages: list[type[ModePage]],
        defaults: dict[type[ModePage], dict[str, Any]] | None = None,
        saved: dict[str, str] | None = None,
    ) -> None:
        self._classes = {(p.page, p.subpage): p for p in sorted(pages, key=lambda p: (p.page, p.subpage))}
        given = defaults or {}
        self._default = {key: p.encode(**given.get(p, {})) for key, p in self._classes.items()}
        self._saved = dict(self._default)
        for name, raw in (saved or {}).items():
            page, subpage = (int(part, 16) for part in name.split("/"))
            known = self._classes.get((page, subpage))
            if known is not None and known.savable and len(bytes.fromhex(raw)) == known.length:
                self._saved[page, subpage] = bytes.fromhex(raw)
        self._current = dict(self._saved)
        # Of pages whose policy is per I_T nexus: the current values of each that has set any (SPC-5 7.8.13).
        self._own: dict[Nexus, dict[tuple[int, int], bytes]] = {}

    def __contains__(self, page: type[ModePage]) -> bool:
        return (page.page, page.subpage) in self._classes

    def current(self, page: type[AnyModePage]) -> AnyModePage:
        """The page's current values, decoded; of one whose policy is per I_T nexus, those of a new nexus."""
        return page(self._current[page.page, page.subpage])

    def own(self, page: type[AnyModePage]) -> dict[Nexus, AnyModePage]:
        """A page whose policy is per I_T nexus: the current values of each nexus that has set it."""
        key = page.page, page.subpage
        return {nexus: page(pages[key]) for nexus, pages in self._own.items() if key in pages}

    def forget(self, nexus: Nexus) -> None:
        """A nexus is lost, and its own values with it."""
        self._own.pop(nexus, None)

    def disown(self, page: type[ModePage], nexus: Nexus) -> None:
        """A nexus has the values of a new one again."""
        self._own.get(nexus, {}).pop((page.page, page.subpage), None)

    def _current_of(self, nexus: Nexus | None) -> dict[tuple[int, int], bytes]:
        own = self._own.get(nexus) if nexus is not None else None
        return self._current | own if own else self._current

    def update(self, page: type[ModePage], **values: Any) -> None:
        """Changes current values from inside the device (a position, a state), changeable or not."""
        self._current[page.page, page.subpage] = self.current(page).replace(**values)

    def restore_saved(self) -> None:
        """Reset: current values become the saved ones (SPC-5 5.11)."""
        self._current = dict(self._saved)
        self._own.clear()

    def saved_state(self, pages: Iterable[SelectedPage] = ()) -> dict[str, str]:
        """The saved values that differ from the defaults, as JSON keeps them; with `pages`, as after saving them."""
        new = {(page.page, page.subpage): raw for page, raw, _ in pages if page.savable}
        saved = (self._saved | new).items()
        return {f"{p:02x}/{s:02x}": raw.hex() for (p, s), raw in saved if raw != self._default[p, s]}

    # ---- MODE SENSE ------------------------------------------------------------------------------------------------

    def select_pages(self, page: int, subpage: int) -> list[tuple[int, int]]:
        """Which pages a MODE SENSE asks for (SPC-5 table 148); empty when it asks for none that is supported."""
        if page == ALL_PAGES:
            return [key for key in self._classes if key[1] == 0 or subpage == ALL_SUBPAGES]
        return [key for key in self._classes if key[0] == page and subpage in (key[1], ALL_SUBPAGES)]

    def encode(self, keys: list[tuple[int, int]], page_control: int, nexus: Nexus | None = None) -> bytes:
        """The pages' bytes for a PC value: 0 current (for that nexus), 1 changeable, 2 default, 3 saved."""
        out = bytearray()
        tables = {CURRENT: self._current_of(nexus), DEFAULT: self._default, SAVED: self._saved}
        for key in keys:
            page = self._classes[key]
            if page_control == CHANGEABLE:
                raw = bytearray(page.changeable_mask())
            else:
                raw = bytearray(tables[page_control][key])
            if page.savable:
                raw[0] |= 0x80
            out += raw
        return bytes(out)

    # ---- MODE SELECT -----------------------------------------------------------------------------------------------

    def parse(self, data: bytes, offset: int, nexus: Nexus | None = None) -> list[SelectedPage]:
        """The pages of a MODE SELECT parameter list, checked; nothing is changed. `offset` is where `data` lies in the
        parameter list, for the field pointers. Raises CheckCondition (SPC-5 6.11, 7.5)."""
        found: list[SelectedPage] = []
        current = self._current_of(nexus)
        at = 0
        while at < len(data):
            page, length = self._page_at(data, at, offset)
            before = current[page.page, page.subpage]
            header = before[: page.header_length()]  # without PS, reserved in MODE SELECT
            new = (header + data[at + len(header) : at + length]).ljust(page.length, b"\0")
            self._check_changes(page, before, new, offset + at)
            found.append(SelectedPage(page, new, offset + at))
            at += length
        return found

    def _page_at(self, data: bytes, at: int, offset: int) -> tuple[type[ModePage], int]:
        long_format = bool(data[at] & 0x40)
        head = 4 if long_format else 2
        if at + head > len(data):
            raise CheckCondition(sense.PARAMETER_LIST_LENGTH_ERROR)
        subpage = data[at + 1] if long_format else 0
        page = self._classes.get((data[at] & 0x3F, subpage))
        if page is None:
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, offset + at)
        length = head + (int.from_bytes(data[at + 2 : at + 4], "big") if long_format else data[at + 1])
        if not page.shortest <= length <= page.length:
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, offset + at + (2 if long_format else 1))
        if at + length > len(data):
            raise CheckCondition(sense.PARAMETER_LIST_LENGTH_ERROR)
        return page, length

    @staticmethod
    def _check_changes(page: type[ModePage], current: bytes, new: bytes, offset: int) -> None:
        for at, (old, asked, mask) in enumerate(zip(current, new, page.changeable_mask(), strict=True)):
            if at >= page.header_length() and (old ^ asked) & ~mask & 0xFF:
                raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, offset + at)

    def apply(self, pages: list[SelectedPage], save: bool, nexus: Nexus | None = None) -> set[type[ModePage]]:
        """Makes parsed pages current, for all or for that nexus as their policy is, and saved; returns the pages whose
        current values changed."""
        changed: set[type[ModePage]] = set()
        for page, raw, _ in pages:
            key = page.page, page.subpage
            if self._current_of(nexus)[key] != raw:
                changed.add(page)
            if page.per_nexus and nexus is not None:
                self._own.setdefault(nexus, {})[key] = raw
            else:
                self._current[key] = raw
            if save and page.savable:
                self._saved[key] = raw
        return changed

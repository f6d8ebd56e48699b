"""What a change of a library's content would do, to who is logged in and to cartridges. Nothing is changed here.

plan() compares two settings and looks at nothing else but what it is given, so that the same answer serves a dry run,
the refusal of a change that would lose a cartridge, and a test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from appliance.access.directory import Directory
from appliance.library.partitions import Holding
from appliance.settings.numbers import format_numbers
from appliance.settings.sections import CHANGER, PartitionSettings
from appliance.settings.settings import Settings
from scsi_targets.iscsi.directory import DirectoryError, Who
from vlib_images.library.elements import ElementType, Place
from vlib_images.library.partition import admits

_WORDS = {ElementType.STORAGE: ("slot", 1), ElementType.IMPORT_EXPORT: ("ie", 1), ElementType.DRIVE: ("drive", 0)}


@dataclass(frozen=True, slots=True)
class Situation:
    """Who is logged in (by the number of the session), and which cartridge is in which place of the library."""

    sessions: Mapping[int, Who] = field(default_factory=dict)
    cartridges: Mapping[Place, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SessionEffect:
    """What one session would see of it; lines for people. ends: why it would be logged out, "" when it stays."""

    session: int
    initiator: str
    target: str
    gains: tuple[str, ...] = ()
    loses: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    ends: str = ""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A cartridge that would lose its place or its partition, or not fit the rule of its partition."""

    barcode: str
    place: Place
    reason: str
    gone: bool = False  # the place itself would be

    def __str__(self) -> str:
        word, first = _WORDS[self.place[0]]
        return f"cartridge {self.barcode} is in {word}:{self.place[1] + first}, {self.reason}"


@dataclass(frozen=True, slots=True)
class Effects:
    """sessions: those that would notice anything. orphans: why the change is refused."""

    sessions: tuple[SessionEffect, ...]
    orphans: tuple[Orphan, ...]


def refusal(orphans: Sequence[Orphan]) -> str:
    """What to tell an operator whose change is refused."""
    more = f" (and {len(orphans) - 1} more)" if len(orphans) > 1 else ""
    in_a_drive = any(orphan.place[0] is ElementType.DRIVE for orphan in orphans)
    return f"{orphans[0]}{more}" + ("" if in_a_drive else "; --to-shelf puts such cartridges on the shelf")


def plan(old: Settings, new: Settings, state: Situation) -> Effects:
    """The effects of going from `old` to `new`."""
    return Effects(tuple(_sessions(old, new, state.sessions)), tuple(_orphans(old, new, state.cartridges)))


# ---- sessions --------------------------------------------------------------------------------------------------------


def _sessions(old: Settings, new: Settings, sessions: Mapping[int, Who]) -> Iterator[SessionEffect]:
    if not sessions:
        return  # directories of many zones take milliseconds
    was, changed = Directory(old, {}), _changed_devices(old, new)
    directories = was, Directory(new, {}, before=was)
    for number, who in sessions.items():
        if (effect := _session(number, who, directories, changed)) is not None:
            yield effect


def _session(
    number: int, who: Who, directories: tuple[Directory, Directory], changed: Mapping[str, str]
) -> SessionEffect | None:
    """None: it would notice nothing, or is none of the library's targets (the gate's)."""
    was, _ = _seen(directories[0], who)
    if was is None or who.target_name is None:
        return None
    now, reason = _seen(directories[1], who)
    found = SessionEffect(
        number,
        who.initiator_name,
        who.target_name,
        gains=tuple(_devices(now or {}, was)),
        loses=tuple(_devices(was, now or {})),
        changes=tuple(changed[name] for lun, name in (now or {}).items() if was.get(lun) == name and name in changed),
        ends=reason,
    )
    return found if found.gains or found.loses or found.changes or found.ends else None


def _seen(directory: Directory, who: Who) -> tuple[Mapping[int, str] | None, str]:
    """LUN to device; None, and why, for who may not log in."""
    try:
        return directory.decide(who)[1].luns, ""
    except DirectoryError as error:
        return None, str(error)


def _devices(of: Mapping[int, str], not_of: Mapping[int, str]) -> Iterator[str]:
    return (f"LUN {lun} {name}" for lun, name in of.items() if not_of.get(lun) != name)


def _changed_devices(old: Settings, new: Settings) -> dict[str, str]:
    """Media changers that stay and show other elements, with how: by device name."""
    was, now = ({each.name: _elements(settings, each) for each in _parts(settings)} for settings in (old, new))
    lines = {}
    for name in was.keys() & now.keys():
        differences = [f"{what} {was[name][what] or 'none'} -> {now[name][what] or 'none'}" for what in _WHATS
                       if was[name][what] != now[name][what]]  # fmt: skip
        if differences:
            lines[name] = f"{name}: {', '.join(differences)}"
    return lines


_WHATS = ("slots", "import/export slots", "drives", "barcodes", "model", "serial")


def _parts(settings: Settings) -> list[PartitionSettings]:
    """The partitions, or the whole library as one."""
    changer = settings.changer
    whole = PartitionSettings.model_construct(
        name=CHANGER,
        model=changer.model,
        serial=changer.serial,
        slots=f"1-{changer.slots}",
        import_export=f"1-{changer.import_export}" if changer.import_export else "",
        drives=[drive.name for drive in settings.drives],
        barcodes="*",
    )
    return settings.partitions or [whole]


def _elements(settings: Settings, part: PartitionSettings) -> dict[str, str]:
    return {
        "slots": format_numbers(part.slot_numbers()),
        "import/export slots": format_numbers(part.import_export_numbers()),
        "drives": ", ".join(part.drives),
        "barcodes": part.barcodes,
        "model": part.model or settings.changer.model,
        "serial": part.serial or "",
    }


# ---- cartridges ------------------------------------------------------------------------------------------------------


def _orphans(old: Settings, new: Settings, cartridges: Mapping[Place, str]) -> Iterator[Orphan]:
    if (old.changer, old.drives, old.partitions) == (new.changer, new.drives, new.partitions):
        return
    was, now = ([Holding(part, settings) for part in _parts(settings)] for settings in (old, new))
    there = {
        ElementType.STORAGE: new.changer.slots,
        ElementType.IMPORT_EXPORT: new.changer.import_export,
        ElementType.DRIVE: len(new.drives),
    }
    for place, barcode in sorted(cartridges.items()):
        before, after = _owner(was, place), _owner(now, place)
        if place[1] >= there.get(place[0], 0):
            yield Orphan(barcode, place, "which would go; move it to another place first", gone=True)
        elif old.partitions and new.partitions and before and (after is None or after.name != before.name):
            yield Orphan(barcode, place, f"which would leave partition {before.name}; move it to another place first")
        elif after is not None and not admits(after.barcodes, barcode):
            yield Orphan(barcode, place, f"and does not fit the barcode rule of partition {after.name}; move it first")


def _owner(holdings: Sequence[Holding], place: Place) -> PartitionSettings | None:
    """The partition that a place is in."""
    return next((holding.partition for holding in holdings if place in holding), None)

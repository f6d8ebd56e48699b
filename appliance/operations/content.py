"""What the verbs that change the content of a library share: one section replaced, kept, and served at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Field

from appliance.failures import Failure, OperatorError
from appliance.operations.verb import OnFiles, Result, library_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pydantic import BaseModel

    from appliance.library.effects import Effects, Orphan
    from appliance.settings.content import Content
    from appliance.settings.sections import PartitionSettings, PoolSettings, ZoneSettings

AnyRow = TypeVar("AnyRow")
NamedRow = TypeVar("NamedRow", bound="PartitionSettings | PoolSettings | ZoneSettings")


ToShelf = Annotated[
    bool, Field(description="Put cartridges on the shelf whose place goes, or that would be in the wrong partition.")
]
DryRun = Annotated[bool, Field(description="Change nothing, only say what each session would gain and lose.")]


class SessionForecast(Result):
    """What a change does to one session; lines for people. ends: why it is logged out, "" when it stays."""

    session: int
    initiator: str
    target: str
    gains: list[str]
    loses: list[str]
    changes: list[str]
    ends: str


class Foreseen(Result):
    """What a dry run says: the sessions that would notice, and why the change would be refused."""

    sessions: list[SessionForecast]
    refused: list[str] = Field(description="The cartridges that would lose their place or partition.")


def change(context: OnFiles, make: Callable[[Content], dict[str, Any]], *, to_shelf: bool = False) -> None:
    """Replace sections: make(content) gives them by name. to_shelf: cartridges that would lose their place or partition
    go to the shelf, instead of forbidding it. Raises OperatorError, OSError; then nothing has changed."""
    with context.files.changing:
        content = context.files.contents.content
        carry_out(context, content.model_copy(update=make(content)), to_shelf=to_shelf)


def carry_out(context: OnFiles, content: Content, applied: Content | None = None, *, to_shelf: bool = False) -> None:
    """The same for a whole content, by who holds files.changing. applied: what tapebay.toml declares with it."""
    from appliance.library.change import change_contents

    orphans = _orphans(context, content)
    _refuse(orphans, to_shelf)
    with _on_the_shelf(context, orphans):
        change_contents(context.files, library_of(context), content, applied)


def _orphans(context: OnFiles, content: Content) -> Sequence[Orphan]:
    """Who changes a zone among hundreds does not wait for what cannot be."""
    now = context.files.contents.content
    if (now.changer, now.drives, now.partitions) == (content.changer, content.drives, content.partitions):
        return ()
    return effects(context, content, sessions=False).orphans


def foreseen(context: OnFiles, make: Callable[[Content], dict[str, Any]]) -> Foreseen:
    """What change() would do. Raises OperatorError when it would not be possible at all."""
    content = context.files.contents.content
    return described(effects(context, content.model_copy(update=make(content))))


def described(found: Effects) -> Foreseen:
    """For people and programs."""
    return Foreseen(
        sessions=[SessionForecast.model_validate(effect) for effect in found.sessions],
        refused=[str(orphan) for orphan in found.orphans],
    )


def effects(context: OnFiles, content: Content, *, sessions: bool = True) -> Effects:
    """What another content would do to cartridges and, if wanted, sessions. Raises OperatorError: its parts do not fit
    together."""
    from appliance.library.effects import Situation, plan

    files, library = context.files, library_of(context)
    records = library.server.sessions() if library is not None and sessions else []
    state = Situation(
        {record.tsih: record.who for record in records if record.target_name is not None}, files.inventory.places()
    )
    return plan(files.settings, files.contents.settings_with(files.contents.checked(content)), state)


def _refuse(orphans: Sequence[Orphan], to_shelf: bool) -> None:
    from appliance.library.effects import refusal
    from vlib_images.library.elements import ElementType

    loaded = [orphan for orphan in orphans if orphan.place[0] is ElementType.DRIVE]
    if loaded or (orphans and not to_shelf):
        raise OperatorError(Failure.REFUSED, refusal(loaded or orphans))


@contextmanager
def _on_the_shelf(context: OnFiles, orphans: Sequence[Orphan]) -> Iterator[None]:
    """They are on the shelf while the block runs, and stay there if it ends well. Raises RobotError: one is locked or
    reserved."""
    layout, moved = context.files.inventory.layout, []
    try:
        for orphan in orphans:
            address = layout.address_of(orphan.place)
            assert address is not None
            context.mover.remove(address)
            moved.append((orphan.barcode, address))
        yield
    except BaseException:
        for barcode, address in moved:
            context.mover.insert(barcode, address)
        raise


def section(model: type[BaseModel], /, **settings: Any) -> Any:
    """A section of what was given. Raises OperatorError USAGE that names what is wrong with it."""
    from pydantic import ValidationError

    from appliance.settings.problems import problems_of

    try:
        return model(**{name: value for name, value in settings.items() if value is not None})
    except ValidationError as error:
        raise OperatorError(Failure.USAGE, "\n".join(problems_of(error, model))) from None


def found(rows: Sequence[AnyRow], matches: Callable[[AnyRow], bool], what: str) -> AnyRow:
    """The row that matches. Raises OperatorError NOT_FOUND."""
    for row in rows:
        if matches(row):
            return row
    raise OperatorError(Failure.NOT_FOUND, f"there is no {what}")


def and_a_new(rows: Sequence[NamedRow], made: NamedRow, noun: str) -> list[NamedRow]:
    """Raises OperatorError when there is one of that name."""
    if any(row.name == made.name for row in rows):
        message = f"there is a {noun} {made.name} already; change it: tapebay {noun} change"
        raise OperatorError(Failure.REFUSED, message)
    return [*rows, made]


def names(text: str) -> list[str]:
    """What stands between commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def luns(text: str) -> dict[int, str]:
    """LUNs with their devices: 0=changer,1=drive0. Raises OperatorError USAGE."""
    found: dict[int, str] = {}
    for pair in names(text):
        written, separator, name = pair.partition("=")
        if not separator:
            raise OperatorError(Failure.USAGE, f"{pair!r} is no LUN and device; write for example 0=changer,1=drive0")
        if (lun := number(written, "LUN")) in found:
            raise OperatorError(Failure.USAGE, f"LUN {lun} is given twice")
        found[lun] = name.strip()
    return found


def number(text: str, what: str) -> int:
    """Raises OperatorError USAGE."""
    if not text.strip().isdecimal() or len(text) > 9:
        raise OperatorError(Failure.USAGE, f"{text!r} is no {what}; write a number")
    return int(text)


def more_and_fewer(
    where: str, what: str, there: Sequence[AnyRow], added: Sequence[AnyRow], removed: Sequence[AnyRow]
) -> list[AnyRow]:
    """A list with others at its end, and without some. Raises OperatorError REFUSED: one to be removed is not in it,
    one to be added is."""
    for each in removed:
        if each not in there:
            raise OperatorError(Failure.REFUSED, f"{where} has no {what} {each}")
    for each in added:
        if each in there:
            raise OperatorError(Failure.REFUSED, f"{where} has {what} {each} already")
    return [each for each in [*there, *added] if each not in removed]


def refuse_missing(what: str, named: Iterable[object], known: Iterable[object]) -> None:
    """Raises OperatorError NOT_FOUND when one that is named is not among those that are there, which are told."""
    there = list(known)
    for each in named:
        if each not in there:
            message = f"there is no {what} {each!r}; the library has {', '.join(map(str, there)) or 'none'}"
            raise OperatorError(Failure.NOT_FOUND, message)


def refuse_known(context: OnFiles, name: str) -> None:
    """Raises OperatorError REFUSED when a device has that name already."""
    if name in context.files.settings.device_names():
        raise OperatorError(Failure.REFUSED, f"there is a device {name} already; choose another name")

"""What a verb is: everything that can be done to a library is one, and every transport offers the same ones.

A verb is a function with a line of help, declared beside its noun:

    @verb("cartridge.show", Scope.READ)
    def show(context: OnFiles, parameters: OneCartridge) -> Cartridge:
        "One cartridge: where it is and what it is."

Its first parameter's class says what it needs (the settings, the library's files, a library that is served), its second
what it is told, its result's type what it answers: HTTP, OpenAPI, the Python client and the command line are made of
these. Modules of verbs import nothing heavy at their top, so that the command line answers at once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    NamedTuple,
    TypedDict,
    TypeVar,
    Unpack,
    get_args,
    get_type_hints,
)

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator

from appliance.access.caller import OWNER, Caller, Scope
from appliance.progress import Progress, no_progress
from appliance.settings.units import LEAST_MEDIUM_BYTES, parse_size_of_at_least

if TYPE_CHECKING:
    from appliance.library.files import LibraryFiles
    from appliance.library.library import Library
    from appliance.settings.settings import Settings

__all__ = ["DECLARED", "OnFiles", "OnLibrary", "OnSettings", "Parameters", "Result", "Scope", "Verb", "verb"]


class Parameters(BaseModel):
    """What a verb is told."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, given: Any) -> Any:
        """In JSON 3.0 is a whole number too."""
        if not isinstance(given, dict):
            return given
        return {name: int(v) if _is_whole(v) and cls._wants_int(name) else v for name, v in given.items()}

    @classmethod
    def _wants_int(cls, name: str) -> bool:
        annotation = cls.model_fields[name].annotation if name in cls.model_fields else None
        return int in (annotation, *get_args(annotation))


def _is_whole(value: object) -> bool:
    return isinstance(value, float) and value.is_integer()


class Nothing(Parameters):
    """For a verb that needs to be told nothing."""


class Result(BaseModel):
    """What a verb answers; made from an object with the same attributes too."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class Positional(NamedTuple):
    """Marks a parameter that the command line takes without a flag; `metavar` is what help calls it."""

    metavar: str


class Flag(NamedTuple):
    """Marks a parameter whose flag on the command line is not its name."""

    name: str


class Secret(NamedTuple):
    """Marks a parameter that the command line asks for, as others may read the arguments of a process. beside: only if
    that parameter is given."""

    beside: str = ""


class Volatile(NamedTuple):
    """Marks a field of a result that changes by itself: it makes no new version of what is shown."""


class Window(NamedTuple):
    """A page of a list, in the order of its key: up to `limit` rows whose key is more than `after`."""

    after: tuple[Any, ...] | None
    limit: int

    def cut(self, names: Sequence[str]) -> Sequence[str]:
        """Of all names, sorted, those of the page and the one after it, which says that there is more."""
        first = bisect_right(names, str(self.after[0])) if self.after else 0
        return names[first : first + self.limit + 1]


@dataclass(frozen=True)
class OnSettings:
    """What a verb works on that needs no more than the settings. config: the tapebay.toml.

    progress(done, total) may raise Cancelled: whoever asked is gone. caller: who asks. window: the rows of a list
    that are wanted; None: all. A verb may leave it to whoever asked to cut them out.
    """

    settings: Settings
    config: Path
    progress: Progress = field(default=no_progress, kw_only=True)
    caller: Caller = field(default=OWNER, kw_only=True)
    window: Window | None = field(default=None, kw_only=True)

    @property
    def log(self) -> Any:
        """Where a verb says what it did: a logger of structlog's, imported when it is needed."""
        import structlog

        return structlog.get_logger("appliance.operations")


@dataclass(frozen=True)
class OnFiles(OnSettings):
    """The library's files, open in this process: nobody else changes them meanwhile."""

    files: LibraryFiles

    @property
    def drives(self) -> dict[str, int]:
        """Drive names with their element addresses."""
        return self.files.drives

    @property
    def mover(self) -> Any:
        """What moves cartridges: the robot, or the inventory alone where no device is there."""
        return self.files.inventory


@dataclass(frozen=True)
class OnLibrary(OnFiles):
    """A library that is served."""

    library: Library

    @property
    def drives(self) -> dict[str, int]:
        return self.library.drive_addresses()

    @property
    def mover(self) -> Any:
        return self.library.robot


def library_of(context: OnFiles) -> Library | None:
    """The library, where it is served."""
    return context.library if isinstance(context, OnLibrary) else None


class Cancelled(Exception):
    """Whoever asked for a verb is gone, or the daemon stops; what was done so far stays."""


Still = Callable[[Any, Any], AbstractContextManager[Any]]
ShownBy = Callable[[Any, Any], dict[str, Any]]


@dataclass(frozen=True)
class Verb:
    """One row of the registry. needs: OnSettings, OnFiles or OnLibrary. makes: the parameter that is the barcode of a
    cartridge which it makes without the library's files, or "". confinable: it keeps to what is in its caller's reach,
    so that callers for a part of the library may ask for it too. key: of a list, what no two of its rows share; it
    can be had page by page in that order. changes: the verb that shows what it changes, by the same parameters. still:
    of a context and parameters, what nobody changes that without; by default files.changing. seen: of the same, the
    parameters of the verb that shows it, where they are others."""

    name: str
    scope: Scope
    needs: type[OnSettings]
    parameters: type[Parameters]
    result: Any
    run: Callable[[Any, Any], Any]
    reports_progress: bool = False
    makes: str = ""
    confinable: bool = False
    key: tuple[str, ...] = ()
    changes: str = ""
    still: Still | None = None
    seen: ShownBy | None = None

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """Of its result, for JSON. Made when it is needed: the command line declares all verbs and does one."""
        return TypeAdapter(self.result)

    @property
    def shows(self) -> bool:
        """Whether it changes nothing, and answers at once."""
        return not self.reports_progress and (self.scope is Scope.READ or self.name.endswith((".show", ".list")))

    @property
    def noun(self) -> str:
        """What it is about: the first part of its name."""
        return self.name.partition(".")[0]

    @property
    def summary(self) -> str:
        """One line of help."""
        return (self.run.__doc__ or "").strip().partition("\n")[0]


DECLARED: dict[str, Verb] = {}
"""Of the files that are imported; `appliance.operations.VERBS` has all."""

Function = TypeVar("Function", bound=Callable[[Any, Any], Any])


class Traits(TypedDict, total=False):
    """What a verb is declared with, beside its name and scope; Verb explains them."""

    reports_progress: bool
    makes: str
    confinable: bool
    key: tuple[str, ...]
    changes: str
    still: Still
    seen: ShownBy


def verb(name: str, scope: Scope, **traits: Unpack[Traits]) -> Callable[[Function], Function]:
    """Declares a function as a verb."""

    def declare(run: Function) -> Function:
        if name in DECLARED:
            raise ValueError(f"there are two verbs {name}")
        DECLARED[name] = row_of(name, scope, run, **traits)
        return run

    return declare


def row_of(name: str, scope: Scope, run: Callable[[Any, Any], Any], **traits: Unpack[Traits]) -> Verb:
    """The row of a function: what it needs, takes and answers stands in its annotations."""
    needs, parameters, result = get_type_hints(run, include_extras=True).values()
    return Verb(name, scope, needs, parameters, result, run, **traits)


Barcode = Annotated[str, Positional("BARCODE"), Field(description="For example A00001L6.")]


def _size(given: Any) -> Any:
    """A size as text, whichever way it was given: a program has a number of bytes at hand."""
    if isinstance(given, bool) or not isinstance(given, str | int):
        return given
    parse_size_of_at_least(given, LEAST_MEDIUM_BYTES)
    return str(given)


SIZE = BeforeValidator(_size, json_schema_input_type=str | int)
"""Marks a parameter that is the size of a disk or cartridge: "10 GiB", or a number of bytes as text or integer."""
OPTIONAL_SIZE = BeforeValidator(_size, json_schema_input_type=str | int | None)

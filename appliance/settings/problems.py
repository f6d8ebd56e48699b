"""What pydantic finds wrong with a value, in words of our own: where it is, what it may be, and what it was."""

import datetime
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

_INTEGER = "must be a whole number"
_LIST = "must be a list"
_SECTION = "must be a section of its own settings"
_TEXT = "must be text, in quotes"
_YES_OR_NO = "must be true or false"

# pydantic's error types, with what we say instead; a function is given the error's context.
_WORDS: Mapping[str, str | Callable[[Mapping[str, Any]], str]] = {
    "bool_parsing": _YES_OR_NO,
    "bool_type": _YES_OR_NO,
    "dict_type": _SECTION,
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than": lambda context: f"must be more than {context['gt']:g}",
    "greater_than_equal": lambda context: f"must be at least {context['ge']}",
    "int_from_float": _INTEGER,
    "int_parsing": _INTEGER,
    "int_parsing_size": _INTEGER,
    "int_type": _INTEGER,
    "less_than": lambda context: f"must be less than {context['lt']:g}",
    "less_than_equal": lambda context: f"must be at most {context['le']}",
    "list_type": _LIST,
    "literal_error": lambda context: f"must be {context['expected']}",
    "model_attributes_type": _SECTION,
    "model_type": _SECTION,
    "path_type": "must be a path, in quotes",
    "string_pattern_mismatch": lambda context: f"must match {context['pattern']}",
    "string_too_long": lambda context: f"must have at most {context['max_length']} characters",
    "string_too_short": lambda context: f"must have at least {context['min_length']} characters",
    "string_type": _TEXT,
    "string_unicode": "must be text in UTF-8",
    "too_long": lambda context: f"must have at most {context['max_length']} {_counted(context)}",
    "too_short": lambda context: f"must have at least {context['min_length']} {_counted(context)}",
}


def problems_of(error: ValidationError, model: type[BaseModel], label: Callable[[str], str] = str) -> Iterator[str]:
    """A line for each thing that is wrong. label: how the reader knows a setting, by default its dotted name."""
    return lines_of(error.errors(include_url=False), model, label)


def lines_of(
    details: Iterable[ErrorDetails], model: type[BaseModel], label: Callable[[str], str] = str
) -> Iterator[str]:
    """The same of pydantic's details."""
    for detail in details:
        where = label(_location(detail["loc"]))
        match detail["type"]:
            case "extra_forbidden":
                yield f"{where}: there is no such setting{_did_you_mean(model, detail['loc'])}"
            case "missing":
                yield f"{where}: is missing, and has no default"
            case "value_error":
                lines = detail["msg"].removeprefix("Value error, ").splitlines()
                yield from (f"{where}: {line}" if where else line for line in lines)
            case _:
                yield f"{where}: {_words(detail)}, not {_shown(detail)}"


def of_value(error: ValidationError) -> str:
    """What is wrong with one value that belongs to no section."""
    return "; ".join(
        detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "value_error"
        else f"{_words(detail)}, not {_shown(detail)}"
        for detail in error.errors(include_url=False)
    )


def _counted(context: Mapping[str, Any]) -> str:
    return "entries" if context["field_type"] == "List" else "characters"


def _words(detail: ErrorDetails) -> str:
    words = _WORDS.get(detail["type"], "has a value that cannot be used")
    return words if isinstance(words, str) else words(detail["ctx"])


def _shown(detail: ErrorDetails) -> str:
    # A secret must not reach a log or a terminal through an error message, however oddly it was written down.
    if any(str(part) == "chap" or str(part).endswith("secret") for part in detail["loc"]):
        return "this"
    value = detail["input"]
    match value:
        case bool():
            return str(value).lower()
        case datetime.date() | datetime.time():
            return value.isoformat()
        case dict():
            return "a section"
        case list():
            return "a list"
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def _location(parts: Iterable[int | str]) -> str:
    named = (part for part in parts if part != "[key]")  # pydantic's, after a name that is itself wrong
    text = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in named)
    return text.removeprefix(".")


def _did_you_mean(model: type[BaseModel], location: Sequence[int | str]) -> str:
    section: Any = model
    for part in location[:-1]:
        if isinstance(part, str):
            section = _section(section, part)
    if section is None:
        return ""
    names = list(section.model_fields)
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known here: {', '.join(names)}"


def _section(parent: type[BaseModel] | None, field: str) -> type[BaseModel] | None:
    """The model of a section or of the entries of an array of sections."""
    annotation = parent.model_fields[field].annotation if parent and field in parent.model_fields else None
    candidates = (annotation, *getattr(annotation, "__args__", ()))
    return next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), None)

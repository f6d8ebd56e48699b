"""What the verbs that change the content of a library share: one section replaced, kept, and served at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from appliance.failures import Failure, OperatorError
from appliance.operations.verb import OnFiles, library_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydantic import BaseModel

    from appliance.settings.content import Content

Row = TypeVar("Row")


def change(context: OnFiles, make: Callable[[Content], dict[str, Any]]) -> list[str]:
    """Replace sections: make(content) gives them by name. A line for each thing that waits for the daemon's next start.

    Raises OperatorError, OSError; then nothing has changed.
    """
    files, library = context.files, library_of(context)
    with files.changing:
        content = files.contents.content
        wanted = content.model_copy(update=make(content))
        if library is not None:
            return library.change(wanted)
        files.contents.change(wanted)
        return []


def section(model: type[BaseModel], /, **settings: Any) -> Any:
    """A section of what was given. Raises OperatorError USAGE that names what is wrong with it."""
    from pydantic import ValidationError

    from appliance.settings.problems import problems_of

    try:
        return model(**{name: value for name, value in settings.items() if value is not None})
    except ValidationError as error:
        raise OperatorError(Failure.USAGE, "\n".join(problems_of(error, model))) from None


def found(rows: Sequence[Row], matches: Callable[[Row], bool], what: str) -> Row:
    """The row that matches. Raises OperatorError NOT_FOUND."""
    for row in rows:
        if matches(row):
            return row
    raise OperatorError(Failure.NOT_FOUND, f"there is no {what}")


def names(text: str) -> list[str]:
    """What stands between commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def refuse_known(context: OnFiles, name: str) -> None:
    """Raises OperatorError REFUSED when a device has that name already."""
    if name in context.files.settings.device_names():
        raise OperatorError(Failure.REFUSED, f"there is a device {name} already; choose another name")

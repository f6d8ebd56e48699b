"""Doing a verb, whatever transport asked for it: its parameters checked, its errors in an operator's terms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from appliance.access.caller import Caller
from appliance.failures import Failure, OperatorError, explained
from appliance.operations import VERBS
from appliance.operations.verb import OnFiles, OnLibrary, OnSettings, Parameters, Verb
from appliance.progress import Progress, no_progress
from appliance.settings.problems import problems_of
from vlib_images.library.actor import acting_as

if TYPE_CHECKING:
    from appliance.library.files import LibraryFiles
    from appliance.settings.settings import Settings


@contextmanager
def translated() -> Iterator[None]:
    """What the rooms below refuse, in an operator's terms."""
    from scsi_targets.devices.changer.robot import RobotError
    from vlib_images.errors import CartridgeError
    from vlib_images.library.database.errors import StateDamaged
    from vlib_images.library.elements import BadBarcode, InventoryError, NoSuchCartridge, NoSuchElement

    try:
        yield
    except (NoSuchCartridge, NoSuchElement) as error:
        raise OperatorError(Failure.NOT_FOUND, str(error)) from error
    except BadBarcode as error:
        raise OperatorError(Failure.USAGE, str(error)) from error
    except (InventoryError, RobotError, CartridgeError, StateDamaged) as error:
        raise OperatorError(Failure.REFUSED, str(error)) from error
    except UnicodeError as error:
        raise OperatorError(Failure.USAGE, f"holds characters that are no text: {error}") from error
    except OSError as error:
        raise OperatorError(Failure.REFUSED, explained(error)) from error


def find(name: str) -> Verb:
    """Raises OperatorError USAGE when there is no such verb."""
    if name not in VERBS:
        raise OperatorError(Failure.USAGE, f"there is no verb {name!r}")
    return VERBS[name]


def parameters_of(verb: Verb, given: Mapping[str, Any], label: Callable[[str], str] = str) -> Parameters:
    """What a verb is told, checked. label: how whoever asks knows a parameter. Raises OperatorError USAGE."""
    try:
        return verb.parameters.model_validate(dict(given))
    except ValidationError as error:
        raise OperatorError(Failure.USAGE, "\n".join(problems_of(error, verb.parameters, label))) from None


def refuse_unpermitted(verb: Verb, caller: Caller) -> None:
    """Raises OperatorError NOT_PERMITTED when the caller may not ask for the verb at all."""
    if not caller.scope.includes(verb.scope):
        message = f"{verb.name} takes the scope {verb.scope.value}; {caller.name} has {caller.scope.value}"
        raise OperatorError(Failure.NOT_PERMITTED, message)
    if caller.confined and not verb.confinable:
        message = f"{verb.name} is about the whole library; {caller.name} is for a part of it"
        raise OperatorError(Failure.NOT_PERMITTED, message)


def perform(verb: Verb, context: OnSettings, parameters: Parameters, if_match: str = "") -> Any:
    """The verb's result, as JSON can hold it. if_match: the entity tags of which what it changes must have one.

    Raises OperatorError, Cancelled."""
    refuse_unpermitted(verb, context.caller)
    _refuse_null_characters(parameters)
    with translated(), acting_as(context.caller.name), _unchanged(verb, context, parameters, if_match):
        return verb.adapter.dump_python(verb.run(context, parameters), mode="json", by_alias=True)


def _refuse_null_characters(parameters: Parameters) -> None:
    """No name and no path has one, and the system calls that get paths end there. Raises OperatorError USAGE."""
    for name, value in parameters:
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str | Path) and "\0" in str(one):
                raise OperatorError(Failure.USAGE, f"{name}: holds a null character")


@contextmanager
def _unchanged(verb: Verb, context: OnSettings, parameters: Parameters, if_match: str) -> Iterator[None]:
    """Until the block ends, nobody else changes what was looked at."""
    if not if_match:
        yield
        return
    from appliance.operations.versions import refuse_changed

    with _still(verb, context, parameters):
        refuse_changed(verb, context, parameters, if_match)
        yield


def _still(verb: Verb, context: OnSettings, parameters: Parameters) -> AbstractContextManager[Any]:
    if verb.still is not None:
        return verb.still(context, parameters)
    return context.files.changing if isinstance(context, OnFiles) else nullcontext()


def perform_offline(
    config: Path, settings: Settings, verb: Verb, parameters: Parameters, progress: Progress = no_progress
) -> Any:
    """Do a verb in this process, while no daemon may start where it needs the library's files. Raises OperatorError:
    NOT_RUNNING when it needs devices."""
    from appliance import logs
    from appliance.library.files import LibraryFiles

    if issubclass(verb.needs, OnLibrary):
        raise OperatorError(Failure.NOT_RUNNING, f"{verb.name} needs a daemon, start it: tapebay serve")
    logs.configure_for_commands()
    if not issubclass(verb.needs, OnFiles):
        return perform(verb, OnSettings(settings, config, progress=progress), parameters)
    with LibraryFiles.open(settings) as files:
        return perform(verb, on_files(config, files, progress), parameters)


def on_files(config: Path, files: LibraryFiles, progress: Progress = no_progress) -> OnFiles:
    """The context of a library whose files are open here."""
    return OnFiles(files.settings, config, files, progress=progress)

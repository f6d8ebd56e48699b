"""Commands made of verbs: a command's arguments and options are the verb's parameters, its help is theirs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from typer.core import TyperGroup

from appliance.cli.ask import ask
from appliance.cli.options import ConfigOption, JsonOption, YesOption, confirm, reporting, show
from appliance.cli.progress import progress_bar
from appliance.cli.secrets import asked, places, taken
from appliance.failures import Failure, OperatorError
from appliance.operations import VERBS
from appliance.operations.perform import parameters_of
from appliance.operations.verb import Flag, Positional, Secret, Verb

Render = Callable[[Any, dict[str, Any]], None]


@dataclass(frozen=True)
class VerbCommand:
    """How a verb looks on the command line.

    render(result, arguments) prints for people. doing: what its progress bar says. question: asked first, when what it
    does cannot be undone ("": it is not asked). fails(result): whether the exit status is 1 though it was done. fixed:
    parameters that the command itself decides.
    """

    verb: str
    render: Render
    name: str = ""
    help: str = ""
    example: str = ""
    doing: str = ""
    of_bytes: bool = True
    question: Callable[[dict[str, Any]], str] | None = None
    before: Callable[[Path | None, dict[str, Any]], None] | None = None
    interrupted: str = ""
    fails: Callable[[Any], bool] = lambda _result: False
    fixed: tuple[tuple[str, Any], ...] = ()


def add(app: typer.Typer, commands: Iterable[VerbCommand]) -> None:
    """Adds commands to `tapebay` or to a group of it."""
    for command in commands:
        verb = VERBS[command.verb]
        name = command.name or verb.name.rpartition(".")[2]
        epilog = f"Example: {command.example}" if command.example else None
        app.command(name, epilog=epilog, help=command.help or inspect.getdoc(verb.run))(_function(verb, command))


def add_group(
    app: typer.Typer, noun: str, text: str, commands: Iterable[VerbCommand], *, kind: type[TyperGroup] = TyperGroup
) -> None:
    """Adds `tapebay NOUN` with its commands to `tapebay`. text: what its help says first."""
    group = typer.Typer(no_args_is_help=True, help=text, cls=kind)
    add(group, commands)
    app.add_typer(group, name=noun)


def _function(verb: Verb, command: VerbCommand) -> Callable[..., None]:
    def run(config: Path | None = None, as_json: bool = False, yes: bool = False, **arguments: Any) -> None:
        with reporting(as_json):
            _run(verb, command, config, as_json, yes, {**arguments, **dict(command.fixed)})

    parameters = [
        _parameter(name, field)
        for name, field in verb.parameters.model_fields.items()
        if name not in dict(command.fixed) and name not in _secrets(verb)
    ]
    parameters += [option for name in _secrets(verb) for option in places(name)]
    parameters += [_keyword("yes", YesOption, False)] if command.question else []
    parameters += [_keyword("config", ConfigOption, None), _keyword("as_json", JsonOption, False)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _run(
    verb: Verb, command: VerbCommand, config: Path | None, as_json: bool, yes: bool, arguments: dict[str, Any]
) -> None:
    secrets = {name: found for name in _secrets(verb) if (found := taken(name, arguments)) is not None}
    given = {name: _sent(value) for name, value in arguments.items() if value is not None}
    for name, mark in _secrets(verb).items():
        if name not in secrets and (not mark.beside or mark.beside in given):
            secrets[name] = asked(name)
    given |= secrets
    parameters = parameters_of(verb, given, _label(verb))
    if command.question:
        if command.before:
            command.before(config, given)  # what is wrong is said before the question
        confirm(command.question(given), yes)
    doing = command.doing.format(**given)
    try:
        with progress_bar(doing, bool(doing) and not as_json, of_bytes=command.of_bytes) as progress:
            result = ask(config, verb, parameters, progress)
    except KeyboardInterrupt:
        if command.interrupted:
            raise OperatorError(Failure.REFUSED, command.interrupted.format(**given)) from None
        raise
    show(result, as_json, lambda shown: command.render(shown, given))
    if command.fails(result):
        raise typer.Exit(Failure.REFUSED.exit_status)


def _secrets(verb: Verb) -> dict[str, Secret]:
    """The parameters that never stand on the command line."""
    return {
        name: mark
        for name, field in verb.parameters.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, Secret)
    }


def _sent(value: Any) -> Any:
    """A path means the same to the daemon as it does here."""
    return value.absolute() if isinstance(value, Path) else value


def _label(verb: Verb) -> Callable[[str], str]:
    """A parameter as the command line calls it."""
    names = {name: _flag(name, field) for name, field in verb.parameters.model_fields.items()}
    return lambda where: names.get(where, where)


def _flag(name: str, field: FieldInfo) -> str:
    for mark in field.metadata:
        if isinstance(mark, Positional):
            return mark.metavar
        if isinstance(mark, Flag):
            return mark.name
    return f"--{name.replace('_', '-')}"


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    flag = _flag(name, field)
    kind = _kind(field.annotation)
    more: dict[str, Any] = {"help": _escaped(field.description or "")}
    if kind is Path:
        more["readable"] = False  # the verb says what cannot be read, and with whose rights
    if any(isinstance(mark, Positional) for mark in field.metadata):
        info: Any = typer.Argument(metavar=flag, **more)
    else:
        info = typer.Option(flag, **more)
    annotation: Any = Annotated[kind if field.is_required() or field.default is not None else kind | None, info]
    return _keyword(name, annotation, inspect.Parameter.empty if field.is_required() else field.default)


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _kind(annotation: Any) -> Any:
    """The type that the command line reads; what else a value has to be is checked by the verb's own parameters."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0])
    if origin is list or not arguments:
        return annotation
    if origin is Literal:
        return type(arguments[0])
    return next(_kind(kind) for kind in arguments if kind is not type(None))


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")

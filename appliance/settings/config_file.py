"""Finding and reading tapebay.toml, with every error reported at once: where it is and what to do."""

import difflib
import os
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from appliance.settings.settings import Settings
from appliance.settings.units import parse_address

FILE_NAME = "tapebay.toml"
ENVIRONMENT = "TAPEBAY_CONFIG"
ADVERTISE = "TAPEBAY_ADVERTISE"


class ConfigError(Exception):
    """The configuration cannot be used; str() has one line for each problem."""

    def __init__(self, path: Path, problems: Sequence[str]) -> None:
        super().__init__("\n".join(f"{path}: {problem}" for problem in problems))
        self.path = path
        self.problems = list(problems)


def wanted(given: Path | None) -> Path:
    """Where the configuration file should be: at `given` (a file or its directory), $TAPEBAY_CONFIG, ./tapebay.toml."""
    path = given or Path(os.environ.get(ENVIRONMENT) or FILE_NAME)
    return path if path.suffix == ".toml" and not path.is_dir() else path / FILE_NAME


def find(given: Path | None) -> Path:
    """The configuration file, absolute. Raises ConfigError when there is none."""
    path = wanted(given)
    if not path.is_file():
        raise ConfigError(
            path,
            [f"there is no such file; name one with --config or {ENVIRONMENT}, or make a library: tapebay init DIR"],
        )
    return path.absolute()


def load(path: Path) -> Settings:
    """Read and check `path`. Raises ConfigError."""
    try:
        return parse(path, path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(path, [f"cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(path, [f"not valid TOML: {error}"]) from error


def with_advertised_address(settings: Settings) -> Settings:
    """The settings with $TAPEBAY_ADVERTISE, if set, as every portal's advertised address. Raises ConfigError."""
    text = os.environ.get(ADVERTISE)
    if not text:
        return settings
    try:
        address = parse_address(text)
    except ValueError as error:
        raise ConfigError(Path(f"${ADVERTISE}"), [str(error)]) from None
    portals = [portal.model_copy(update={"advertise": address}) for portal in settings.portals]
    return settings.model_copy(update={"portals": portals})


def parse(path: Path, text: str) -> Settings:
    """The settings of `text`, its relative paths starting at the directory of `path`. Raises ConfigError."""
    try:
        settings = Settings.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:  # it names line and column
        raise ConfigError(path, [f"not valid TOML: {error}"]) from error
    except ValidationError as error:
        raise ConfigError(path, list(_problems(error))) from None
    return _with_absolute_paths(settings, path.absolute().parent)


def _with_absolute_paths(settings: Settings, directory: Path) -> Settings:
    library = settings.library
    absolute = {name: directory / getattr(library, name) for name in ("cartridges", "disks", "state", "control_socket")}
    disks = [
        disk.model_copy(update={"image": directory / disk.image}) if disk.image else disk for disk in settings.disks
    ]
    return settings.model_copy(update={"library": library.model_copy(update=absolute), "disks": disks})


def _problems(error: ValidationError) -> Iterable[str]:
    for detail in error.errors(include_url=False):
        where = _location(detail["loc"])
        message = detail["msg"].removeprefix("Value error, ")
        match detail["type"]:
            case "extra_forbidden":
                yield f"{where}: there is no such setting{_did_you_mean(detail['loc'])}"
            case "missing":
                yield f"{where}: is missing, and has no default"
            case "value_error":
                yield from (f"{where}: {line}" if where else line for line in message.splitlines())
            case _:
                yield f"{where}: {message[0].lower()}{message[1:]}, not {_shown(detail)}"


def _shown(detail: Any) -> str:
    # A secret must not reach a log or a terminal through an error message.
    return "this" if any(str(part).endswith("secret") for part in detail["loc"]) else repr(detail["input"])


def _location(parts: Iterable[int | str]) -> str:
    text = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")


def _did_you_mean(location: Sequence[int | str]) -> str:
    section: Any = Settings
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

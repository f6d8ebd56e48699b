"""Finding and reading tapebay.toml, with every error reported at once: where it is and what to do.

What checks the settings is imported when they are: a command that asks the daemon needs no more than its socket.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.failures import explained
from appliance.settings import CONTROL_SOCKET

if TYPE_CHECKING:
    from appliance.settings.settings import Settings

FILE_NAME = "tapebay.toml"
ENCODING = "utf-8-sig"  # some editors begin a file with a byte order mark
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
    try:
        found = path.is_file()
    except PermissionError as error:
        raise ConfigError(path, [explained(error)]) from None
    if not found:
        raise ConfigError(
            path,
            [f"there is no such file; name one with --config or {ENVIRONMENT}, or make a library: tapebay init DIR"],
        )
    return path.absolute()


def load(path: Path) -> Settings:
    """Read and check `path`. Raises ConfigError."""
    try:
        return parse(path, path.read_text(ENCODING))
    except OSError as error:
        raise ConfigError(path, [f"cannot be read: {explained(error)}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(path, [f"not valid TOML: {error}"]) from error


def control_socket(path: Path) -> Path:
    """Where the daemon of `path` listens, whatever else is said there: a library that is served can be asked while
    its file is being edited. Raises ConfigError."""
    usual = path.absolute().parent / CONTROL_SOCKET
    try:
        library = tomllib.loads(path.read_text(ENCODING)).get("library", {})
        return usual.parent / Path(library.get("control_socket", CONTROL_SOCKET))
    except (OSError, ValueError, AttributeError, TypeError):
        # What is wrong is said with all the rest; but no daemon is to be missed for half a line.
        return usual if usual.is_socket() else load(path).library.control_socket


def with_advertised_address(settings: Settings) -> Settings:
    """The settings with $TAPEBAY_ADVERTISE, if set, as every portal's advertised address. Raises ConfigError."""
    from appliance.settings.units import parse_address

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
    from pydantic import ValidationError

    from appliance.settings.problems import problems_of
    from appliance.settings.settings import Settings
    from appliance.settings.zones import conflicts

    try:
        settings = Settings.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:  # it names line and column
        raise ConfigError(path, [f"not valid TOML: {error}"]) from error
    except ValidationError as error:
        raise ConfigError(path, list(problems_of(error, Settings))) from None
    if problems := conflicts(settings):
        raise ConfigError(path, problems)
    return _with_absolute_paths(settings, path.absolute().parent)


def _with_absolute_paths(settings: Settings, directory: Path) -> Settings:
    library = settings.library
    absolute = {name: directory / getattr(library, name) for name in ("cartridges", "disks", "state", "control_socket")}
    changed: dict[str, Any] = {"library": library.model_copy(update=absolute)}
    if (api := settings.api) is not None and api.certificate and api.key:
        changed["api"] = api.model_copy(update={"certificate": directory / api.certificate, "key": directory / api.key})
    snapshots = settings.snapshots
    changed["snapshots"] = snapshots.model_copy(update={"directory": directory / snapshots.directory})
    return settings.model_copy(update=changed).placed(directory)

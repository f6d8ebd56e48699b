"""The cartridge methods work without a daemon: done here, on the library's files, while no daemon may start."""

from collections.abc import Callable, Generator
from typing import Any

from appliance import logs
from appliance.library.files import LibraryFiles
from appliance.operations.offline_operations import Operations, translated
from appliance.settings.settings import Settings

Progress = Callable[[int, int], None]


def request(settings: Settings, method: str, params: dict[str, Any], progress: Progress) -> Any:
    """Do what the daemon's method of that name would do. Raises OperatorError, OSError."""
    logs.configure_for_commands()
    with LibraryFiles.open(settings) as files, translated():
        return finish(Operations(files).handlers()[method](**params), progress)


def finish(result: Any, progress: Progress = lambda done, total: None) -> Any:
    """The result of a method, which may be a generator of its progress."""
    if not isinstance(result, Generator):
        return result
    while True:
        try:
            progress(*next(result))
        except StopIteration as end:
            return end.value

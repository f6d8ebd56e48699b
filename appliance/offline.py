"""The cartridge methods work without a daemon: done here, on the library's files, while no daemon may start."""

from typing import Any

from appliance.config import Settings
from appliance.library_files import LibraryFiles
from appliance.operations import Operations


def request(settings: Settings, method: str, params: dict[str, Any]) -> Any:
    """Do what the daemon's method of that name would do. Raises OperatorError, StateDamaged, OSError."""
    with LibraryFiles.open(settings) as files:
        return Operations(files).handlers()[method](**params)

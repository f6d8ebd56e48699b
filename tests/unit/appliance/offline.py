"""Verbs without a daemon, by name."""

from pathlib import Path
from typing import Any

from appliance.operations.perform import find, parameters_of, perform_offline
from appliance.progress import Progress, no_progress
from appliance.settings import config_file


def offline(config: Path, name: str, /, progress: Progress = no_progress, **given: Any) -> Any:
    """Have a verb done on the library of a tapebay.toml."""
    verb = find(name)
    return perform_offline(config, config_file.load(config), verb, parameters_of(verb, given), progress)

"""Having a verb done: by the daemon that TAPEBAY_API names, by the library's own, or in this process, where none runs
and it needs no devices."""

from pathlib import Path
from typing import Any

from appliance.failures import Failure, OperatorError
from appliance.operations import VERBS
from appliance.operations.perform import perform_offline
from appliance.operations.verb import OnLibrary, Parameters, Verb
from appliance.progress import Progress, no_progress


def ask(config: Path | None, verb: Verb, parameters: Parameters, progress: Progress = no_progress) -> Any:
    """The verb's result, as JSON holds it. Raises OperatorError, ConfigError."""
    from appliance.control import client as control
    from appliance.settings import config_file

    given = parameters.model_dump(mode="json", exclude_unset=True)
    if (client := control.Client.from_environment()) is not None:
        return client.call(verb.name, progress=progress, **given)
    path = config_file.find(config)
    try:
        return control.call(config_file.control_socket(path), verb.name, progress=progress, **given)
    except OperatorError as error:
        if error.failure is not Failure.NOT_RUNNING:
            raise
        settings = config_file.load(path)
        if issubclass(verb.needs, OnLibrary):
            raise
    result = perform_offline(path, settings, verb, parameters, progress)
    if verb.makes:  # a cartridge, in the directory: the library is told of it
        ask_by_name(config, "cartridge.adopt", barcode=getattr(parameters, verb.makes))
    return result


def ask_by_name(config: Path | None, name: str, **parameters: Any) -> Any:
    """The same for who knows what the verb takes."""
    verb = VERBS[name]
    return ask(config, verb, verb.parameters.model_validate(parameters))

"""A library in the test's own process, and its verbs."""

from pathlib import Path
from typing import Any

from appliance.library.files import LibraryFiles
from appliance.library.library import Library
from appliance.operations import VERBS
from appliance.operations.perform import parameters_of, perform
from appliance.operations.verb import OnLibrary
from appliance.settings import config_file


def declared(folder: Path, toml: str) -> OnLibrary:
    """A new library with what `toml` declares, not started; whoever asks closes it."""
    path = folder / "tapebay.toml"
    path.write_text(toml)
    LibraryFiles.create(config_file.load(path)).close()
    library = Library.open(config_file.load(path), apply=True)
    return OnLibrary(library.settings, path, library.files, library)


def do(context: OnLibrary, wanted: str, if_match: str = "", **options: Any) -> Any:
    """Carry out a verb; what it answers. Raises OperatorError."""
    return perform(VERBS[wanted], context, parameters_of(VERBS[wanted], options), if_match)

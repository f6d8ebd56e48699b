"""Another process of this program: with the modules that this one runs, whatever lies in the working directory."""

import os
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parents[1]


def own_command(module: str, *arguments: str) -> list[str]:
    """What starts a module of ours. -P: the working directory may be a clone of the repository, which has no engine."""
    return [sys.executable, "-P", "-m", module, *arguments]


def own_environment() -> dict[str, str]:
    """This process's, in which that module is found."""
    search = os.pathsep.join(filter(None, [str(_HERE), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": search}

"""Making a library: its directory, the annotated tapebay.toml, and the demonstration's cartridges and disk."""

import re
from pathlib import Path
from typing import Any

from appliance import logs
from appliance.failures import Failure, OperatorError
from appliance.library.files import LibraryFiles, is_new, missing_directories
from appliance.operations import cartridge, demo_disk
from appliance.operations.perform import on_files, translated
from appliance.progress import Progress, no_progress
from appliance.settings import config_file
from appliance.settings.settings import Settings
from appliance.settings.template import NewLibrary, render
from appliance.settings.units import parse_size
from vlib_images.atomic import write_atomically

DEFAULT_PORTAL = "0.0.0.0:3260"
DEMO_DISK = "demo"
DEMO_DISK_SIZE = "256 MiB"
DEMO_CARTRIDGES = 4
DEMO_FIRST_BARCODE = "A00001L6"


def plan(directory: Path, *, name: str | None = None, demo: bool = False, **choices: Any) -> NewLibrary:
    """A Plan for `directory`; choices are Plan's, None means the default."""
    chosen = {key: value for key, value in choices.items() if value is not None}
    if chosen.get("drives", 0) < 0:
        raise OperatorError(Failure.USAGE, f"--drives: {chosen['drives']} is less than none")
    if demo:
        chosen["disks"] = [(DEMO_DISK, DEMO_DISK_SIZE)]
    return NewLibrary(name=name or _name_of(directory), demo=demo, **chosen)


def _name_of(directory: Path) -> str:
    """The directory's name as a library's: lower case, what an IQN cannot hold left out."""
    name = re.sub(r"[^a-z0-9-]+", "-", directory.absolute().name.lower()).strip("-")[:32]
    return name if re.match(r"[a-z]", name) else f"tapebay-{name}".rstrip("-")


def create(directory: Path, plan: NewLibrary, progress: Progress = no_progress) -> Path:
    """Make the library and return the path of its tapebay.toml, which is written last: without it there is no library.

    Raises OperatorError: REFUSED when there is one already, USAGE when the plan makes no valid one; OSError.
    """
    path = directory.absolute() / config_file.FILE_NAME
    if path.exists():
        _create_declared(path, plan)
        return path
    text = render(plan)
    settings = _planned(path, text)
    logs.configure_for_commands()
    directory.mkdir(parents=True, exist_ok=True, mode=0o750)
    with LibraryFiles.create(settings) as files:
        if plan.demo:
            _add_demo(path, settings, files, progress)
    write_atomically(path, text.encode())
    return path


def _usual(directory: Path) -> NewLibrary:
    return plan(directory, portal=DEFAULT_PORTAL)


def _create_declared(path: Path, plan: NewLibrary) -> None:
    """The library of an operator's own tapebay.toml: asked for by name, so that empty directories are no lost ones."""
    settings = config_file.load(path)
    if not is_new(settings):
        message = f"{path} exists already, with its library; serve it (tapebay serve), or name another directory"
        raise OperatorError(Failure.REFUSED, message)
    if plan != _usual(path.parent):
        message = f"{path} exists already and says what its library is; leave the options out, or change that file"
        raise OperatorError(Failure.USAGE, message)
    logs.configure_for_commands()
    LibraryFiles.create(settings).close()


INDEX = re.compile(r"\[\d+\]")  # which of several
_OPTIONS = {
    "changer.import_export": "--import-export",
    "changer.model": "--model",
    "changer.slots": "--slots",
    "drives.model": "--drive-model",
    "library.name": "--name",
    "portals.advertise": "--advertise",
    "portals.listen": "--portal",
    "targets.iqn": "--name",
}


def _planned(path: Path, text: str) -> Settings:
    """What is wrong with a plan is blamed on the option that said so, not on a file that nobody has seen."""
    try:
        return config_file.parse(path, text)
    except config_file.ConfigError as error:
        named: dict[str, str] = {}
        for problem in error.problems:
            where, _, what = problem.partition(": ")
            named.setdefault(_OPTIONS.get(INDEX.sub("", where), where), what)
        lines = [f"{option}: {what}" for option, what in named.items()]
        raise OperatorError(Failure.USAGE, "\n".join(lines)) from None


def _add_demo(path: Path, settings: Settings, files: LibraryFiles, progress: Progress) -> None:
    known = set(files.inventory.barcodes())
    if DEMO_FIRST_BARCODE not in known:  # an interrupted init may have made them
        with translated():
            wanted = cartridge.CreateCartridges(barcode=DEMO_FIRST_BARCODE, count=DEMO_CARTRIDGES)
            cartridge.create(on_files(path, files), wanted)
    (disk,) = settings.disks
    demo_disk.create(settings.image_of(disk), parse_size(DEMO_DISK_SIZE), progress)


def create_default(path: Path) -> None:
    """Make a library at `path` where there is none: for the first start of a container. An operator's own tapebay.toml
    is used as it is. Raises as create() does."""
    if not path.exists():
        create(path.parent, _usual(path.parent))
        return
    settings = config_file.load(path)
    logs.configure(settings.logging)
    if len(missing_directories(settings)) == 2:  # with one of them, the other's volume may be missing: nothing is made
        LibraryFiles.create(settings).close()

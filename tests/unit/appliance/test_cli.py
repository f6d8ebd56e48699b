"""The command line: what it prints, its exit statuses, with and without a daemon."""

import importlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from typer.testing import CliRunner

from appliance import __version__
from appliance.cli import commands
from appliance.cli.app import FILES, app
from appliance.operations import VERBS
from appliance.operations.verb import Verb
from tests.support.waiting import eventually
from tests.unit.appliance.daemon_process import ROOT, Daemon
from vlib_images.library.database.database import FILE_NAME


def tapebay(*arguments: object, **environment: str) -> Any:
    """Run a command in this process, without a terminal."""
    env = {"COLUMNS": "200", "NO_COLOR": "1", "TAPEBAY_CONFIG": "", **environment}
    return CliRunner().invoke(app, list(map(str, arguments)), env=env, prog_name="tapebay")


def output(*arguments: object, **environment: str) -> str:
    done = tapebay(*arguments, **environment)
    assert done.exit_code == 0, (done.stderr, done.exception)
    return done.stdout


def as_json(*arguments: object, **environment: str) -> Any:
    return json.loads(output(*arguments, "--json", **environment))


@pytest.fixture
def library(tmp_path: Path) -> Path:
    output("init", tmp_path / "lib", "--portal", "127.0.0.1:0", "--drives", 1, "--slots", 4)
    return tmp_path / "lib"


@pytest.fixture
def served(library: Path) -> Iterator[Path]:
    output("cartridge", "create", "A00001L6", "--config", library)
    daemon = Daemon(library)
    try:
        daemon.wait_ready()
        yield library
    finally:
        daemon.stop()


def test_help_and_version() -> None:
    commands = [name for names in FILES.values() for name in names]
    text = output("--help")
    assert all(f" {command} " in text for command in commands)
    assert "5 library in use" in text
    for command in commands:
        assert f"Usage: tapebay {command}" in output(command, "--help")
    assert output("version") == f"tapebay {__version__}\n"
    assert as_json("version") == {"version": __version__}


def test_completion_in_a_process_of_its_own() -> None:
    complete = {"_TAPEBAY_COMPLETE": "complete_bash", "COMP_WORDS": "tapebay cart", "COMP_CWORD": "1"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **complete}
    done = subprocess.run([sys.executable, "-P", "-m", "appliance"], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["cartridge"]


def test_init_writes_a_library_and_does_not_overwrite_it(library: Path) -> None:
    assert sorted(path.name for path in library.iterdir()) == ["cartridges", "disks", "state", "tapebay.toml"]
    assert as_json("check", "--config", library) == {
        "config": str(library / "tapebay.toml"),
        "valid": True,
        "warnings": [],
    }
    before = (library / "tapebay.toml").read_text()
    again = tapebay("init", library)
    assert again.exit_code == 1
    assert "exists already" in again.stderr
    assert (library / "tapebay.toml").read_text() == before


def test_init_refuses_what_makes_no_library(tmp_path: Path) -> None:
    done = tapebay("init", tmp_path / "lib", "--portal", "nowhere", "--model", "Sony")
    assert done.exit_code == 2
    assert "tapebay: --portal: 'nowhere' is not an address" in done.stderr
    assert "tapebay: --model: no library model 'Sony'" in done.stderr
    numbers = tapebay("init", tmp_path / "lib", "--drives", "-1", "--slots", "0")
    assert (numbers.exit_code, numbers.stderr) == (2, "tapebay: --drives: -1 is less than none\n")
    many = tapebay("init", tmp_path / "lib", "--drives", 600, "--slots", 65000)
    assert "600 drives are 65603 elements with the robot; a media changer has 65535 at most" in many.stderr
    for command in (("init", tmp_path / "lib", "--drives"), ("cartridge", "create", "A00001L6", "--count")):
        words = tapebay(*command, "many")
        assert words.exit_code == 2
        assert "must be a whole number, not 'many'" in words.stderr
    named = tapebay("init", tmp_path / "lib", "--name", "Upper Case", "--drive-model", "Sony", "--drives", 3)
    assert (named.exit_code, len(named.stderr.splitlines())) == (2, 2)
    assert "--name: 'Upper Case' is not a device name" in named.stderr
    assert "--drive-model: " in named.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "lib").exists()


def test_demo_library(tmp_path: Path) -> None:
    made = as_json("init", tmp_path / "My Lib!", "--demo", "--portal", "127.0.0.1:0")
    assert made["target"] == "iqn.2026-11.io.tapebay:my-lib"
    library = tmp_path / "My Lib!"
    rows = as_json("cartridge", "list", "--config", library)
    assert [(row["barcode"], row["place"]) for row in rows] == [(f"A0000{n}L6", f"slot:{n}") for n in range(1, 5)]
    (disk,) = as_json("disk", "list", "--config", library)
    assert (disk["name"], disk["size_bytes"]) == ("demo", 256 << 20)
    assert disk["stored_bytes"] > 100 << 20


def test_cartridges_without_a_daemon(library: Path) -> None:
    where = ("--config", library)
    output("cartridge", "create", "A00001L6", "--count", 2, "--capacity", "1 GiB", *where)
    listing = output("cartridge", "list", *where)
    assert "A00002L6" in listing
    assert "slot:2" in listing
    assert "1 GiB" in listing
    assert "capacity          1 GiB" in output("cartridge", "show", "A00001L6", *where)
    assert output("cartridge", "protect", "A00001L6", *where) == "A00001L6 is write protected\n"
    assert "write-protected" in output("cartridge", "list", *where)
    assert output("cartridge", "unprotect", "A00001L6", *where) == "A00001L6 is not write protected\n"
    refused = tapebay("cartridge", "delete", "A00001L6", *where)
    assert (refused.exit_code, "--yes" in refused.stderr) == (2, True)
    assert "deleted" in output("cartridge", "delete", "A00001L6", "--yes", *where)
    missing = tapebay("cartridge", "show", "A00001L6", "--json", *where)
    assert missing.exit_code == 6
    assert json.loads(missing.stderr)["error"]["code"] == "not-found"


def test_disks(library: Path) -> None:
    made = as_json("disk", "create", "backup", "1 GiB", "--config", library)
    assert made["size_bytes"] == 1 << 30
    assert "backup" in output("disk", "list", "--config", library)
    assert tapebay("disk", "create", "backup", "1 GiB", "--config", library).exit_code == 1


def test_models() -> None:
    models = as_json("models")
    assert "IBM 3573-TL" in models["changer"]
    assert "IBM ULT3580-TD6" in models["drive"]
    assert "HP Ultrium 6-SCSI" in output("models")


@pytest.mark.parametrize(
    "arguments", [("status",), ("health",), ("stop",), ("load", "A00001L6"), ("unload",), ("move", "A00001L6", "ie:1")]
)
def test_what_needs_the_daemon_says_so(library: Path, arguments: tuple[str, ...]) -> None:
    done = tapebay(*arguments, "--config", library)
    assert done.exit_code == 4
    assert "tapebay serve" in done.stderr


def test_no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = tapebay("status")
    assert done.exit_code == 3
    assert "tapebay init" in done.stderr
    (tmp_path / "tapebay.toml").write_text("[[portals\n")
    assert "not valid TOML" in tapebay("check").stderr


def test_with_the_daemon(served: Path) -> None:
    environment = {"TAPEBAY_CONFIG": str(served)}
    assert tapebay("health", **environment).exit_code == 0
    assert output("load", "A00001L6", **environment) == "A00001L6: slot:1 -> drive:0\n"
    status = output("status", **environment)
    for part in ("target iqn.2026-11.io.tapebay:lib", "IBM ULT3580-TD6", "A00001L6", "drive:0", "4 free slots"):
        assert part in status
    assert as_json("unload", "drive0", "slot:3", **environment)["to"] == "slot:3"
    assert output("move", "slot:3", "ie:1", **environment) == "A00001L6: slot:3 -> ie:1\n"
    output("cartridge", "create", "B00001L6", "--to", "shelf", **environment)
    assert "on the shelf: B00001L6" in output("status", **environment)
    refused = tapebay("unload", **environment)
    assert (refused.exit_code, refused.stderr) == (1, "tapebay: drive:0 is empty\n")
    assert output("stop", **environment) == "stopped\n"
    assert tapebay("health", **environment).exit_code == 4


def test_a_damaged_state_file_is_one_clear_line(library: Path) -> None:
    (library / "state" / "inventory.json").write_text("{}")
    done = tapebay("cartridge", "list", "--config", library)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"tapebay: {library / 'state' / 'inventory.json'}: not a Tapebay state file")
    assert "Traceback" not in done.stderr


def test_a_served_disk_grows_at_once(library: Path) -> None:
    made = as_json("disk", "create", "data", "1 MiB", "--config", library)
    daemon = Daemon(library)
    try:
        daemon.wait_ready()
        assert as_json("disk", "grow", "data", "2 MiB", "--config", library)["size_bytes"] == 2 << 20
        assert Path(made["image"]).stat().st_size == 2 << 20
        done = tapebay("disk", "export", "data", library / "out.qcow2", "--config", library)
        assert done.exit_code == 0 or "qemu-img" in done.stderr, done.stderr
    finally:
        daemon.stop()
    assert as_json("disk", "grow", "data", "3 MiB", "--config", library)["name"] == "data"
    (shown,) = as_json("disk", "list", "--config", library)
    assert shown["size_bytes"] == 3 << 20 == Path(made["image"]).stat().st_size


@pytest.mark.parametrize(
    "arguments",
    [
        ("load", "A00001L6", "--bogus"),
        ("load",),
        ("nonsense",),
        ("cartridge",),
        ("cartridge", "nonsense"),
        ("cartridge", "create", "A00001L6", "--count", "many"),
        ("cartridge", "import", "A00001L6", "--format", "simh"),
        ("cartridge", "create", "A00001L6", "--count", "0"),
    ],
)
def test_usage_errors_are_json_for_programs(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = run_process(*arguments, "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert json.loads(done.stderr)["error"]["code"] == "usage"
    assert json.loads(done.stderr)["error"]["message"]


def test_help_names_defaults_that_are_no_values() -> None:
    assert "[default: DIR's name]" in " ".join(output("init", "--help").split())
    assert "[default: ./]" in " ".join(output("status", "--help").split())


def test_help_names_types_in_words() -> None:
    """One that the command line does not know would show as Python writes it."""
    files = [importlib.import_module(f"appliance.cli.{file}") for file in FILES]
    verbs = {command.verb for file in files for command in getattr(file, "COMMANDS", ())}
    kinds = [kind for verb in verbs for kind in kinds_of(VERBS[verb])]
    assert len(kinds) > 200
    assert [kind for kind in kinds if not isinstance(kind, type)] == []


def kinds_of(verb: Verb) -> list[Any]:
    """Of the values that its options take."""
    kinds = (commands._kind(field.annotation) for field in verb.parameters.model_fields.values())
    return [get_args(kind)[0] if get_origin(kind) is list else kind for kind in kinds]


def test_status_names_devices_in_the_words_of_the_field(served: Path) -> None:
    devices = as_json("status", "--config", served)["devices"]
    assert [(row["name"], row["type"]) for row in devices] == [("changer", "media changer"), ("drive0", "tape drive")]


def run_process(*arguments: object) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "TAPEBAY_CONFIG": ""}
    command = [sys.executable, "-P", "-m", "appliance", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("with_daemon", [False, True])
def test_an_interrupted_batch_can_be_completed(library: Path, with_daemon: bool) -> None:
    """Ctrl-C in the middle: what was made stays, whole, and the same command with --skip-existing makes the rest."""
    count, places = 700, library / "cartridges"
    create = ("cartridge", "create", "A00001L6", "--count", count, "--to", "shelf", "--config", library)
    daemon = Daemon(library) if with_daemon else None
    try:
        if daemon:
            daemon.wait_ready()
        with another_program_writes(library):  # so the first batch waits, and none follows before the signal is there
            process = start_process(*create)
            eventually(lambda: any(places.glob("A*L6")) or process.poll() is not None)
            process.send_signal(signal.SIGINT)
            if daemon:
                process.wait(60)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 1, said
        assert "interrupted; what was made stays" in said and "--skip-existing" in said
        made = eventually(lambda: as_json("cartridge", "list", "--config", library))  # the daemon ends a batch alone
        assert len(made) < count
        assert not [row for row in made if row["problem"]]
        assert len(as_json(*create, "--skip-existing")) == count
        listing = as_json("cartridge", "list", "--config", library)
        assert [row["barcode"] for row in listing] == [f"A{number:05}L6" for number in range(1, count + 1)]
        output("cartridge", "delete", "A00001L6", "--count", 20, "--yes", "--config", library)
        assert len(as_json("cartridge", "list", "--config", library)) == count - 20
    finally:
        if daemon:
            assert daemon.stop() == 0
    assert all(not path.name.startswith(".") for path in places.iterdir())


@contextmanager
def another_program_writes(library: Path) -> Iterator[None]:
    """To the library's database: whoever else wants to waits so long."""
    with closing(sqlite3.connect(library / "state" / FILE_NAME, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        yield
        database.execute("ROLLBACK")


def start_process(*arguments: object) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "TAPEBAY_CONFIG": ""}
    command = [sys.executable, "-P", "-m", "appliance", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

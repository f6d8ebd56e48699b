"""The command line answers at once: a command imports what it does, and nothing heavy that it only declares."""

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import typer
from typer.main import get_group
from typer.testing import CliRunner

from appliance.cli.app import FILES, app
from appliance.operations import NOUNS, VERBS, setup
from tests.unit.appliance.daemon_process import ROOT, Daemon

HEAVY = {
    *("asyncio", "cryptography", "fastapi", "httpx", "rich", "sqlalchemy", "structlog", "uvicorn", "zstandard"),
    *("datamover", "scsi_targets"),
}


def imported(program: str) -> set[str]:
    """What this process has imported in the end."""
    found = "import sys; print(*sys.modules, file=sys.stderr)"
    command = [sys.executable, "-P", "-c", f"{program}\n{found}"]
    environment = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def run_by(*arguments: str) -> set[str]:
    return imported(f"from appliance.cli.app import app\ntry:\n    app({arguments!r})\nexcept SystemExit:\n    pass")


def rooms(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    setup.create(tmp_path, setup.plan(tmp_path, portal="127.0.0.1:0"))
    daemon = Daemon(tmp_path)
    try:
        daemon.wait_ready()
        yield tmp_path
    finally:
        daemon.stop()


def test_version_imports_nothing_heavy() -> None:
    found = run_by("version")
    assert not HEAVY & rooms(found)
    assert not [name for name in found if name.startswith("appliance.operations")]


def test_a_command_that_asks_the_daemon_imports_its_own_verb_alone(served: Path) -> None:
    found = run_by("status", "--config", str(served))
    assert not HEAVY & rooms(found)
    assert "appliance.operations.library" in found
    assert not {"appliance.operations.zone", "appliance.operations.disk", "appliance.settings.settings"} & found
    assert {name for name in found if name.startswith("appliance.cli.")} <= {
        f"appliance.cli.{name}"
        for name in ("app", "ask", "commands", "options", "progress", "secrets", "status", "tables")
    }


@pytest.mark.parametrize(
    ("text", "wrong"), [('[library]\nname = 7\nslots = "many"\n', "slots"), ("[library]\nname = \n", "not valid TOML")]
)
def test_a_library_is_asked_while_its_file_is_being_edited(served: Path, text: str, wrong: str) -> None:
    (served / "tapebay.toml").write_text(text)
    asked = CliRunner().invoke(app, ["status", "--config", str(served)])
    assert asked.exit_code == 0 and f"{served}/tapebay.toml" in asked.output
    refused = CliRunner().invoke(app, ["check", "--config", str(served)])
    assert refused.exit_code == 3 and wrong in refused.output


@pytest.mark.parametrize("file", FILES)
def test_a_file_of_the_command_line_registers_what_is_said_of_it(file: str) -> None:
    registered = typer.Typer()
    import_module(f"appliance.cli.{file}").register(registered)
    assert set(get_group(registered).commands) == set(FILES[file])


@pytest.mark.parametrize("noun", NOUNS)
def test_a_noun_has_its_verbs_in_the_files_that_are_said_of_it(noun: str) -> None:
    verbs = [verb for name, verb in VERBS.items() if name.partition(".")[0] == noun]
    assert {verb.run.__module__ for verb in verbs} == {f"appliance.operations.{file}" for file in NOUNS[noun]}


def test_every_verb_has_a_noun_that_is_listed() -> None:
    assert {name.partition(".")[0] for name in VERBS} == set(NOUNS)

"""The command line answers at once: what it only declares imports nothing heavy."""

import os
import subprocess
import sys

import pytest

from tests.unit.appliance.daemon_process import ROOT

HEAVY = {"asyncio", "cryptography", "fastapi", "sqlalchemy", "structlog", "uvicorn", "zstandard", "datamover"}
VERSION = "from appliance.cli.app import app\ntry:\n    app(['version'])\nexcept SystemExit:\n    pass"


@pytest.mark.parametrize(
    ("program", "heavy"),
    [
        (VERSION, HEAVY | {"httpx", "rich", "scsi_targets"}),
        ("import appliance.settings.config_file", HEAVY | {"httpx", "rich"}),  # every command that asks the daemon
    ],
)
def test_nothing_heavy_is_imported(program: str, heavy: set[str]) -> None:
    found = "import sys; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-c", f"{program}\n{found}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert not heavy & set(eval(done.stdout.splitlines()[-1])), done.stdout

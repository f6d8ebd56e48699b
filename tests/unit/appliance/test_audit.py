"""What the audit record says of who did something."""

import re
import sqlite3
import subprocess
import sys
from pathlib import Path

from appliance.library.files import LibraryFiles
from appliance.operations import setup
from appliance.settings import config_file
from tests.unit.appliance.daemon_process import ROOT
from tests.unit.appliance.offline import offline
from tests.unit.appliance.test_pools import CONFIG
from vlib_images.library.database import audit_chain, events
from vlib_images.library.database.events import Event


def test_an_operator_s_verbs_are_the_operator_s(tmp_path: Path) -> None:
    config = setup.create(tmp_path / "lib", setup.plan(tmp_path / "lib", portal="127.0.0.1:0"))
    offline(config, "cartridge.create", barcode="A00001L6")
    with LibraryFiles.open(config_file.load(config)) as files, files.database.read() as connection:
        newest = events.latest(connection, 1)[0]
    assert (newest.actor, newest.action, newest.subject) == ("operator", "cartridge added", "A00001L6")


def independent_reader() -> str:
    """The program that docs/api.md gives to who does not trust ours: Python's own sqlite3, json and hashlib."""
    text = (ROOT / "docs" / "api.md").read_text()
    (program,) = re.findall(r"```python\n(import hashlib.*?)```", text, re.DOTALL)
    return str(program)


def read(database: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-c", independent_reader(), str(database)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_chain_is_followed_by_an_independent_reader(tmp_path: Path) -> None:
    (tmp_path / "tapebay.toml").write_text(CONFIG)
    settings = config_file.load(tmp_path / "tapebay.toml")
    database = tmp_path / "state" / "tapebay.db"
    with LibraryFiles.create(settings) as files:
        for name in ("nightly", "nächtlich ☾", 'quote"\\'):
            with files.database.change(Event("token created", name, {"scope": "réad", "n": [1, None, 2.5]})):
                pass
        with files.database.read() as connection:
            head = audit_chain.newest(connection)
    done = read(database)
    assert (done.returncode, done.stdout.strip()) == (0, f"{head.number}:{head.hash}"), done.stderr
    changes = {
        "UPDATE events SET subject = 'weekly' WHERE subject = 'nightly'": "is not what it was",
        "DELETE FROM events WHERE subject = 'nightly'": "is not what it was",
        f"DELETE FROM events WHERE id = {head.number}": f"events after {head.number - 1} are missing",
    }
    for number, (statement, said) in enumerate(changes.items()):
        copy = tmp_path / f"{number}.db"
        with sqlite3.connect(database) as source, sqlite3.connect(copy) as target:
            source.backup(target)
            target.execute(statement)
        done = read(copy)
        assert done.returncode == 1 and said in done.stderr, (statement, done)

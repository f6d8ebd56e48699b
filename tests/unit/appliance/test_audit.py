"""What the audit record says of who did something."""

import json
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.failures import OperatorError
from appliance.library.files import LibraryFiles
from appliance.operations import VERBS, setup
from appliance.settings import config_file
from tests.unit.appliance.api_server import serving
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


DAMAGES = [
    *[("details", value) for value in ("'{torn'", "'[1]'", "x'ff00'", "'7'", "'" + 5000 * "[" + "'")],
    *[("details", value) for value in ("""'{"a": NaN}'""", """'{"a": "\\ud800"}'""")],
    *[("at_microseconds", value) for value in ("'yesterday'", "1.5", "x'00'")],
    *[(column, "x'ff'") for column in ("actor", "action", "subject")],
]
"""By which one value is another in the file, as a failing disk or somebody's editor leaves it."""


def test_a_damaged_event_is_shown_as_well_as_it_can_be_and_named(tmp_path: Path) -> None:
    with serving(tmp_path, {name: VERBS[name] for name in ("audit.list", "audit.verify")}) as api:
        first = api.told()[0].number + 1
        with api.files.database.change(*[Event("tested", word) for _ in DAMAGES for word in ("to be damaged", "good")]):
            pass
        damaged = list(range(first, first + 2 * len(DAMAGES), 2))
        with sqlite3.connect(tmp_path / "state" / "tapebay.db") as other:
            for number, (column, value) in zip(damaged, DAMAGES, strict=True):
                other.execute(f"UPDATE events SET {column} = {value} WHERE id = ?", [number])
        other.close()
        with api.http(api.token()) as http:
            verified = http.post("/v1/audit/verify").json()
            assert [fault["number"] for fault in verified["faults"]] == damaged
            for path in ("/v1/audit/list?limit=1000", "/v1/events?after=0"):
                rows = {row["number"]: row for row in http.get(path).raise_for_status().json()["items"]}
                assert rows.keys() >= set(damaged)
                assert all(rows[number + 1]["subject"] == "good" for number in damaged)
            with http.stream("GET", f"/v1/events?after={first - 1}", headers={"Accept": "text/event-stream"}) as answer:
                lines = (line for line in answer.iter_lines() if line.startswith("data: "))
                told = [json.loads(next(lines)[6:], parse_constant=refuse) for _ in range(2 * len(DAMAGES))]
            assert [event["number"] for event in told[::2]] == damaged


def refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def test_a_database_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    config = setup.create(tmp_path / "lib", setup.plan(tmp_path / "lib", portal="127.0.0.1:0"))
    offline(config, "cartridge.create", barcode="A00001L6")
    with sqlite3.connect(tmp_path / "lib" / "state" / "tapebay.db") as database:
        database.execute("UPDATE events SET actor = CAST(x'ff22' AS TEXT) WHERE id = 1")
    database.close()
    for verb in ("audit.list", "audit.verify"):
        with pytest.raises(OperatorError, match=r"tapebay.db: damaged: .*Restore the file from a backup"):
            offline(config, verb)


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

"""Copies as an operator sees them: of all initiators, with the checksum of each segment."""

import json

import pytest
from typer.testing import CliRunner

from appliance import logs
from appliance.cli import commands
from appliance.cli.app import app
from appliance.failures import Failure, OperatorError
from appliance.library.files import LibraryFiles
from appliance.library.library import Library
from appliance.operations import VERBS
from appliance.operations.perform import parameters_of, perform
from appliance.operations.verb import OnLibrary
from appliance.settings import config_file
from datamover.engine import crc32c
from datamover.initiator import InitiatorSession
from scsi_targets.client.copy_manager import CopyingUnit
from scsi_targets.client.disk import Disk
from scsi_targets.client.unit import CommandFailed
from scsi_targets.t10 import copy_descriptors as copy
from tests.support import packages
from tests.unit.devices.copying.support import content

TARGET = "iqn.2026-11.test:copies"
SETTINGS = f"""
[library]
name = "copies"
[changer]
slots = 4
[[portals]]
listen = "127.0.0.1:0"
[[targets]]
iqn = "{TARGET}"
[[drives]]
name = "drive0"
[[disks]]
name = "one"
size = "1 MiB"
[[disks]]
name = "two"
size = "1 MiB"
"""
DATA = content(1 << 20)


@pytest.fixture
def library(tmp_path):
    packages.require("libiscsi7")
    config = tmp_path / "tapebay.toml"
    config.write_text(SETTINGS)
    LibraryFiles.create(config_file.load(config)).close()
    library = Library.open(config_file.load(config))
    logs.configure(library.settings.logging)  # to standard error, as the daemon does: it logs while commands speak
    library.portal = library.start()[0]
    library.units["one"].medium.write(DATA, 0)
    yield library
    library.stop()
    library.close()


def do(library, verb, **given):
    context = OnLibrary(library.settings, library.settings.directory / "tapebay.toml", library.files, library)
    return perform(VERBS[verb], context, parameters_of(VERBS[verb], given))


def segment(number, address=0, to=0):
    return copy.BlockToBlock.encode(
        source=0, destination=1, number_of_blocks=number,
        source_logical_block_address=address, destination_logical_block_address=to,
    )  # fmt: skip


def copied(library, *segments, list_identifier=7):
    """Disk one to disk two, by a session that is gone afterwards."""
    with InitiatorSession(library.portal, TARGET) as session:
        one, two = Disk(session, 2), Disk(session, 3)
        manager = CopyingUnit(session, 2)
        manager.extended_copy([one.cscd(), two.cscd()], segments, list_identifier=list_identifier)


def test_a_finished_copy_is_shown_after_its_session_with_each_segments_checksum(library):
    assert do(library, "copies.list") == []
    copied(library, segment(8), segment(2, 100, 50))
    [row] = do(library, "copies.list")
    assert row["device"] == "one" and row["list_identifier"] == 7 and row["initiator"].startswith("iqn.")
    assert (row["state"], row["segments"], row["bytes_written"]) == ("done", 2, 5120)
    assert row["crc32c"] == f"{crc32c(DATA[:4096] + DATA[51200:52224]):08x}"
    assert row["began"] <= row["ended"] and row["failed_segment"] is None and row["sense"] == ""
    shown = do(library, "copies.show", number=row["number"])
    assert shown["results"] == [
        {"segment": 0, "bytes_taken": 4096, "crc32c": f"{crc32c(DATA[:4096]):08x}"},
        {"segment": 1, "bytes_taken": 1024, "crc32c": f"{crc32c(DATA[51200:52224]):08x}"},
    ]


def test_a_failed_copy_names_its_segment(library, monkeypatch):
    write = library.units["two"].medium.write

    def failing(buffer, offset, **options):
        if offset >= 51200:
            raise OSError(5, "the medium is worn out")
        write(buffer, offset, **options)

    monkeypatch.setattr(library.units["two"].medium, "write", failing)
    with pytest.raises(CommandFailed) as failed:
        copied(library, segment(8), segment(2, 100, 100))
    [row] = do(library, "copies.list")
    assert (row["state"], row["failed_segment"], row["bytes_written"]) == ("failed", 1, 4096)
    assert row["reason"].startswith("destination: ") and "worn out" in row["reason"]
    assert bytes.fromhex(row["sense"]) == failed.value.raw_sense


def test_copies_of_all_devices_are_in_the_order_of_their_arrival_and_bounded(library):
    for number in range(66):
        with InitiatorSession(library.portal, TARGET) as session:
            one, two = Disk(session, 2), Disk(session, 3)
            CopyingUnit(session, 3 if number == 65 else 2).extended_copy([one.cscd(), two.cscd()], [segment(1)])
    rows = do(library, "copies.list")
    numbers = [row["number"] for row in rows]
    assert numbers == sorted(numbers) and len(rows) == 65
    assert [row["device"] for row in rows] == ["one"] * 64 + ["two"]


def test_what_is_not_known_is_said(library):
    with pytest.raises(OperatorError, match="not known") as caught:
        do(library, "copies.show", number=1 << 40)
    assert caught.value.failure is Failure.NOT_FOUND
    with pytest.raises(OperatorError) as caught:
        do(library, "copies.show", number=0)
    assert caught.value.failure is Failure.USAGE


def test_the_command_line_shows_the_same(library, monkeypatch):
    copied(library, segment(8))
    [row] = do(library, "copies.list")
    context = OnLibrary(library.settings, library.settings.directory / "tapebay.toml", library.files, library)
    monkeypatch.setattr(
        commands, "ask", lambda _config, verb, parameters, _progress: perform(verb, context, parameters)
    )
    shown = CliRunner().invoke(app, ["copies", "show", str(row["number"]), "--json"])
    assert shown.exit_code == 0 and json.loads(shown.stdout) == do(library, "copies.show", number=row["number"])
    listed = CliRunner().invoke(app, ["copies", "list"]).stdout
    assert "one" in listed and "done" in listed and "4096" in listed
    shown = CliRunner().invoke(app, ["copies", "show", str(row["number"])]).stdout
    assert shown.startswith(f"copy {row['number']} on one for {row['initiator']}: done\n4096 bytes written, 1 segments")
    assert shown.count(row["crc32c"]) == 2  # of the copy and of its only segment

"""What the audit record says of who did something."""

from pathlib import Path

from appliance.library.files import LibraryFiles
from appliance.operations import setup
from appliance.settings import config_file
from tests.unit.appliance.offline import offline
from vlib_images.library.database import events


def test_an_operator_s_verbs_are_the_operator_s(tmp_path: Path) -> None:
    config = setup.create(tmp_path / "lib", setup.plan(tmp_path / "lib", portal="127.0.0.1:0"))
    offline(config, "cartridge.create", barcode="A00001L6")
    with LibraryFiles.open(config_file.load(config)) as files, files.database.read() as connection:
        newest = events.latest(connection, 1)[0]
    assert (newest.actor, newest.action, newest.subject) == ("operator", "cartridge added", "A00001L6")

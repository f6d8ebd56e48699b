"""What a library contains, taken apart into rows and put together again."""

from pathlib import Path

from appliance.library.contents import Contents
from appliance.operations import setup
from appliance.settings import config_file
from appliance.settings.content import Content
from appliance.settings.sections import ChapAccount, DiskSettings, DriveSettings, TargetSettings
from tests.support.database import new_database, open_again


def test_every_part_is_kept(tmp_path: Path) -> None:
    declared = config_file.load(setup.create(tmp_path / "lib", setup.plan(tmp_path / "lib", portal="127.0.0.1:0")))
    state = tmp_path / "state"
    contents = Contents(new_database(state), declared)
    first = contents.content
    full = Content(
        changer=first.changer.model_copy(update={"slots": 77}),
        drives=[DriveSettings(name="b"), DriveSettings(name="a", model="HP Ultrium 6-SCSI")],
        disks=[DiskSettings(name="z", size=1 << 20), DiskSettings(name="y", size=1 << 21, lun=300)],
        targets=[*first.targets, TargetSettings(iqn="iqn.2026-11.io.tapebay:second", luns={5: "z"})],
        accounts=[
            ChapAccount(user="u", secret="twelve chars"),
            ChapAccount(user="u", secret="other twelve", target="iqn.2026-11.io.tapebay:second"),
        ],
        luns={"a": 9},
    )
    contents.change(full)
    again = Contents(open_again(state), declared)
    assert again.content == contents.content
    assert again.applied == first
    assert [drive.name for drive in again.settings.drives] == ["b", "a"]
    assert again.content.accounts[1].secret.get_secret_value() == "other twelve"
    assert again.content.luns["a"] == 9

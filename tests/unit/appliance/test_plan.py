"""tapebay.toml beside what the library contains: what changed in the file is carried out, what verbs did is left."""

from pathlib import Path
from typing import Any

import pytest

from appliance.failures import Failure, OperatorError
from appliance.library.plan import Plan, compare
from appliance.operations import setup
from appliance.settings import config_file
from appliance.settings.content import Content, declared_in
from appliance.settings.sections import ChapAccount, DiskSettings, TargetSettings, ZoneSettings
from appliance.settings.settings import Settings
from appliance.settings.toml import content_as_toml
from tests.unit.appliance.daemon_process import Daemon
from tests.unit.appliance.offline import offline
from tests.unit.appliance.test_cli import as_json, output, tapebay

TARGET = TargetSettings(iqn="iqn.2026-11.io.tapebay:t")
MIB = 1 << 20


def content(**sections: Any) -> Content:
    return Content(targets=[TARGET], **sections)


def disk(name: str = "d", **settings: Any) -> DiskSettings:
    return DiskSettings(name=name, **{"size": MIB, **settings})


def account(user: str = "u", secret: str = "twelve chars", **more: Any) -> ChapAccount:
    return ChapAccount(user=user, secret=secret, **more)


def said(plan: Plan) -> tuple[list[str], list[str], list[str]]:
    return plan.changes, plan.removals, plan.drift


def test_nothing_changed() -> None:
    same = content(disks=[disk()], accounts=[account()])
    plan = compare(same, same, same)
    assert said(plan) == ([], [], [])
    assert (plan.content, plan.applied) == (same, same)


def test_what_is_new_in_the_file_is_added() -> None:
    plan = compare(content(disks=[disk("a"), disk("b")]), content(disks=[disk("a")]), content(disks=[disk("a")]))
    assert said(plan) == (["+ disk b: size 1 MiB"], [], [])
    assert [one.name for one in plan.content.disks] == ["a", "b"]


def test_only_the_settings_that_changed_in_the_file_are_changed() -> None:
    """A verb grew the disk since; the file made it read-only."""
    plan = compare(content(disks=[disk(read_only=True)]), content(disks=[disk()]), content(disks=[disk(size=4 * MIB)]))
    assert plan.changes == ["~ disk d: read_only false -> true"]
    assert plan.drift == ["disk d: size 4 MiB, but 1 MiB in tapebay.toml"]
    assert plan.content.disks == [disk(size=4 * MIB, read_only=True)]


def test_what_a_verb_made_or_removed_is_left() -> None:
    plan = compare(content(disks=[disk("a")]), content(disks=[disk("a")]), content(disks=[disk("b")]))
    assert (plan.changes, plan.removals) == ([], [])
    assert [line.partition(" was ")[0] for line in plan.drift] == ["disk a", "disk b"]
    assert [one.name for one in plan.content.disks] == ["b"]


def test_removals_want_prune_and_are_not_forgotten() -> None:
    before, after = content(disks=[disk("a"), disk("b")]), content(disks=[disk("a")])
    plan = compare(after, before, before)
    assert said(plan) == ([], ["- disk b"], [])
    assert plan.content == before
    later = compare(after, plan.applied, plan.content, prune=True)
    assert said(later) == (["- disk b"], [], [])
    assert [one.name for one in later.content.disks] == ["a"]
    assert said(compare(after, later.applied, later.content)) == ([], [], [])


def test_what_both_made_is_no_change_when_it_is_the_same() -> None:
    plan = compare(content(disks=[disk()]), content(), content(disks=[disk()]))
    assert said(plan) == ([], [], [])
    other = compare(content(disks=[disk()]), content(), content(disks=[disk(size=2 * MIB)]))
    assert other.changes == ["~ disk d: size 2 MiB -> 1 MiB"]


def test_an_account_that_a_verb_removed_comes_back_only_when_an_operator_says_so() -> None:
    declared, applied = content(accounts=[account(secret="another secret")]), content(accounts=[account()])
    start = compare(declared, applied, content(), explicit=False)
    assert start.changes == [] and start.content.accounts == []
    asked = compare(declared, start.applied, start.content)
    assert len(asked.changes) == 1 and asked.content.accounts == declared.accounts


def test_a_zone_that_a_verb_deleted_comes_back_only_when_an_operator_says_so() -> None:
    first, other = (ZoneSettings(name="z", initiators=[f"iqn.2026-11.test:{name}"]) for name in ("first", "other"))
    declared, applied = content(zones=[other]), content(zones=[first])
    start = compare(declared, applied, content(), explicit=False)
    assert start.changes == [] and start.content.zones == []
    asked = compare(declared, start.applied, start.content)
    assert len(asked.changes) == 1 and asked.content.zones == [other]


def test_secrets_are_never_shown() -> None:
    one, other = content(accounts=[account()]), content(accounts=[account(secret="another secret")])
    for plan in (compare(other, one, one), compare(one, one, other), compare(one, content(), content())):
        text = repr(said(plan)) + content_as_toml(plan.content)
        assert "twelve chars" not in text
        assert "another secret" not in text
        assert "u (initiator *, target *)" in text
    assert compare(other, one, one).changes == ["~ account u (initiator *, target *): secret differs"]


def test_slots_and_models_of_the_changer() -> None:
    declared = content(changer={"slots": 40})
    plan = compare(declared, content(), content())
    assert plan.changes == ["~ changer: slots 20 -> 40"]
    assert plan.content.changer.slots == 40


# ---- the library -------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return setup.create(tmp_path / "lib", setup.plan(tmp_path / "lib", portal="127.0.0.1:0", slots=4))


def edit(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def plan_of(path: Path) -> Any:
    return as_json("plan", "--config", path)


def test_a_new_library_agrees_with_its_file(path: Path) -> None:
    nothing = ("changes", "removals", "drift", "sessions", "refused")
    assert plan_of(path) == {each: [] for each in nothing}
    assert output("plan", "--config", path) == "tapebay.toml and the library agree.\n"


def test_plan_changes_nothing_and_apply_does(path: Path) -> None:
    edit(path, "slots = 4", "slots = 8")
    before = path.read_text()
    for _ in range(2):
        assert plan_of(path)["changes"] == ["~ changer: slots 4 -> 8"]
        assert as_json("apply", "--dry-run", "--config", path)["changes"] == ["~ changer: slots 4 -> 8"]
    assert as_json("apply", "--config", path)["changes"] == ["~ changer: slots 4 -> 8"]
    assert plan_of(path)["changes"] == []
    assert len(as_json("cartridge", "create", "A00001L6", "--count", 8, "--config", path)) == 8
    assert path.read_text() == before


def test_verbs_leave_the_file_alone_and_are_drift(path: Path) -> None:
    before = path.read_bytes()
    output("disk", "create", "data", "1 MiB", "--config", path)
    output("disk", "grow", "data", "2 MiB", "--config", path)
    assert path.read_bytes() == before
    assert plan_of(path)["drift"] == ["disk data was made by a verb; tapebay.toml does not have it"]
    shown = output("show-config", "--config", path)
    assert '[[disks]]\nname = "data"\nsize = "2 MiB"\n' in shown


def test_what_is_shown_is_a_configuration(path: Path) -> None:
    output("disk", "create", "data", "1 MiB", "--config", path)
    shown = output("show-config", "--config", path)
    again = config_file.parse(path, f'[[portals]]\nlisten = "127.0.0.1:0"\n{shown}')
    kept = declared_in(again)
    assert [one.name for one in kept.disks] == ["data"]
    assert kept.drives == config_file.load(path).drives


def test_a_content_that_does_not_fit_together_is_refused_whole(path: Path) -> None:
    output("disk", "create", "data", "1 MiB", "--config", path)
    path.write_text(path.read_text() + '[[drives]]\nname = "data"\n')
    refused = tapebay("apply", "--config", path)
    assert (refused.exit_code, "device name 'data' is given 2 times" in refused.stderr) == (1, True)
    assert len(as_json("disk", "list", "--config", path)) == 1
    path.write_text("[[portals\n")
    assert tapebay("plan", "--config", path).exit_code == 3


def test_serve_says_how_they_differ_and_applies_only_when_told(path: Path) -> None:
    edit(path, "slots = 4", "slots = 8")
    daemon = Daemon(path.parent)
    daemon.wait_ready()
    slots = [row["place"] for row in daemon.call("status")["elements"] if row["place"].startswith("slot:")]
    assert daemon.stop() == 0
    (line,) = [line for line in daemon.log if line.get("level") == "warning"]
    assert "tapebay plan" in line["event"] and line["changes"] == ["~ changer: slots 4 -> 8"]
    assert len(slots) == 4
    daemon = Daemon(path.parent, "--apply")
    daemon.wait_ready()
    slots = [row["place"] for row in daemon.call("status")["elements"] if row["place"].startswith("slot:")]
    assert daemon.stop() == 0
    assert len(slots) == 8


def test_luns_stay_when_devices_come_and_go(path: Path) -> None:
    output("disk", "create", "one", "1 MiB", "--config", path)
    output("disk", "create", "two", "1 MiB", "--config", path)
    path.write_text(path.read_text() + '[[drives]]\nname = "drive2"\n')
    output("apply", "--config", path)
    daemon = Daemon(path.parent)
    daemon.wait_ready()
    luns = daemon.call("status")["targets"][0]["luns"]
    assert daemon.stop() == 0
    assert luns == {"0": "changer", "1": "drive0", "2": "drive1", "3": "one", "4": "two", "5": "drive2"}


def test_accounts_are_kept_with_their_secrets(path: Path) -> None:
    path.write_text(path.read_text() + '\n[[chap.accounts]]\nuser = "u"\nsecret = "twelve chars"\n')
    output("apply", "--config", path)
    from appliance.library.files import LibraryFiles

    with LibraryFiles.open(config_file.load(path)) as files:
        (kept,) = files.settings.chap.accounts
    assert kept.secret.get_secret_value() == "twelve chars"
    assert "twelve chars" not in output("show-config", "--config", path)


def test_a_disks_image_is_found_when_the_library_moves(path: Path) -> None:
    path.write_text(path.read_text() + '[[disks]]\nname = "d"\nsize = "1 MiB"\nimage = "images/d.img"\n')
    offline(path, "configuration.apply")
    moved = path.parent.rename(path.parent.with_name("moved"))
    (row,) = as_json("disk", "list", "--config", moved)
    assert row["image"] == str(moved / "images" / "d.img")


def test_unknown_names_are_a_usage_error(path: Path) -> None:
    with pytest.raises(OperatorError) as caught:
        offline(path, "configuration.apply", prun=True)
    assert caught.value.failure is Failure.USAGE
    assert "did you mean 'prune'?" in str(caught.value)


def test_settings_of_a_file_and_of_its_content_are_the_same(path: Path) -> None:
    settings = config_file.load(path)
    assert isinstance(settings, Settings)
    assert declared_in(settings) == Content.model_validate(declared_in(settings).to_json())

"""If-Match of whatever has something to show and something that changes it: a tag of another version refuses the
change, and nothing has changed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from appliance.backup.job import BackupCancelled, BackupJob
from appliance.backup.records import Backups, BackupState
from appliance.failures import Failure, OperatorError
from appliance.library.files import LibraryFiles
from appliance.library.library import Library
from appliance.operations import VERBS
from appliance.operations.perform import parameters_of, perform
from appliance.operations.verb import OnLibrary, Scope, Verb
from appliance.operations.versions import tag_of
from appliance.settings import config_file
from datamover.initiator import Credentials, InitiatorSession
from scsi_targets.t10 import spc
from tests.support.scsi import Device
from tests.support.waiting import becomes, eventually
from tests.unit.appliance.test_pools import CONFIG, HOST, POOLS

TARGET = "iqn.2026-11.io.tapebay:lib"
ALICE = "iqn.2026-11.test:alice"
MORE = (
    '[[partitions]]\nname = "left"\nslots = "1-8"\ndrives = ["drive0"]\n'
    '[[chap.accounts]]\nuser = "u"\nsecret = "twelve chars"\n'
    '[[zones]]\nname = "z"\naccounts = ["u"]\nluns = { 0 = "data", 1 = "other" }\n[[drives]]\nname = "drive2"\n'
    '[[disks]]\nname = "data"\nsize = "1 MiB"\n[[disks]]\nname = "other"\nsize = "1 MiB"\n'
)
# What each of these verbs is asked, beside what names the thing that it changes.
CHANGES: dict[str, dict[str, Any]] = {
    "account.change": {"secret": "another secret"}, "account.delete": {}, "backup.account": {
        "server": "s", "payload_bytes": 1, "network_bytes": 1, "processor_seconds": 1.0},
    "backup.cancel": {}, "backup.delete": {}, "backup.resume": {"background": True}, "broker.start": {},
    "broker.stop": {}, "cartridge.delete": {}, "cartridge.protect": {"protected": True},
    "configuration.apply": {}, "copies.limit": {"rate": "1 MiB"}, "copies.stop": {}, "disk.grow": {"size": "2 MiB"},
    "disk.remove": {}, "drive.remove": {}, "grant.release": {}, "grant.renew": {}, "grant.revoke": {},
    "key.allow": {"tag": "x"}, "key.deny": {"tag": "x"}, "key.rotate": {}, "load": {"drive": "drive1"},
    "move": {"to": "slot:12"}, "partition.change": {"barcodes": "A*"}, "partition.delete": {"whole": True},
    "pool.change": {"barcodes": "LO*"}, "pool.delete": {}, "remote.reach": {}, "remote.remove": {},
    "request.cancel": {}, "reservation.break": {}, "session.end": {}, "snapshot.release": {}, "snapshot.renew": {},
    "snapshot.signal": {"sender": "agent", "number": 1, "signal": "accepted"}, "snapshot.take": {},
    "target.change": {"initiators": HOST}, "target.remove": {}, "token.revoke": {}, "unload": {},
    "zone.change": {"networks": "192.0.2.0/24"}, "zone.delete": {"open": True},
}  # fmt: skip
# Parameters of a verb that shows something are also those of verbs that make it, or only read it.
MAKING = ("create", "add", "import", "export", "recover", "adopt", "verify", "wait", "start", "backup.decline")


class Site:
    """A library that has one of everything that can be changed, and its names."""

    def __init__(self, path: Path) -> None:
        self.library = Library.open(config_file.load(path), apply=True)
        self.context = OnLibrary(self.library.settings, path, self.library.files, self.library)
        portal = self.library.start()[0]
        self.portal = portal
        secret = path.with_name("secret")
        secret.write_text("twelve chars\n")
        for barcode in ("N00001L6", "N00002L6"):
            self.do("cartridge.create", barcode=barcode, place=f"slot:{9 + int(barcode[5])}")
        self.do("token.create", name="t")
        far = f"iscsi://{portal}/{TARGET}/1"
        self.do("remote.add", name="far", address=far, user="u", secret_file=str(secret))
        self.do("copy", source="disk:other@0+2", destination="disk:other@8+2")
        self.names: dict[str, dict[str, Any]] = {
            "account.show": {"user": "u"}, "broker.show": {}, "cartridge.show": {"barcode": "N00001L6"},
            "configuration.show": {}, "copies.show": {"number": self.do("copies.list")[-1]["number"]},
            "disk.show": {"name": "data"}, "drive.show": {"name": "drive1"}, "key.list": {},
            "partition.show": {"name": "left"}, "pool.show": {"name": "logs"}, "remote.show": {"name": "far"},
            "reservation.show": {"device": "data"}, "target.show": {"iqn": TARGET}, "token.show": {"name": "t"},
            "zone.show": {"name": "z"},
            "snapshot.show": {"snapshot": self.do("snapshot.create", disks="data")["snapshot"]},
            "backup.show": {"number": self.do("backup.start", disks=["other"], to=["N00002L6"], raw=True)["number"]},
            "request.show": {"request": self.granted()},
        }  # fmt: skip

    def do(self, wanted: str, if_match: str = "", **options: Any) -> Any:
        return perform(VERBS[wanted], self.context, parameters_of(VERBS[wanted], options), if_match)

    def granted(self) -> str:
        """The name of a request that has its drive for a day."""
        made = self.do("request.create", initiator=HOST, volume=["N00002L6"], lease_seconds=86_400.0)
        becomes("granted", lambda: self.do("request.show", request=made["request"])["state"])
        return str(made["request"])

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """The block has a session, which holds a disk."""
        credentials = Credentials("u", "twelve chars")
        with InitiatorSession(self.portal, TARGET, initiator_name=ALICE, credentials=credentials) as session:
            assert Device(session, 0).command(spc.Reserve6.encode()).status == 0
            newest = [row["id"] for row in self.do("session.list") if row["initiator"] == ALICE][-1]
            self.names["session.show"] = {"id": newest}
            yield

    def show(self, shown: str) -> Any:
        return self.do(shown, **self.names[shown])

    def tag(self, shown: str) -> str:
        tag = tag_of(VERBS[shown], self.show(shown))
        assert tag is not None
        return tag

    def given(self, verb: Verb) -> dict[str, Any]:
        """What the verb is asked about what the site has of it."""
        name = self.names[verb.changes]
        if verb.name in ("load", "move"):
            name = {"cartridge": name["barcode"]}
        elif verb.name == "unload":
            name = {"drive": name["name"]}
        return {**name, **CHANGES[verb.name]}

    def close(self) -> None:
        self.library.stop()
        self.library.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    path = tmp_path_factory.mktemp("library") / "tapebay.toml"
    path.write_text(CONFIG + POOLS + MORE)
    LibraryFiles.create(config_file.load(path)).close()
    made = Site(path)
    yield made
    made.close()


def test_whatever_changes_what_is_shown_takes_it() -> None:
    """All verbs that are told what a `show` of the same noun is told, but those that make it or only read."""
    taking = {name for name, verb in VERBS.items() if verb.changes}
    assert taking == set(CHANGES)
    for verb in VERBS.values():
        shown = VERBS.get(f"{verb.noun}.show")
        if shown is None or verb.shows or verb.scope is Scope.READ or verb.name.rpartition(".")[2] in MAKING:
            continue
        if shown.parameters.model_fields.keys() <= verb.parameters.model_fields.keys():
            assert verb.changes, f"{verb.name} changes what {shown.name} shows"


@pytest.mark.parametrize("name", CHANGES)
def test_another_version_s_tag_changes_nothing(site: Site, name: str) -> None:
    verb = VERBS[name]
    with site.reserved() if verb.noun in ("session", "reservation") else nullcontext():
        before = site.tag(verb.changes)
        with pytest.raises(OperatorError) as caught:
            site.do(name, '"0123456789abcdef0123456789abcdef"', **site.given(verb))
        assert caught.value.failure is Failure.CHANGED
        assert before in str(caught.value) and verb.changes in str(caught.value)
        assert site.tag(verb.changes) == before


# ---- what happens of itself makes no version; a step does ------------------------------------------------------------


def test_a_snapshot_is_released_as_it_was_seen(site: Site) -> None:
    name = site.do("snapshot.create", disks="data")["snapshot"]
    seen = tag_of(VERBS["snapshot.show"], site.do("snapshot.show", snapshot=name)) or ""
    site.do("snapshot.renew", seen, snapshot=name)  # a lease is no version
    site.do("snapshot.signal", seen, snapshot=name, sender="agent", number=1, signal="list-begin")
    with pytest.raises(OperatorError) as caught:
        site.do("snapshot.release", seen, snapshot=name)
    assert caught.value.failure is Failure.CHANGED
    assert site.do("snapshot.show", snapshot=name)["state"] == "held"
    now = tag_of(VERBS["snapshot.show"], site.do("snapshot.show", snapshot=name)) or ""
    assert site.do("snapshot.release", now, snapshot=name)["state"] == "released"


def test_a_backup_is_deleted_as_it_was_seen(site: Site) -> None:
    number = site.do("backup.start", disks=["other"], to=["N00002L6"], raw=True, overwrite=True)["number"]
    shown = site.do("backup.show", number=number)
    assert shown["state"] in ("done", "failed")
    seen = tag_of(VERBS["backup.show"], shown) or ""
    assert tag_of(VERBS["backup.show"], {**shown, "content_bytes": 7, "phase": "copying"}) == seen
    assert tag_of(VERBS["backup.show"], {**shown, "state": "interrupted"}) != seen
    site.do("backup.delete", seen, number=number)
    with pytest.raises(OperatorError) as caught:
        site.do("backup.delete", seen, number=number)
    assert caught.value.failure is Failure.NOT_FOUND


def test_a_cartridge_is_moved_as_it_was_seen(site: Site) -> None:
    site.do("cartridge.create", barcode="N00003L6", place="slot:15")
    seen = tag_of(VERBS["cartridge.show"], site.do("cartridge.show", barcode="N00003L6")) or ""
    site.do("move", seen, cartridge="slot:15", to="slot:16")
    for given in ({"cartridge": "N00003L6"}, {"cartridge": "slot:16"}):
        with pytest.raises(OperatorError) as caught:
            site.do("move", seen, to="slot:17", **given)
        assert caught.value.failure is Failure.CHANGED
    with pytest.raises(OperatorError) as caught:
        site.do("move", seen, cartridge="slot:15", to="slot:17")
    assert caught.value.failure is Failure.NOT_FOUND
    assert site.do("cartridge.show", barcode="N00003L6")["place"] == "slot:16"


def test_nobody_moves_a_cartridge_between_the_look_and_the_change(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.do("cartridge.create", barcode="N00004L6", place="slot:18")
    robot = site.library.robot
    move, order = type(robot).move, list[str]()

    def by_somebody_else() -> None:
        with robot.turn:
            order.append("another")

    stranger = threading.Thread(target=by_somebody_else)

    def watched(*given: Any, **more: Any) -> Any:
        stranger.start()
        eventually(lambda: robot.turn.waiting == 1)
        moved = move(*given, **more)
        order.append("moved")
        return moved

    monkeypatch.setattr(type(robot), "move", watched)
    seen = tag_of(VERBS["cartridge.show"], site.do("cartridge.show", barcode="N00004L6")) or ""
    site.do("move", seen, cartridge="N00004L6", to="slot:19")
    stranger.join(60)
    assert order == ["moved", "another"]


def test_a_backup_that_is_cancelled_as_it_was_seen_makes_its_steps_meanwhile(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look and the cancellation are one step; its own thread makes the next, and is not waited for in vain."""
    begun, go_on = threading.Event(), threading.Event()

    def run(_job: BackupJob) -> None:
        begun.set()
        go_on.wait(60)
        raise BackupCancelled

    monkeypatch.setattr(BackupJob, "run", run)
    number = site.do("backup.start", disks=["other"], to=["N00002L6"], raw=True, background=True)["number"]
    assert begun.wait(60)
    seen = tag_of(VERBS["backup.show"], site.do("backup.show", number=number)) or ""
    cancelling = threading.Thread(target=lambda: site.do("backup.cancel", seen, number=number))
    cancelling.start()
    job = site.library.backups.job(number)
    assert job is not None
    eventually(job.cancelled.is_set)
    go_on.set()
    cancelling.join(25)  # less than what cancel waits at most
    assert not cancelling.is_alive()
    assert site.do("backup.show", number=number)["state"] == "cancelled"
    with pytest.raises(OperatorError) as caught:
        site.do("backup.delete", seen, number=number)
    assert caught.value.failure is Failure.CHANGED


def test_a_backup_s_end_and_the_return_of_its_drive_are_one_step(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sees the end may resume it at once, and nothing of that is taken for what has ended."""
    records, free = site.library.backups.records, list[bool]()
    step = Backups.step

    def watched(of: Backups, number: int, state: BackupState, **changes: Any) -> Any:
        kept = step(of, number, state, **changes)
        if state is not BackupState.RUNNING:
            stranger = threading.Thread(target=lambda: free.append(records.changing.acquire(blocking=False)))
            stranger.start()
            stranger.join()
            assert site.library.backups.job(number) is not None
        return kept

    monkeypatch.setattr(Backups, "step", watched)
    monkeypatch.setattr(BackupJob, "run", lambda job: None)
    number = site.do("backup.start", disks=["other"], to=["N00002L6"], raw=True)["number"]
    assert site.do("backup.show", number=number)["state"] == "done"
    assert free == [False]
    assert site.library.backups.job(number) is None

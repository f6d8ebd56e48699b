"""One backup of several servers and of a disk that none of them uses: who comes, who does not, and what is on tape."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.agent.backup import AGAIN_SECONDS, AgentJob, MountedSource
from appliance.agent.freeze import FreezeFailed
from appliance.agent.serving import serve
from appliance.backup.gathering import Gatherings, Joined
from appliance.backup.servers import ServerPart
from appliance.failures import Failure, OperatorError
from datamover.initiator import InitiatorSession
from tests.support import packages
from tests.support.appliance import Appliance, Disk
from tests.support.scsi import Device, write_10
from tests.support.waiting import eventually, in_time
from tests.unit.backup.test_job import BARCODE, MEBIBYTE, files_in, fill, first_file, make_ext4, no_space_is_taken
from tests.unit.backup.test_listed import SOURCE, Machine

SERVERS = {"web": "data", "mail": "letters"}


class Site(Appliance):
    """Two servers' disks, and one that no server uses. expected: what is to be on tape. cold: how many files are on
    that one, and how long they are."""

    def __init__(self, folder: Path, cold: tuple[int, int] = (5, 30_000)) -> None:
        library = folder / "library"
        self.expected: dict[str, bytes] = {}
        (library / "disks").mkdir(parents=True)
        for name, prefix in (("data", "web/srv"), ("letters", "mail/srv"), ("cold", "cold")):
            files = fill(folder / name, *(cold if name == "cold" else (5, 30_000)))
            self.expected |= {f"{prefix}/{path.removeprefix('data/')}": data for path, data in files.items()}
            make_ext4(library / f"disks/{name}.img", folder / name, 16)
        super().__init__(library, disks=[Disk(name, "16 MiB") for name in ("data", "letters", "cold")])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as running:
        yield running


def machine(site: Appliance, name: str) -> Machine:
    return Machine(site, replace(SOURCE, in_library=SERVERS[name]), name)


class Serving:
    """`tapebay agent serve` on a server of its own. failed: set when its backup has failed; it is tried again once
    `again` is."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self._over = machine, threading.Event()
        self.failed, self.again = threading.Event(), threading.Event()
        hot = machine.hot
        hot.api.pause = self._pause
        arguments = (hot, self._found, hot.api, lambda: not self._over.is_set())
        self._thread = threading.Thread(target=serve, args=arguments, daemon=True)

    def _pause(self, seconds: float) -> None:
        if seconds == AGAIN_SECONDS:
            self.failed.set()
            self.again.wait(300)
        else:
            self._over.wait(0.05)

    def _found(self, name: str) -> tuple[AgentJob, list[MountedSource]]:
        if name != "nightly":
            raise OperatorError(Failure.NOT_FOUND, f"there is no job {name} in the agent's file")
        return AgentJob([Path("/srv")], name), [self.machine.source]

    def __enter__(self) -> Serving:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.again.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


def gather(site: Appliance, **wanted: Any) -> Any:
    given = {"job": "nightly", "server": ["web", "mail"], "disk": ["cold"], "to": [BARCODE], **wanted}
    return site.call("backup.gather", **given)


def test_two_servers_and_a_cold_disk_are_one_backup(site: Site) -> None:
    with Serving(machine(site, "web")) as web, Serving(machine(site, "mail")) as mail:
        report = gather(site)
        assert report["state"] == "done", report
        eventually(lambda: len(web.machine.said) > 2 and len(mail.machine.said) > 2)
        later = gather(site, to=["TST002L6"], incremental=True)
    assert (later["state"], later["since"], later["content_bytes"]) == ("done", report["number"], 0), later
    assert files_in(first_file(site)) == site.expected
    assert report["disks"] == ["data", "letters", "cold"]
    assert [(part["server"], part["disks"]) for part in report["servers"]] == [("web", ["data"]), ("mail", ["letters"])]
    assert f"job nightly: backup {report['number']} is done" in web.machine.said
    costs = site.call("backup.show", number=report["number"])["servers"]
    assert all(part["processor_seconds"] > 0 for part in costs)
    cold = sum(len(data) for name, data in site.expected.items() if name.startswith("cold/"))
    assert sum(part["content_bytes"] for part in costs) == pytest.approx(report["content_bytes"] - cold, abs=40 * 4096)
    assert no_space_is_taken(site)
    assert site.call("backup.gathering") == []


def test_who_does_not_come_is_named_and_the_others_are_let_go(site: Site) -> None:
    def only_mail_is_missing(seconds: float) -> None:
        with pytest.raises(OperatorError, match=f"^mail did not come within {seconds:g} s"):
            gather(site, wait_seconds=seconds)

    with Serving(machine(site, "web")) as web:
        in_time(only_mail_is_missing, AssertionError, (4, 20, 100))
        eventually(lambda: any("has come to nothing: mail did not come" in line for line in web.machine.said))
    assert site.call("backup.list") == []
    assert {row["state"] for row in site.call("snapshot.list")} <= {"released"}
    assert no_space_is_taken(site)


def test_a_server_that_cannot_says_why_at_once(site: Site) -> None:
    mail = machine(site, "mail")
    mail.fails = 99
    with Serving(machine(site, "web")), Serving(mail):
        with pytest.raises(OperatorError, match="server mail: somebody else let /srv go"):
            gather(site)
        with pytest.raises(OperatorError, match=r"server (web|mail): there is no job weekly in the agent's file"):
            gather(site, job="weekly")
    assert no_space_is_taken(site)


def test_a_disk_of_a_server_is_not_cold(site: Site) -> None:
    with (
        Serving(machine(site, "web")),
        Serving(machine(site, "mail")),
        pytest.raises(OperatorError, match="data has come from a server, so it is in use"),
    ):
        gather(site, disk=["data"])
    assert no_space_is_taken(site)


def test_what_is_refused(site: Site) -> None:
    with pytest.raises(OperatorError, match="is named twice"):
        gather(site, server=["web", "web"])
    with pytest.raises(OperatorError, match="is no name of a server"):
        gather(site, server=["../web"])
    for wrong, noun in (({"disk": ["no"]}, "disk"), ({"to": ["no"]}, "cartridge"), ({"drive": "no"}, "drive")):
        with pytest.raises(OperatorError, match=f"^there is no {noun} no; see: "):  # before any server is waited for
            gather(site, wait_seconds=60, **wrong)
    with pytest.raises(OperatorError, match="nobody waits for web in job nightly"):
        site.call("backup.join", job="nightly", server="web", snapshot="0" * 16, disks=["data"])


# ---- one that fails, with a disk that no server uses -----------------------------------------------------------------

SMALL = "SML001L6"


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Site]:
    """More on the disk that no server uses than what is left of a small cartridge."""
    with Site(tmp_path, cold=(20, 500_000)) as running:
        running.call("cartridge.create", barcode=SMALL, capacity="8 MiB")
        yield running


def overwrite(site: Site, name: str, first: int, blocks: int) -> None:
    """As a host does that is logged in to a disk."""
    packages.require("libiscsi7")
    with InitiatorSession(site.portal, site.target_name) as session:
        disk = Device(session, site.lun(name))
        for block in range(first, first + blocks, 128):
            disk.good(write_10(block, min(128, first + blocks - block)), bytes(512 * min(128, first + blocks - block)))


def failed(site: Site, *servers: Serving) -> int:
    """The number of a backup for which there was not enough tape. It stays failed until they may try it again."""
    number = int(gather(site, to=[SMALL], checkpoint="1 MiB", background=True)["number"])
    for server in servers:
        assert server.failed.wait(60)
    report = site.call("backup.show", number=number)
    assert report["state"] == "failed" and "give more" in report["reason"], report
    assert report["volumes"], report
    states = {one["disk"]: row["state"] for row in site.call("snapshot.list") for one in row["disks"]}
    assert states == {"data": "listed", "letters": "listed", "cold": "released"}
    return number


def test_one_that_failed_goes_on_with_what_the_agents_hold(large: Site) -> None:
    """Their disks are written over meanwhile, and the tapes have the instant; the other one is held still anew, and
    what the tapes have of it compared."""
    with Serving(machine(large, "web")) as web, Serving(machine(large, "mail")) as mail:
        number = failed(large, web, mail)
        for name in ("data", "letters"):
            overwrite(large, name, 0, 16 * MEBIBYTE // 512)
        large.call("backup.resume", number=number, to=[BARCODE], background=True)
        report = large.call("backup.wait", number=number)
    assert report["state"] == "done", report
    assert [volume["barcode"] for volume in report["volumes"]] == [SMALL, BARCODE]
    assert files_in(first_file(large, SMALL)) | files_in(first_file(large)) == large.expected
    eventually(lambda: no_space_is_taken(large))


def test_one_that_failed_is_refused_when_the_other_disk_has_changed(large: Site) -> None:
    with Serving(machine(large, "web")) as web, Serving(machine(large, "mail")) as mail:
        number = failed(large, web, mail)
        first = min(name for name in files_in(first_file(large, SMALL)) if name.startswith("cold/"))
        at = large.image("cold").read_bytes().index(large.expected[first][:4096]) // 512
        overwrite(large, "cold", at, 8)
        large.call("backup.resume", number=number, to=[BARCODE], background=True)
        report = large.call("backup.wait", number=number)
        assert (report["state"], report["reason"]) == (
            "failed", f"{first} has changed since it was written to tape; begin a new backup"
        ), report  # fmt: skip
        held = [row["snapshot"] for row in large.call("snapshot.list") if row["state"] == "listed"]
        assert len(held) == 2
        for snapshot in held:  # an operator gives it up, and so the agents do
            large.call("snapshot.release", snapshot=snapshot)
    eventually(lambda: no_space_is_taken(large))


# ---- signals, without a daemon ---------------------------------------------------------------------------------------


def part(server: str, *disks: str, snapshot: str = "") -> ServerPart:
    return ServerPart(server, snapshot or f"of-{server}", disks)


def test_whoever_asks_again_is_told_what_became_of_it() -> None:
    gatherings = Gatherings()
    checks: list[str] = []
    gathering = gatherings.open("nightly", ["web", "mail"])
    for _ in range(3):
        assert gatherings.join("nightly", part("web", "data"), lambda: checks.append("web")) == Joined()
    assert (checks, gathering.missing, gatherings.wanted("web"), gatherings.wanted("mail")) == (
        ["web"], ["mail"], [], ["nightly"],
    )  # fmt: skip
    with pytest.raises(OperatorError, match="data has come from web already"):
        gatherings.join("nightly", part("mail", "data"), lambda: None)
    with pytest.raises(FreezeFailed):
        gatherings.join("nightly", part("mail", "letters"), _fails)
    assert gathering.missing == ["mail"]
    gatherings.join("nightly", part("mail", "letters"), lambda: None)
    gatherings.close(gathering, Joined(number=7))
    assert gatherings.join("nightly", part("web", "data"), lambda: None) == Joined(number=7)
    with pytest.raises(OperatorError, match="nobody waits for web"):
        gatherings.join("nightly", part("web", "data", snapshot="another"), lambda: None)


def _fails() -> None:
    raise FreezeFailed("no")


def test_one_gathering_of_a_job() -> None:
    gatherings = Gatherings()
    first = gatherings.open("nightly", ["web"])
    with pytest.raises(OperatorError, match="being gathered already; it waits for web"):
        gatherings.open("nightly", ["mail"])
    gatherings.decline("nightly", "web", "no such job")
    gatherings.decline("nightly", "web", "another reason")
    assert (first.failed, gatherings.wanted("web")) == ("server web: no such job", [])
    gatherings.close(first, Joined(reason=first.failed))
    gatherings.open("nightly", ["mail"])

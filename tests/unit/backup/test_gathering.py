"""One backup of several servers and of a disk that none of them uses: who comes, who does not, and what is on tape."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.agent.backup import AgentJob, MountedSource
from appliance.agent.freeze import FreezeFailed
from appliance.agent.serving import serve
from appliance.backup.gathering import Gatherings, Joined
from appliance.backup.servers import ServerPart
from appliance.failures import Failure, OperatorError
from tests.support.appliance import Appliance, Disk
from tests.support.waiting import eventually
from tests.unit.backup.test_job import BARCODE, files_in, fill, first_file, make_ext4, no_space_is_taken
from tests.unit.backup.test_listed import SOURCE, Machine

SERVERS = {"web": "data", "mail": "letters"}


class Site(Appliance):
    """Two servers' disks, and one that no server uses. expected: what is to be on tape."""

    def __init__(self, folder: Path) -> None:
        library, self.expected = folder / "library", {}
        (library / "disks").mkdir(parents=True)
        for name, prefix in (("data", "web/srv"), ("letters", "mail/srv"), ("cold", "cold")):
            files = fill(folder / name, 5, 30_000)
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
    """`tapebay agent serve` on a server of its own."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self._over = machine, threading.Event()
        hot = machine.hot
        hot.api.pause = lambda _seconds: self._over.wait(0.05)
        arguments = (hot, self._found, hot.api, lambda: not self._over.is_set())
        self._thread = threading.Thread(target=serve, args=arguments, daemon=True)

    def _found(self, name: str) -> tuple[AgentJob, list[MountedSource]]:
        if name != "nightly":
            raise OperatorError(Failure.NOT_FOUND, f"there is no job {name} in the agent's file")
        return AgentJob([Path("/srv")], name), [self.machine.source]

    def __enter__(self) -> Serving:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
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
    with Serving(machine(site, "web")) as web:
        with pytest.raises(OperatorError, match="mail did not come within 3 s"):
            gather(site, wait_seconds=3)
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
    with pytest.raises(OperatorError, match="nobody waits for web in job nightly"):
        site.call("backup.join", job="nightly", server="web", snapshot="0" * 16, disks=["data"])


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

"""`tapebay mount` on a server: what it asks of the API and of open-iscsi, and that nothing is left when it fails."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.agent import devices, mount, open_iscsi
from appliance.agent.mount import Agent
from appliance.agent.mounts import FOLDER_VARIABLE, MountedGrant, Mounts
from appliance.failures import Failure, OperatorError

HOST, GATE = "iqn.1993-08.org.debian:host", "iqn.2026-11.io.tapebay:gate"
REQUEST, SECRET = "0123456789abcdef", "s" * 16
GRANT = {
    "portals": ["0.0.0.0:3260,7"], "target": GATE, "user": "ak1.key", "secret": SECRET, "mutual_user": GATE,
    "mutual_secret": "m" * 16, "expires_at_ms": 0,
}  # fmt: skip
UNIT = {"lun": 2, "device": "drive1", "serial_number": "SERIAL0002", "permissions": [], "cartridge": "A00001L6"}


class Api:
    """One request, which is granted when it is looked at for the second time."""

    host = "library.example"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.state, self.looks = "queued", 0
        self.away: Failure | None = None
        self.by_gate = False
        self.deaf = False  # no event reaches it

    def events(self, subject: str, /, *, timeout_seconds: float) -> Iterator[object]:
        assert subject == REQUEST
        if self.deaf:
            raise OperatorError(Failure.REFUSED, "no event for a while")
        yield None

    def call(self, verb: str, /, **parameters: Any) -> Any:
        self.asked.append(verb)
        if self.away is not None:
            raise OperatorError(self.away, "away")
        if verb == "request.create":
            assert parameters["initiator"] == HOST
        elif verb == "request.show" and self.state == "queued":
            self.looks += 1
            self.state = "granted" if self.looks == 2 else "queued"
        elif verb == "grant.renew":
            if self.state != "granted":
                raise OperatorError(Failure.REFUSED, "no grant")
            return {"lease_seconds": 180.0}
        elif verb in ("grant.release", "request.cancel"):
            self.state = "ending"
        granted = self.state == "granted"
        return {
            "request": REQUEST, "state": self.state, "why": "no drive is free" if self.state == "queued" else "",
            "units": [UNIT] if granted else [], "grant": GRANT if granted else None, "by_gate": self.by_gate,
        }  # fmt: skip


@pytest.mark.parametrize(
    "odd",
    [
        {"target": "iqn.2026/../../../etc"}, {"target": "../etc"}, {"portals": ["host:3260\n,1"]},
        {"portals": ["../x:3260,1"]}, {"secret": "s\nnode.startup = automatic"}, {"user": ""}, {"mutual_user": 5},
    ],
)  # fmt: skip
def test_what_can_be_no_grant_reaches_no_file_of_roots(odd: dict[str, Any]) -> None:
    with pytest.raises(OperatorError, match="the library's grant has a"):
        open_iscsi.Way.of(REQUEST, {**GRANT, **odd}, "library.example")


@pytest.mark.parametrize("request_name", ["../../etc/x", "a/b", "", "a" * 65, "a\n"])
def test_what_can_be_no_request_reaches_no_file_of_roots(request_name: str, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="which is none"):
        Mounts(tmp_path / "run").keep(MountedGrant(request_name, 60.0))
    assert [path.name for path in tmp_path.rglob("*.*")] == []


class OpenIscsi:
    """As much of iscsiadm as is asked for, with its records and the kernel's sessions in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.ifaces: set[str] = set()
        self.fails = ""

    @property
    def record(self) -> Path:
        return self.folder / "nodes" / GATE / "library.example,3260,7" / f"tapebay-{REQUEST}"

    @property
    def session(self) -> Path:
        return self.folder / "sessions" / "session3"

    def __call__(self, *arguments: str, allowed: Any = ()) -> str:
        line = " ".join(arguments)
        self.said.append(line)
        if self.fails and self.fails in line:
            raise OperatorError(Failure.REFUSED, f"iscsiadm {line}: no")
        if line == "-m iface":
            return "default tcp,<empty>\n" + "".join(f"{name} tcp,<empty>\n" for name in self.ifaces)
        iface = arguments[arguments.index("-I") + 1]
        if not line.endswith("-o new") and iface not in self.ifaces:  # exit status 3 or 7, as of 2.1.8
            raise OperatorError(Failure.REFUSED, f"iscsiadm {line}: Could not read iface info for {iface}.")
        if line.startswith("-m iface"):
            (self.ifaces.add if "new" in line else self.ifaces.discard)(iface)
        elif line.endswith("-o new"):
            self.record.parent.mkdir(parents=True, exist_ok=True)
            self.record.write_text("# BEGIN RECORD 2.1.8\nnode.startup = automatic\n# END RECORD\n")
        elif line.endswith("-o delete"):
            self.record.unlink(missing_ok=True)
        elif line.endswith("--login"):
            self.log_in(iface)
        elif line.endswith("--logout"):
            for file in ("ifacename", "targetname"):
                (self.session / file).unlink()
        return ""

    def log_in(self, iface: str) -> None:
        unit = self.session / "device" / "target3:0:0" / "3:0:0:2"
        (unit / "scsi_tape" / "nst4").mkdir(parents=True, exist_ok=True)
        (unit / "scsi_tape" / "st4").mkdir(exist_ok=True)
        (unit / "vpd_pg80").write_bytes(bytes([1, 0x80, 0, 10]) + b"SERIAL0002")
        (self.session / "ifacename").write_text(iface + "\n")
        (self.session / "targetname").write_text(GATE + "\n")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenIscsi]:
    fake = OpenIscsi(tmp_path)
    (tmp_path / "initiatorname.iscsi").write_text(f"# comment\nInitiatorName={HOST}\n")
    (tmp_path / "dev" / "tape").mkdir(parents=True)
    (tmp_path / "dev" / "nst4").touch()
    monkeypatch.setattr(open_iscsi, "iscsiadm", fake)
    monkeypatch.setattr(open_iscsi, "RECORDS", (tmp_path / "nodes",))
    monkeypatch.setattr(open_iscsi, "SESSIONS", tmp_path / "sessions")
    monkeypatch.setattr(open_iscsi, "INITIATOR_NAME", tmp_path / "initiatorname.iscsi")
    monkeypatch.setattr(devices, "DEVICES", tmp_path / "dev")
    monkeypatch.setattr(devices, "BY_ID", (tmp_path / "dev" / "tape",))
    monkeypatch.setattr(mount, "LOOK_SECONDS", 0.0)
    yield fake


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(Api(), Mounts(tmp_path / "run"))


def api_of(agent: Agent) -> Api:
    found = agent._api
    assert isinstance(found, Api)
    return found


def nothing_is_left(host: OpenIscsi, agent: Agent) -> bool:
    return not host.record.exists() and not host.ifaces and open_iscsi_session() is None and not agent.all()


def open_iscsi_session() -> Path | None:
    return open_iscsi.Way(GATE, "library.example:3260", 7, f"tapebay-{REQUEST}").session()


def test_from_a_request_to_a_device_and_back(host: OpenIscsi, agent: Agent, tmp_path: Path) -> None:
    told: list[str] = []
    mounted = agent.mount(told=told.append, volume=["A00001L6"])
    assert mounted.devices == {"drive1": str(tmp_path / "dev" / "nst4")}
    assert told == ["waiting: no drive is free"]
    settings = dict(line.split(" = ") for line in host.record.read_text().splitlines() if " = " in line)
    assert settings["node.session.auth.username"] == "ak1.key"
    assert settings["node.session.auth.password_in"] == "m" * 16
    assert settings["node.startup"] == "manual"
    assert host.record.read_text().endswith("# END RECORD\n")
    assert stat.S_IMODE(host.record.stat().st_mode) == 0o600
    assert not any(SECRET in line for line in host.said)  # others may read the arguments of a process
    assert "-p library.example:3260,7 " in host.said[2]  # a portal that listens everywhere is where the API is
    assert agent.find(mounted.devices["drive1"]) == agent.find(REQUEST) == mounted
    agent.release(mounted)
    assert api_of(agent).state == "ending"
    assert nothing_is_left(host, agent)
    agent.release(mounted)  # what is done is passed over


def test_what_an_earlier_life_of_the_server_left_is_removed(host: OpenIscsi, agent: Agent) -> None:
    host.ifaces |= {"tapebay-aaaaaaaaaaaaaaaa", "default", "backup"}
    mounted = agent.mount()
    assert host.ifaces == {f"tapebay-{REQUEST}", "default", "backup"}
    agent.mount()  # and what is mounted stays
    assert f"-m iface -I tapebay-{REQUEST} -o delete" not in host.said
    agent.release(mounted)


def test_udev_s_stable_name_is_told_where_there_is_one(host: OpenIscsi, agent: Agent, tmp_path: Path) -> None:
    link = tmp_path / "dev" / "tape" / "scsi-SERIAL0002-nst"
    link.symlink_to(tmp_path / "dev" / "nst4")
    assert agent.mount().devices == {"drive1": str(link)}


class Killed(BaseException):
    """As SIGKILL: nothing is done after it."""


class Countdown:
    """Kills before the step of that number: a question to the API, or a command to open-iscsi."""

    def __init__(self, number: int) -> None:
        self.left = number

    def wrap(self, function: Any) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            if self.left == 0:
                raise Killed
            self.left -= 1
            return function(*arguments, **options)

        return counted


def test_killed_before_each_step_nothing_stays_for_ever(
    host: OpenIscsi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another `tapebay release` clears up all that is known here; a request that is not known here has no renewals."""
    for number in range(100):
        api = Api()
        agent, killer = Agent(api, Mounts(tmp_path / "run")), Countdown(number)
        with monkeypatch.context() as patch:
            patch.setattr(api, "call", killer.wrap(api.call))
            patch.setattr(open_iscsi, "iscsiadm", killer.wrap(open_iscsi.iscsiadm))
            patch.setattr(Agent, "_abandon", lambda _agent, _request: None)
            try:
                agent.release(agent.mount())
            except Killed:
                pass
            else:
                break
        left = agent.all()
        assert len(left) == (1 if len(api.asked) else 0)
        for mounted in left:
            agent.release(mounted)
            assert api.state == "ending"
        assert nothing_is_left(host, agent), number
    else:
        raise AssertionError("the steps do not end")
    assert number > 8


def test_without_events_it_is_looked_now_and_then(host: OpenIscsi, agent: Agent) -> None:
    api_of(agent).deaf = True
    assert agent.mount().devices


@pytest.mark.parametrize("step", ["iface -I tapebay-0123456789abcdef -o new", "node", "-o new", "--login"])
def test_what_fails_leaves_nothing(host: OpenIscsi, agent: Agent, step: str) -> None:
    host.fails = step
    with pytest.raises(OperatorError, match="iscsiadm"):
        agent.mount()
    assert api_of(agent).state == "ending"
    assert nothing_is_left(host, agent) or step == "node"
    host.fails = ""
    for left in agent.all():  # what could not be undone either is undone by `release`
        agent.release(left)
    assert api_of(agent).state == "ending"
    assert nothing_is_left(host, agent)


def test_whoever_does_not_want_to_wait_any_longer_gives_the_request_up(host: OpenIscsi, agent: Agent) -> None:
    api = api_of(agent)
    api.call = lambda verb, /, **given: (  # type: ignore[method-assign]
        api.asked.append(verb)
        or {"request": REQUEST, "state": "queued", "why": "no drive is free", "by_gate": False, "grant": None}
    )
    with pytest.raises(OperatorError, match=r"not granted in 0.01 s: no drive is free"):
        agent.mount(wait_seconds=0.01)
    assert api.asked[-1] == "request.cancel"
    assert nothing_is_left(host, agent)


def test_the_kernel_s_other_devices_are_not_taken_for_ours(host: OpenIscsi, agent: Agent) -> None:
    host.log_in(f"tapebay-{REQUEST}")
    assert devices.devices_of(host.session, [{**UNIT, "serial_number": "SERIAL0009"}]) is None
    assert devices.devices_of(host.session, [{**UNIT, "device": "other"}]) is not None
    (host.session / "device" / "target3:0:0" / "3:0:0:2" / "vpd_pg80").unlink()
    assert devices.devices_of(host.session, [{**UNIT, "lun": 3}]) is None


def test_renewing_outlives_an_api_that_is_away_and_ends_with_the_grant(host: OpenIscsi, agent: Agent) -> None:
    api, mounted = api_of(agent), agent.mount(lease_seconds=60)
    pauses: list[float] = []

    def pause(seconds: float) -> bool:
        pauses.append(seconds)
        api.away = Failure.NOT_RUNNING if len(pauses) in (1, 2) else None
        if len(pauses) == 4:
            api.state = "ending"
        return False

    with pytest.raises(OperatorError, match="no grant"):
        agent.keep_renewed(mounted, pause)
    assert pauses == [20.0] * 4


def test_a_release_while_the_api_is_away_lets_go_here_and_says_what_follows(host: OpenIscsi, agent: Agent) -> None:
    mounted = agent.mount()
    api_of(agent).away = Failure.NOT_RUNNING
    with pytest.raises(OperatorError, match="the lease ends by itself"):
        agent.release(mounted)
    assert not host.record.exists()
    assert agent.all() == [mounted]  # and can be done again
    api_of(agent).away = None
    agent.release(mounted)
    assert nothing_is_left(host, agent)


def test_mounted_releases_in_the_end(host: OpenIscsi, agent: Agent) -> None:
    with pytest.raises(ZeroDivisionError), agent.mounted(scratch=1) as mounted:
        assert mounted.devices
        raise ZeroDivisionError
    assert api_of(agent).state == "ending"
    assert nothing_is_left(host, agent)


def test_without_open_iscsi_it_is_said_what_to_install(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": str(tmp_path), FOLDER_VARIABLE: str(tmp_path / "run")}
    script = (
        "from appliance.agent import open_iscsi\n"
        "try: open_iscsi.iscsiadm('-m', 'iface')\n"
        "except open_iscsi.OperatorError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.stdout.startswith("iscsiadm is not installed; install open-iscsi"), done.stderr


def test_the_command_line_says_what_is_wrong_as_json_too(tmp_path: Path) -> None:
    environment = {**os.environ, FOLDER_VARIABLE: str(tmp_path / "run")}
    command = [sys.executable, "-P", "-m", "appliance"]
    done = subprocess.run([*command, "release", "/dev/nst9", "--json"], capture_output=True, text=True, env=environment)
    assert done.returncode == Failure.NOT_FOUND.exit_status
    assert "not mounted on this server" in json.loads(done.stderr)["error"]["message"]
    done = subprocess.run([*command, "renew", "--json"], capture_output=True, text=True, env=environment)
    assert (done.returncode, json.loads(done.stdout)) == (0, [])

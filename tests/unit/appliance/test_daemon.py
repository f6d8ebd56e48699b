"""The daemon in a process of its own: start, control, signals, kill -9."""

import gc
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from appliance.daemon import settled_app
from appliance.failures import Failure, OperatorError
from appliance.operations import setup
from appliance.web.service import Service
from tests.unit.appliance.daemon_process import Daemon
from tests.unit.appliance.offline import offline


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = setup.create(tmp_path / "lib", setup.plan(tmp_path / "lib", portal="127.0.0.1:0", disks=[("d", "1 MiB")]))
    offline(path, "cartridge.create", barcode="A00001L6", count=3)
    return path.parent


@pytest.fixture
def daemon(directory: Path) -> Iterator[Daemon]:
    daemon = Daemon(directory)
    try:
        daemon.wait_ready()
        yield daemon
    finally:
        assert daemon.stop() == 0, daemon.log


def test_ready_is_the_last_line_and_says_where(daemon: Daemon) -> None:
    line = daemon.log[-1]
    assert (line["event"], line["level"], line["pid"]) == ("ready", "info", daemon.process.pid)
    (portal,) = line["portals"]
    host, port = portal.split(":")
    socket.create_connection((host, int(port)), timeout=60).close()
    assert line["targets"] == ["iqn.2026-11.io.tapebay:lib"]


def test_status(daemon: Daemon) -> None:
    status = daemon.call("status")
    assert status["library"] == "lib"
    assert status["pid"] == daemon.process.pid
    assert status["targets"] == [
        {"iqn": "iqn.2026-11.io.tapebay:lib", "luns": {"0": "changer", "1": "drive0", "2": "drive1", "3": "d"}}
    ]
    devices = {device["name"]: device for device in status["devices"]}
    assert devices["drive0"]["model"] == "IBM ULT3580-TD6"
    assert len({device["serial"] for device in status["devices"]}) == 4
    assert status["elements"][0]["address"] == 1
    assert status["sessions"] == []
    assert daemon.call("health") == {"portals": daemon.log[-1]["portals"], "sessions": 0, "broker": None}


def test_cartridges_move(daemon: Daemon) -> None:
    assert daemon.call("load", cartridge="A00001L6", drive="drive1") == {
        "barcode": "A00001L6",
        "from": "slot:1",
        "to": "drive:1",
    }
    assert {d["name"]: d["holds"] for d in daemon.call("status")["devices"]}["drive1"] == "A00001L6"
    assert daemon.call("cartridge.show", barcode="A00001L6")["place"] == "drive:1"
    assert daemon.call("unload", drive="drive:1")["to"] == "slot:1"
    assert daemon.call("move", cartridge="slot:1", to="ie:1")["barcode"] == "A00001L6"
    assert daemon.call("move", cartridge="A00001L6", to="shelf")["to"] == "shelf"
    assert daemon.call("move", cartridge="A00001L6", to="slot:9")["from"] == "shelf"
    assert daemon.call("cartridge.create", barcode="B00001L6")[0]["place"] == "slot:1"
    daemon.call("cartridge.delete", barcode="B00001L6")
    assert [row["barcode"] for row in daemon.call("cartridge.list")] == ["A00002L6", "A00003L6", "A00001L6"]


def test_unload_finds_another_slot_when_the_old_one_is_taken(daemon: Daemon) -> None:
    daemon.call("load", cartridge="A00001L6", drive="drive:0")
    daemon.call("move", cartridge="A00002L6", to="slot:1")
    assert daemon.call("unload", drive="drive0")["to"] == "slot:2"


def test_a_loaded_cartridge_stays_loaded(daemon: Daemon) -> None:
    daemon.call("load", cartridge="A00001L6", drive="drive:0")
    for cartridge in ("A00001L6", "drive:0"):
        moved = daemon.call("load", cartridge=cartridge, drive="drive:0")
        assert moved == {"barcode": "A00001L6", "from": "drive:0", "to": "drive:0"}
    assert daemon.call("move", cartridge="A00001L6", to="drive:0", force=True)["to"] == "drive:0"
    assert daemon.stop() == 0  # its log is whole now
    assert sum(line["event"] == "cartridge loaded" for line in daemon.log) == 1


def test_new_cartridges_leave_the_slots_of_loaded_ones_free(daemon: Daemon) -> None:
    daemon.call("load", cartridge="A00001L6", drive="drive:0")
    daemon.call("load", cartridge="A00002L6", drive="drive:1")
    assert [row["place"] for row in daemon.call("cartridge.create", barcode="B00001L6", count=17)] == [
        f"slot:{number}" for number in range(4, 21)
    ]
    assert daemon.call("cartridge.create", barcode="C00001L6")[0]["place"] == "slot:1"  # all else is full
    assert daemon.call("unload", drive="drive:1")["to"] == "slot:2"
    with pytest.raises(OperatorError, match="no slot is free"):
        daemon.call("unload", drive="drive:0")


REFUSED: list[tuple[str, dict[str, str], Failure, str]] = [
    ("load", {"cartridge": "NONE01L6", "drive": "drive:0"}, Failure.NOT_FOUND, "no cartridge NONE01L6"),
    ("load", {"cartridge": "A00002L6", "drive": "slot:1"}, Failure.USAGE, "slot:1 is not a drive"),
    ("load", {"cartridge": "A00002L6", "drive": "drive:0"}, Failure.REFUSED, "drive:0 holds cartridge A00001L6"),
    ("load", {"cartridge": "slot:9", "drive": "drive:1"}, Failure.REFUSED, "is empty"),
    ("unload", {"drive": "drive:1"}, Failure.REFUSED, "drive:1 is empty"),
    ("unload", {"drive": "drive:7"}, Failure.NOT_FOUND, "no place 'drive:7'"),
    ("move", {"cartridge": "A00001L6", "to": "shelf"}, Failure.REFUSED, "drive"),
    ("cartridge.delete", {"barcode": "A00001L6"}, Failure.REFUSED, "unload it first"),
    ("nonsense", {}, Failure.USAGE, "no verb"),
]


def test_what_is_refused_changes_nothing(daemon: Daemon) -> None:
    daemon.call("load", cartridge="A00001L6", drive="drive:0")
    before = daemon.call("status")["elements"]
    for method, params, failure, said in REFUSED:
        with pytest.raises(OperatorError, match=said) as caught:
            daemon.call(method, **params)
        assert caught.value.failure is failure, said
        assert daemon.call("status")["elements"] == before


def test_another_process_cannot_open_the_library(daemon: Daemon) -> None:
    second = Daemon(daemon.directory)
    assert second.end() == Failure.IN_USE.exit_status
    assert f"in use by process {daemon.process.pid}" in second.log[0]["event"]
    assert daemon.call("health")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(directory: Path, number: int) -> None:
    daemon = Daemon(directory)
    daemon.wait_ready()
    assert daemon.stop(number) == 0
    assert [line["event"] for line in daemon.log[-2:]] == ["stopping", "stopped"]
    assert not (directory / "tapebay.sock").exists()


def test_shutdown_is_answered_and_done(directory: Path) -> None:
    daemon = Daemon(directory)
    daemon.wait_ready()
    assert daemon.call("shutdown") is None
    assert daemon.end() == 0


def test_after_kill_9_everything_is_where_it_was(directory: Path) -> None:
    daemon = Daemon(directory)
    daemon.wait_ready()
    daemon.call("load", cartridge="A00002L6", drive="drive:0")
    elements = daemon.call("status")["elements"]
    serials = [device["serial"] for device in daemon.call("status")["devices"]]
    daemon.stop(signal.SIGKILL)
    again = Daemon(directory)
    again.wait_ready()
    status = again.call("status")
    assert again.stop() == 0
    assert status["elements"] == elements
    assert [device["serial"] for device in status["devices"]] == serials


def test_systemd_is_told(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(directory / "notify"))
        systemd.settimeout(60)
        daemon = Daemon(directory, NOTIFY_SOCKET=str(directory / "notify"))
        assert systemd.recv(100) == b"READY=1"
        daemon.wait_ready()
        assert daemon.stop() == 0
        assert systemd.recv(100) == b"STOPPING=1"


def test_the_environment_advertises(directory: Path) -> None:
    daemon = Daemon(directory, TAPEBAY_ADVERTISE="192.0.2.10:13260")
    daemon.wait_ready()
    (portal,) = daemon.call("status")["portals"]
    assert daemon.stop() == 0
    assert portal["advertised"] == "192.0.2.10:13260"


def test_a_taken_port_is_one_clear_line(directory: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        path = directory / "tapebay.toml"
        portal = "{}:{}".format(*taken.getsockname())
        path.write_text(path.read_text().replace("127.0.0.1:0", portal))
        daemon = Daemon(directory)
        assert daemon.end() == Failure.REFUSED.exit_status
    (line,) = daemon.log
    assert line["event"] == f"tapebay: cannot listen on {portal}: Address already in use\n"


def test_damaged_device_state_is_one_clear_line(directory: Path) -> None:
    (directory / "state" / "devices.json").write_text("{")
    daemon = Daemon(directory)
    assert daemon.end() == Failure.REFUSED.exit_status
    (line,) = daemon.log
    assert line["event"].startswith(f"tapebay: {directory / 'state' / 'devices.json'}: not readable as JSON")


def test_what_is_made_at_the_start_is_not_walked_through_by_later_garbage_collections() -> None:
    def no_context(_progress: object) -> NoReturn:
        raise AssertionError("no verb is asked for")

    before = len(gc.get_objects())
    try:
        settled_app(Service(no_context, threading.Event(), None), threading.Event())
        assert len(gc.get_objects()) < before / 10
    finally:
        gc.unfreeze()

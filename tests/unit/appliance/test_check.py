"""`tapebay check`: what it calls valid can be served; what it warns of cannot be meant."""

import json
import socket
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from typer.testing import CliRunner

from appliance.cli.app import app
from appliance.library.check import problems_of
from appliance.operations import setup
from appliance.settings import config_file
from appliance.settings.advice import advice_on
from tests.support import certificates
from tests.support.ports import free_port
from tests.unit.appliance.daemon_process import Daemon

IQN = "iqn.2026-11.io.tapebay:lib"
PORTAL = '[[portals]]\nlisten = "127.0.0.1:0"\n'
TARGET = f'[[targets]]\niqn = "{IQN}"\n'
MINIMAL = PORTAL + TARGET


def check(directory: Path, text: str, *options: str) -> Any:
    (directory / "tapebay.toml").write_text(text)
    return CliRunner().invoke(app, ["check", "--config", str(directory), *options], prog_name="tapebay")


def advice(tmp_path: Path, text: str) -> list[str]:
    return advice_on(config_file.parse(tmp_path / "tapebay.toml", text))


def account(user: str, **patterns: str) -> str:
    lines = [f'{name} = "{value}"' for name, value in patterns.items()]
    return "\n".join([f'[[chap.accounts]]\nuser = "{user}"\nsecret = "twelve chars"', *lines]) + "\n"


def test_capitals_in_names_are_folded_and_served(tmp_path: Path) -> None:
    text = PORTAL + '[[targets]]\niqn = "IQN.2026-11.IO.Tapebay:Lib"\ninitiators = ["iqn.1998-01.com.VMware:*"]\n'
    assert check(tmp_path, text).exit_code == 0
    daemon = Daemon(tmp_path, "--init")
    try:
        assert daemon.wait_ready()["targets"] == [IQN]
    finally:
        assert daemon.stop() == 0


def test_two_names_that_differ_in_capitals_are_one(tmp_path: Path) -> None:
    done = check(tmp_path, MINIMAL + f'[[targets]]\niqn = "{IQN.upper()}"\n')
    assert (done.exit_code, "is given 2 times" in done.stderr) == (3, True)


@pytest.mark.parametrize("changer", ["import_export = 1000", "slots = 10000\nmodel = 'HP MSL G3 Series'"])
def test_elements_that_have_no_room(tmp_path: Path, changer: str) -> None:
    done = check(tmp_path, MINIMAL + f"[changer]\n{changer}\n")
    if done.exit_code == 0:  # then it can be served
        daemon = Daemon(tmp_path, "--init")
        daemon.wait_ready()
        assert daemon.stop() == 0
    else:
        assert done.exit_code == 3
        assert "changer: a " in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_port_that_is_taken_and_an_address_that_is_not_ours(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = f'[[portals]]\nlisten = "127.0.0.1:{port}"\n[[portals]]\nlisten = "192.0.2.1:3260"\n{TARGET}'
        done = check(tmp_path, text)
    assert done.exit_code == 3
    assert f"portal 127.0.0.1:{port}: another program listens there" in done.stderr
    assert "portal 192.0.2.1:3260: no network interface of this machine has that address" in done.stderr


def test_two_portals_on_all_addresses_of_one_port(tmp_path: Path) -> None:
    port = free_port()
    text = f'[[portals]]\nlisten = "127.0.0.1:{port}"\n[[portals]]\nlisten = "0.0.0.0:{port}"\n{TARGET}'
    said = f"portal 0.0.0.0:{port}: portal 127.0.0.1:{port} of this file listens there already"
    assert said in check(tmp_path, text).stderr


def test_images(tmp_path: Path) -> None:
    (tmp_path / "large.img").write_bytes(bytes(2 << 20))
    (tmp_path / "folder.img").mkdir()
    sections = {
        "large": 'image = "large.img"\nsize = "1 MiB"',
        "folder": 'image = "folder.img"',
        "missing": 'image = "missing.img"',
        "new": 'size = "1 MiB"',
    }
    done = check(tmp_path, MINIMAL + "".join(f'[[disks]]\nname = "{n}"\n{s}\n' for n, s in sections.items()))
    assert done.exit_code == 3
    lines = done.stderr.splitlines()
    assert [line.partition("disk ")[2].partition(":")[0] for line in lines] == ["large", "folder", "missing"], lines
    assert not (tmp_path / "disks").exists()


@pytest.mark.parametrize(
    ("disks", "said"),
    [
        ('[[disks]]\nname = "a"\nsize = "7 EiB"\n', "holds no file of that size"),
        ('[[disks]]\nname = "a"\nsize = "1 MiB"\nimage = "/proc/a.img"\n', "disk a: /proc/a.img"),
        ('[[disks]]\nname = "a"\nimage = "x"\n[[disks]]\nname = "b"\nimage = "./x"\n', "is the image of disk a"),
    ],
)
def test_images_that_cannot_be_made(tmp_path: Path, disks: str, said: str) -> None:
    done = check(tmp_path, MINIMAL + disks)
    assert (done.exit_code, said in done.stderr) == (3, True), done.output


@pytest.mark.parametrize(
    ("name", "said"), [("s" * 120, "too long"), ("tapebay.toml", "is no socket"), (".", "is no socket")]
)
def test_control_sockets_that_cannot_be_made(tmp_path: Path, name: str, said: str) -> None:
    text = f'[library]\ncontrol_socket = "{name}"\n{MINIMAL}'
    done = check(tmp_path, text)
    assert (done.exit_code, said in done.stderr) == (3, True), done.output
    daemon = Daemon(tmp_path, "--init")
    assert daemon.end() != 0
    assert (tmp_path / "tapebay.toml").read_text() == text


def test_the_control_sockets_directory_is_made(tmp_path: Path) -> None:
    assert check(tmp_path, f'[library]\ncontrol_socket = "run/x/s"\n{MINIMAL}').exit_code == 0
    daemon = Daemon(tmp_path, "--init")
    daemon.wait_ready()
    assert daemon.stop() == 0


def test_directories(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = check(tmp_path, MINIMAL + '[library]\ncartridges = "file/cartridges"\n')
    assert (done.exit_code, f"{tmp_path / 'file'} is not a directory" in done.stderr) == (3, True)


def test_a_full_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.statvfs", lambda _path: Mock(f_bavail=0, f_frsize=4096))
    done = check(tmp_path, MINIMAL)
    assert (done.exit_code, "state: no space is left on its file system" in done.stderr) == (3, True), done.output


def test_a_served_library_is_checked_too_and_nothing_changes(tmp_path: Path) -> None:
    assert check(tmp_path, MINIMAL + '[[drives]]\nname = "d"\n').exit_code == 0
    daemon = Daemon(tmp_path, "--init")
    try:
        portal = daemon.wait_ready()["portals"][0]
        before = sorted((str(path), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file())
        text = f'[[portals]]\nlisten = "{portal}"\n{TARGET}[[drives]]\nname = "d"\n'
        assert check(tmp_path, text).exit_code == 0  # the daemon's own port
        assert daemon.call("health")
        after = sorted((str(path), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file())
        changed = {Path(path).name for path, _ in set(before) ^ set(after)}
        assert changed <= {"tapebay.toml"}
    finally:
        assert daemon.stop() == 0


def test_warnings_are_printed_and_logged(tmp_path: Path) -> None:
    text = f'[[portals]]\nlisten = "0.0.0.0:0"\n{TARGET}'
    done = check(tmp_path, text)
    assert done.exit_code == 0
    assert "warning: portal 0.0.0.0:0 is open to the network without login" in done.stdout
    (warning,) = json.loads(check(tmp_path, text, "--json").stdout)["warnings"]
    daemon = Daemon(tmp_path, "--init")
    daemon.wait_ready()
    assert daemon.stop() == 0
    assert [line["event"] for line in daemon.log if line.get("level") == "warning"] == [warning]


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "127.9.9.9:0", "[::1]:0"])
def test_this_machine_alone_needs_no_login(tmp_path: Path, listen: str) -> None:
    assert advice(tmp_path, f'[[portals]]\nlisten = "{listen}"\n{TARGET}') == []


@pytest.mark.parametrize(
    ("patterns", "hidden"),
    [
        ([{}, {}], 2),
        ([{"initiator": "iqn.a:*"}, {"initiator": "IQN.A:*"}], 2),
        ([{}, {"initiator": "iqn.a:b"}], 2),
        ([{"initiator": "iqn.a:?"}, {"initiator": "iqn.a:b"}], 2),
        ([{"initiator": "iqn.a:b"}, {}], None),
        ([{"initiator": "iqn.a:?"}, {"initiator": "iqn.a:*"}], None),
        ([{"target": "*:other"}, {}], None),
        ([{"initiator": "iqn.a:*"}, {"initiator": "iqn.b:*"}], None),
    ],
)
def test_an_account_that_never_counts(tmp_path: Path, patterns: list[dict[str, str]], hidden: int | None) -> None:
    accounts = "".join(account("user", **pattern) for pattern in patterns)
    never = [line for line in advice(tmp_path, MINIMAL + accounts) if "never counts" in line]
    assert len(never) == (hidden is not None)
    assert hidden is None or f"chap.accounts[{hidden}]" in never[0]


def test_what_partitions_leave_out(tmp_path: Path) -> None:
    cut = '[[drives]]\nname = "drive0"\n[[partitions]]\nname = "a"\nslots = "1-3"\n'
    assert advice(tmp_path, MINIMAL + cut) == [
        "partition a has no drives: its cartridges can only be moved about",
        "drive0 is in no partition: only operators use it",
    ]
    gate = '[gate]\ntarget = "iqn.2026-11.io.tapebay:gate"\n'
    assert advice(tmp_path, MINIMAL + cut + gate) == [
        "partition a has no drives: its cartridges can only be moved about"
    ]


def test_two_users_may_have_the_same_pattern(tmp_path: Path) -> None:
    assert advice(tmp_path, MINIMAL + account("one") + account("two")) == []


@pytest.mark.parametrize(
    ("initiators", "accounts", "locked_out"),
    [
        ('["iqn.a:b", "iqn.c:d"]', [{"initiator": "iqn.a:*"}], "'iqn.c:d'"),
        ('["iqn.c:*"]', [{"initiator": "iqn.a:*"}], "'iqn.c:*'"),
        ('["iqn.a:b"]', [{"target": "*:elsewhere"}], "'iqn.a:b'"),
        ('["*"]', [{"initiator": "iqn.a:b"}], None),
        ('["iqn.*:b"]', [{"initiator": "iqn.a:*"}], None),
        ('["iqn.a:b"]', [{}], None),
    ],
)
def test_initiators_that_accounts_lock_out(
    tmp_path: Path, initiators: str, accounts: list[dict[str, str]], locked_out: str | None
) -> None:
    text = MINIMAL + f"initiators = {initiators}\n" + "".join(account("u", **one) for one in accounts)
    lines = [line for line in advice(tmp_path, text) if "can log in" in line]
    assert len(lines) == (locked_out is not None)
    assert locked_out is None or locked_out in lines[0]


def test_what_no_initiator_sees(tmp_path: Path) -> None:
    text = PORTAL + TARGET + 'luns = { 0 = "changer" }\ninitiators = []\n[[drives]]\nname = "forgotten"\n'
    assert len(advice(tmp_path, text)) == 2
    assert "forgotten is in no target's luns" in advice(tmp_path, text)[1]


def test_the_api_s_certificate_and_port(tmp_path: Path) -> None:
    config = setup.create(tmp_path / "lib", setup.plan(tmp_path / "lib", portal="127.0.0.1:0"))
    pair, other = certificates.make(config.parent), certificates.make(config.parent, "other")
    text = config.read_text()

    def problems(listen: str, certificate: str, key: str) -> str:
        config.write_text(f'{text}\n[api]\nlisten = "{listen}"\ncertificate = "{certificate}"\nkey = "{key}"\n')
        return "\n".join(problems_of(config_file.load(config)))

    assert problems("127.0.0.1:0", "api.crt", "api.key") == ""
    assert "none.crt cannot be read: No such file" in problems("127.0.0.1:0", "none.crt", "api.key")
    assert "none.key cannot be read" in problems("127.0.0.1:0", "api.crt", "none.key")
    assert f"{other.key} is not the private key of {pair.certificate}" in problems(
        "127.0.0.1:0", "api.crt", "other.key"
    )
    assert "holds no certificate" in problems("127.0.0.1:0", "tapebay.toml", "api.key")
    pair.key.chmod(0o644)
    assert "chmod 600" in problems("127.0.0.1:0", "api.crt", "api.key")
    pair.key.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = problems(f"127.0.0.1:{taken.getsockname()[1]}", "api.crt", "api.key")
    assert "another program listens there" in said

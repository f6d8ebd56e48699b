"""The command line as a client of another host's daemon (TAPEBAY_API): each group of commands, over TLS, with a token
in a file and an authority of one's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.control.client import Client
from appliance.operations import VERBS
from tests.support import certificates
from tests.support.appliance import Appliance, Disk
from tests.support.ports import free_port
from tests.support.waiting import eventually
from tests.unit.appliance.test_cli import as_json, output, tapebay

HOST = "iqn.1993-08.org.debian:host"
TARGET = "iqn.2026-11.io.tapebay:other"

# In an order in which each can be done. What ends the daemon comes last.
COMMANDS = """
status
health
plan
apply
show-config
cartridge create A00001L6
cartridge list
cartridge show A00001L6
cartridge verify A00001L6
cartridge protect A00001L6
load TST001L6 drive0
move TST001L6 slot:7
load TST001L6 drive0
unload drive0
drive list
drive show drive0
changer resize --slots 21
partition create part --slots 11-12
partition show part
partition list
partition delete part --whole --yes
pool create databases --barcodes DB*
pool change databases --add-cartridges TST002L6
pool list
pool show databases
pool delete databases --yes
disk create more 1MiB
disk grow more 2MiB
disk list
disk show data
disk remove more --yes
snapshot create data
snapshot list
copies list
copy disk:data cartridge:TST003L6
backup list
catalogue list
catalogue find *
verify 1
restore 1 --to-disk restored
target create {TARGET}
target list
target show {TARGET}
target remove {TARGET} --yes
account create backup --secret-file {folder}/secret
account list
account show backup
zone create z --accounts backup --devices drive0
zone show z
zone list
zone delete z --open --yes
account delete backup --yes
who {HOST}
session list
reservation list
remote list
request create --initiator {HOST}
requests
broker show
broker stop
broker start
key list
key rotate
token create other --days 1
token show other
token list
token revoke other
audit list
audit verify
"""
# What cannot be done in this library is refused by the daemon there, in its words.
REFUSED = {"verify": 6, "restore": 6}


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Appliance]:
    port = free_port()
    pair = certificates.make(tmp_path)
    files = f'certificate = "{pair.certificate.name}"\nkey = "{pair.key.name}"\n'
    more = f'[api]\nlisten = "127.0.0.1:{port}"\n{files}[gate]\ntarget = "iqn.2026-11.io.tapebay:gate"\n'
    with Appliance(tmp_path, disks=[Disk("data", "1 MiB")], more=more) as appliance:
        token = appliance.call("token.create", name="operators", scope="administer")["token"]
        for name, text in (("token", token), ("secret", "twelve characters")):
            (tmp_path / name).touch(mode=0o600)
            (tmp_path / name).write_text(f"{text}\n")
        monkeypatch.setenv("TAPEBAY_API", f"https://localhost:{port}")
        monkeypatch.setenv("TAPEBAY_TOKEN_FILE", str(tmp_path / "token"))
        monkeypatch.setenv("TAPEBAY_CERTIFICATE_AUTHORITY", str(pair.authority))
        yield appliance


def test_every_group_of_commands(served: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, call = set[str](), Client.call

    def watched(client: Client, verb: str, /, **options: Any) -> Any:
        assert client.tls is not None and client.socket_path is None
        asked.add(verb)
        return call(client, verb, **options)

    monkeypatch.setattr(Client, "call", watched)
    otherwise = []
    for line in COMMANDS.strip().splitlines():
        done = tapebay(*line.format(TARGET=TARGET, HOST=HOST, folder=served.folder).split())
        if done.exit_code != REFUSED.get(line.split()[0], 0):
            otherwise.append((line, done.exit_code, done.output))
    assert not otherwise
    request = as_json("request", "create", "--initiator", HOST)["request"]
    eventually(lambda: as_json("request", "show", request)["state"] == "granted")
    assert f"{request}: renewed" in output("request", "renew", request)
    assert request in output("request", "release", request)
    local = {"shutdown", "filelist"}  # of `tapebay stop`, on the library's own host; of the agent
    assert {verb.partition(".")[0] for verb in asked} == {verb.noun for verb in VERBS.values()} - local
    assert {"token operators"} == {row["actor"] for row in as_json("audit", "list") if row["action"] == "pool added"}


def test_what_is_wrong_with_the_way_there_is_said(
    served: Appliance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "TST001L6" in output("cartridge", "list")
    with monkeypatch.context() as changed:
        changed.delenv("TAPEBAY_CERTIFICATE_AUTHORITY")
        done = tapebay("status")
        assert done.exit_code == 4 and "certificate" in done.stderr
    with monkeypatch.context() as changed:
        changed.setenv("TAPEBAY_TOKEN_FILE", str(tmp_path / "nothing"))
        done = tapebay("status")
        assert done.exit_code == 2 and "nothing" in done.stderr
    served.call("token.revoke", name="operators")
    done = tapebay("status")
    assert done.exit_code == 7 and "revoked or expired" in done.stderr  # of either process, whichever knew first

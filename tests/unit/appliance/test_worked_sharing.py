"""The worked configurations of docs/sharing: what each server sees, and that docs/sharing.md names each file."""

from pathlib import Path

import pytest

from appliance.access.directory import Directory
from appliance.settings import config_file
from appliance.settings.advice import advice_on
from appliance.settings.settings import Settings
from scsi_targets.iscsi.directory import Forbidden, Portal, Who

DOCS = Path(__file__).resolve().parents[3] / "docs"
DEBIAN = "iqn.1993-08.org.debian:"
CASES = [
    ("three-servers", "server-a", ["drive0", "disk-a"]),
    ("three-servers", "server-b", ["drive1", "disk-b"]),
    ("three-servers", "server-c", ["drive2", "disk-c"]),
    ("three-servers", "robot", ["changer"]),
    ("in-turns", f"{DEBIAN}first", ["changer", "drive0", "disk-one"]),
    ("in-turns", f"{DEBIAN}second", ["changer", "drive0", "disk-two"]),
    ("data-mover", "server-a", ["disk-a"]),
    ("data-mover", "server-b", ["disk-b"]),
    ("data-mover", "mover", ["changer", "drive0", "disk-a", "disk-b"]),
]


def load(name: str) -> Settings:
    return config_file.load(DOCS / "sharing" / f"{name}.toml")


def directory(name: str) -> Directory:
    return Directory(load(name), {})


def who(name: str, principal: str, address: str = "192.0.2.7") -> Who:
    target = load(name).targets[0].iqn
    by_name = principal.startswith("iqn.")
    initiator = principal if by_name else f"{DEBIAN}host"
    return Who(initiator, bytes(6), target, Portal("127.0.0.1", 3260), address, None if by_name else principal)


@pytest.mark.parametrize(("name", "principal", "devices"), CASES)
def test_what_each_server_sees(name: str, principal: str, devices: list[str]) -> None:
    found = directory(name)
    _, seen = found.decide(who(name, principal))
    assert list(seen.luns.values()) == devices


@pytest.mark.parametrize("name", sorted({case[0] for case in CASES}))
def test_nobody_else_sees_anything(name: str) -> None:
    found = directory(name)
    for stranger in (f"{DEBIAN}stranger", "stranger"):
        with pytest.raises(Forbidden):
            found.decide(who(name, stranger))
    assert advice_on(load(name)) == []


def test_a_name_from_another_network_is_nobody() -> None:
    found = directory("in-turns")
    with pytest.raises(Forbidden, match="zone library is not for the address"):
        found.decide(who("in-turns", f"{DEBIAN}first", "198.51.100.1"))


def test_every_worked_configuration_is_explained_and_tested() -> None:
    files = {path.stem for path in (DOCS / "sharing").glob("*.toml")}
    assert files == {case[0] for case in CASES}
    page = (DOCS / "sharing.md").read_text()
    assert all(f"(sharing/{name}.toml)" in page for name in files)

"""Who sees which target, and what it has to prove."""

from pathlib import Path

import pytest

from appliance.access.directory import Directory
from appliance.settings import config_file
from scsi_targets.devices.unit.target import Target
from scsi_targets.iscsi.directory import ChapCredentials, Forbidden, NotFound

ONE, TWO = "iqn.2026-11.io.tapebay:one", "iqn.2026-11.io.tapebay:two"
HOST, OTHER = "iqn.1993-08.org.debian:host", "iqn.1991-05.com.example:other"
BASE = f"""
[[portals]]
listen = "127.0.0.1:3260"
advertise = "192.0.2.10:13260"
[[portals]]
listen = "[::1]:3261"
group = 2
[[targets]]
iqn = "{ONE}"
[[targets]]
iqn = "{TWO}"
initiators = ["iqn.1993-08.ORG.debian:*"]
"""
ACCOUNTS = f"""
[[chap.accounts]]
initiator = "{HOST}"
target = "*:two"
user = "host-two"
secret = "secret-of-two"
mutual_user = "target"
mutual_secret = "another-secret"
[[chap.accounts]]
initiator = "iqn.1993-08.*"
user = "debian"
secret = "secret-of-debian"
"""


def directory(text: str) -> Directory:
    targets = {name: Target(name, {}) for name in (ONE, TWO)}
    return Directory(config_file.parse(Path("tapebay.toml"), text), targets)


def test_portals_and_what_they_advertise() -> None:
    first, second = directory(BASE).portals(ONE)
    assert (first.host, first.port, first.portal_group_tag, first.advertised) == (
        "127.0.0.1", 3260, 1, "192.0.2.10:13260",
    )  # fmt: skip
    assert (second.host, second.port, second.portal_group_tag, second.advertised) == ("::1", 3261, 2, None)
    with pytest.raises(NotFound):
        directory(BASE).portals("iqn.2026-11.io.tapebay:three")


def test_an_initiator_sees_only_its_targets() -> None:
    found = directory(BASE)
    assert found.target_names(HOST) == [ONE, TWO]
    assert found.target_names(OTHER) == [ONE]
    assert found.open(HOST, TWO).name == TWO
    with pytest.raises(Forbidden, match="not among the initiators"):
        found.open(OTHER, TWO)
    with pytest.raises(NotFound):
        found.open(HOST, "iqn.2026-11.io.tapebay:three")


def test_without_accounts_nobody_is_asked() -> None:
    assert directory(BASE).credentials(HOST, ONE) is None
    assert directory(BASE + "[chap]\ndiscovery = true\n").credentials(HOST, None) is None


def test_the_first_account_that_matches_counts() -> None:
    found = directory(BASE + ACCOUNTS)
    two = ChapCredentials("host-two", "secret-of-two", "target", "another-secret")
    assert found.credentials(HOST, TWO) == two
    assert found.credentials(HOST, ONE) == ChapCredentials("debian", "secret-of-debian")
    with pytest.raises(Forbidden, match="no CHAP account"):
        found.credentials(OTHER, ONE)


def test_discovery_asks_only_when_told_to() -> None:
    assert directory(BASE + ACCOUNTS).credentials(OTHER, None) is None
    asking = directory(BASE + "[chap]\ndiscovery = true\n" + ACCOUNTS)
    assert asking.credentials(HOST, None) is not None
    with pytest.raises(Forbidden):
        asking.credentials(OTHER, None)

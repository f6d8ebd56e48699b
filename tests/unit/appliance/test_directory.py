"""Who sees which target, and what it has to prove."""

from pathlib import Path

import pytest

from appliance.access.directory import Directory
from appliance.settings import config_file
from scsi_targets.devices.unit.principal import Principal
from scsi_targets.iscsi.directory import ChapCredentials, Forbidden, NotFound, Portal, Who
from tests.unit.iscsi.dummy import Memory

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


UNIT = Memory()


def directory(text: str) -> Directory:
    settings = config_file.parse(Path("tapebay.toml"), text)
    return Directory(settings, dict.fromkeys(settings.device_names(), UNIT))


def who(initiator: str, target: str | None, account: str | None = None) -> Who:
    return Who(initiator, bytes(6), target, Portal("127.0.0.1", 3260), "192.0.2.1", account)


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
    assert found.target_names(who(HOST, None)) == [ONE, TWO]
    assert found.target_names(who(OTHER, None)) == [ONE]
    view = found.open(who(HOST, TWO))
    assert (view.target_name, view.principal, view.portal_group_tags) == (TWO, Principal.initiator(HOST), (1, 2))
    assert view.logical_units[0] is UNIT
    with pytest.raises(Forbidden, match="not among the initiators"):
        found.open(who(OTHER, TWO))
    with pytest.raises(NotFound):
        found.open(who(HOST, "iqn.2026-11.io.tapebay:three"))


def test_without_accounts_nobody_is_asked() -> None:
    assert not directory(BASE).authentication(who(HOST, ONE))
    assert not directory(BASE + "[chap]\ndiscovery = true\n").authentication(who(HOST, None))


def test_an_account_is_found_by_its_name_among_those_for_initiator_and_target() -> None:
    found = directory(BASE + ACCOUNTS)
    two = ChapCredentials("host-two", "secret-of-two", "target", "another-secret")
    assert found.credentials(who(HOST, TWO), "host-two") == two
    assert found.credentials(who(HOST, TWO), "debian") == ChapCredentials("debian", "secret-of-debian")
    assert found.credentials(who(HOST, ONE), "debian") == ChapCredentials("debian", "secret-of-debian")
    assert found.credentials(who(HOST, ONE), "host-two") is None
    assert found.authentication(who(HOST, ONE))
    with pytest.raises(Forbidden, match="no CHAP account"):
        found.authentication(who(OTHER, ONE))


def test_a_view_belongs_to_the_account_that_was_proved() -> None:
    found = directory(BASE + ACCOUNTS)
    assert found.open(who(HOST, TWO, "host-two")).principal == Principal.account("host-two")
    for account in (None, "host-two"):  # nothing proved; an account of the other target
        with pytest.raises(Forbidden, match="has not proved"):
            found.open(who(HOST, ONE, account))


def test_discovery_asks_only_when_told_to() -> None:
    assert not directory(BASE + ACCOUNTS).authentication(who(OTHER, None))
    asking = directory(BASE + "[chap]\ndiscovery = true\n" + ACCOUNTS)
    assert asking.authentication(who(HOST, None))
    with pytest.raises(Forbidden):
        asking.authentication(who(OTHER, None))


def test_discovery_shows_what_the_proved_account_opens() -> None:
    asking = directory(BASE + "[chap]\ndiscovery = true\n" + ACCOUNTS)
    assert asking.target_names(who(HOST, None, "host-two")) == [TWO]
    assert asking.target_names(who(HOST, None, "debian")) == [ONE, TWO]
    for name in (ONE, TWO):
        assert asking.open(who(HOST, name, "debian")).target_name == name


def test_discovery_without_a_proof_shows_what_some_account_of_the_initiator_opens() -> None:
    found = directory(BASE + ACCOUNTS)
    assert found.target_names(who(HOST, None)) == [ONE, TWO]
    assert found.target_names(who(OTHER, None)) == [], "no account lets it in, so it need not know"

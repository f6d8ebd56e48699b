"""Zones: who sees what, decided by one pure function, and what the directory makes of it."""

import gc
import ipaddress
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from itertools import combinations
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.access.directory import Directory
from appliance.access.members import NetworkPrefix, Networks
from appliance.access.names import Names
from appliance.access.zones import MAXIMUM_REMEMBERED, Zoning, view_for
from appliance.failures import Failure, OperatorError
from appliance.operations import setup
from appliance.settings import config_file
from appliance.settings.advice import advice_on
from appliance.settings.config_file import ConfigError
from appliance.settings.patterns import overlap
from appliance.settings.sections import ZoneSettings
from appliance.settings.zones import _sharing
from scsi_targets.devices.unit.principal import Principal
from scsi_targets.iscsi.directory import Forbidden, Portal, Who
from tests.unit.appliance.offline import offline
from tests.unit.iscsi.dummy import Memory

IQN = "iqn.2026-11.io.tapebay:library"
ALICE, BOB, EVE = "iqn.1993-08.org.debian:alice", "iqn.1993-08.org.debian:bob", "iqn.1993-08.org.debian:eve"
PORTAL = Portal("127.0.0.1", 3260)
LUNS = {0: "changer", 1: "drive0", 2: "drive1", 7: "disk"}
BASE = f"""
[[portals]]
listen = "127.0.0.1:3260"
[[targets]]
iqn = "{IQN}"
[[drives]]
name = "drive0"
[[drives]]
name = "drive1"
[[disks]]
name = "disk"
size = "1 MiB"
lun = 7
"""
ACCOUNTS = """
[[chap.accounts]]
user = "payroll"
secret = "twelve chars"
[[chap.accounts]]
user = "science"
secret = "other twelve"
"""
ZONES = f"""
[[zones]]
name = "first"
initiators = ["{ALICE}"]
devices = ["drive0", "changer"]
[[zones]]
name = "second"
initiators = ["{BOB}"]
devices = ["drive1"]
"""


def access(*zones: dict[str, Any]) -> Zoning:
    return Zoning.of([ZoneSettings(name=f"z{number}", **zone) for number, zone in enumerate(zones)], LUNS)


def sees(access: Zoning, principal: Principal, peer: str = "192.0.2.1", portal: Portal = PORTAL) -> dict[int, str]:
    return dict(view_for(access, principal, portal, peer).luns)


def directory(text: str) -> Directory:
    settings = config_file.parse(Path("tapebay.toml"), text)
    return Directory(settings, {name: Memory() for name in settings.device_names()})


def who(initiator: str, account: str | None = None, target: str | None = IQN) -> Who:
    return Who(initiator, bytes(6), target, PORTAL, "192.0.2.1", account)


def test_without_zones_everybody_sees_everything() -> None:
    assert sees(access(), Principal.initiator(EVE)) == LUNS
    assert view_for(access(), Principal.initiator(EVE), PORTAL, "").remotes is None


def test_with_one_zone_who_is_in_none_sees_nothing() -> None:
    found = access({"initiators": [ALICE], "devices": ["drive0"]})
    assert sees(found, Principal.initiator(ALICE)) == {1: "drive0"}
    nothing = view_for(found, Principal.initiator(EVE), PORTAL, "192.0.2.1")
    assert (dict(nothing.luns), nothing.zones, nothing.remotes) == ({}, (), frozenset())
    assert nothing.reasons == (f"no zone names initiator {EVE}",)


def test_an_account_is_that_account_and_never_its_initiator_s_name() -> None:
    found = access(
        {"initiators": [ALICE], "devices": ["drive0"]}, {"accounts": ["payroll", ALICE], "devices": ["disk"]}
    )
    assert sees(found, Principal.account("payroll")) == {7: "disk"}
    assert sees(found, Principal.account(ALICE)) == {7: "disk"}
    assert sees(found, Principal.initiator(ALICE)) == {1: "drive0"}
    assert sees(found, Principal.initiator("payroll")) == {}
    assert sees(access({"initiators": ["*"], "devices": ["disk"]}), Principal.account("payroll")) == {}


def test_several_zones_are_seen_together() -> None:
    found = access(
        {"initiators": ["iqn.1993-08.org.debian:*"], "devices": ["disk"]},
        {"initiators": [ALICE], "devices": ["drive1"], "luns": {4: "drive0"}},
    )
    assert sees(found, Principal.initiator(ALICE)) == {2: "drive1", 4: "drive0", 7: "disk"}
    assert sees(found, Principal.initiator(BOB)) == {7: "disk"}


def test_a_pattern_means_itself_and_no_regular_expression() -> None:
    found = access({"initiators": ["iqn.1993-08.org.debian:a?ice"], "devices": ["disk"]})
    assert sees(found, Principal.initiator(ALICE)) == {7: "disk"}
    assert sees(found, Principal.initiator("iqn.1993-08.orgXdebian:alice")) == {}
    assert sees(found, Principal.initiator(f"{ALICE}\n")) == {}


@pytest.mark.parametrize(
    ("peer", "group", "in_it"),
    [
        ("192.0.2.77", 2, True),
        ("::ffff:192.0.2.77", 2, True),
        ("fe80::1%eth0", 2, True),
        ("192.0.3.1", 2, False),
        ("", 2, False),
        ("not-an-address", 2, False),
        ("192.0.2.77", 1, False),
    ],
)
def test_a_zone_may_be_for_networks_and_portal_groups(peer: str, group: int, in_it: bool) -> None:
    found = access(
        {
            "initiators": [ALICE],
            "devices": ["disk"],
            "networks": ["192.0.2.0/24", "fe80::/10"],
            "portal_groups": [2],
        }
    )
    portal = Portal("127.0.0.1", 3260, group)
    assert bool(sees(found, Principal.initiator(ALICE), peer, portal)) is in_it


def test_devices_keep_their_luns_whatever_comes_and_goes() -> None:
    before = sees(access({"initiators": [ALICE], "devices": ["disk", "drive1"]}), Principal.initiator(ALICE))
    after = sees(
        access({"initiators": [ALICE], "devices": ["changer", "drive0", "disk", "drive1"]}), Principal.initiator(ALICE)
    )
    assert before.items() <= after.items()


def test_the_directory_opens_what_the_zone_holds() -> None:
    found = directory(BASE + ZONES)
    assert sorted(found.open(who(ALICE)).logical_units) == [0, 1]
    assert sorted(found.open(who(BOB)).logical_units) == [2]
    with pytest.raises(Forbidden, match="no zone names initiator iqn"):
        found.open(who(EVE))
    assert found.target_names(who(ALICE, target=None)) == [IQN]
    assert found.target_names(who(EVE, target=None)) == [], "discovery shows only what it could log in to"


def test_a_target_s_own_luns_hold_and_bound_the_zones() -> None:
    text = BASE.replace(f'iqn = "{IQN}"', f'iqn = "{IQN}"\nluns = {{ 3 = "drive1", 5 = "drive0" }}') + ZONES
    assert sorted(directory(text).open(who(ALICE)).logical_units) == [5]
    with pytest.raises(Forbidden, match=r"no device of .* is in zone second"):
        directory(text.replace('"drive1"]', '"disk"]')).open(who(BOB))


def test_accounts_in_zones() -> None:
    text = BASE + ACCOUNTS + '[[zones]]\nname = "money"\naccounts = ["payroll"]\ndevices = ["disk"]\n'
    found = directory(text)
    assert found.authentication(who(ALICE))
    view = found.open(who(ALICE, "payroll"))
    assert (view.principal, sorted(view.logical_units)) == (Principal.account("payroll"), [7])
    with pytest.raises(Forbidden, match="no zone names account science"):
        found.open(who(ALICE, "science"))
    with pytest.raises(Forbidden, match="has not proved"):
        found.open(who(ALICE))
    assert found.target_names(who(ALICE, "science", None)) == []
    assert found.target_names(who(ALICE, "payroll", None)) == [IQN]


def test_beside_accounts_a_zone_may_know_initiators_by_name() -> None:
    text = BASE + ACCOUNTS.replace("user =", f'initiator = "{BOB}"\nuser =') + ZONES
    found = directory(text)
    assert not found.authentication(who(ALICE))
    assert sorted(found.open(who(ALICE)).logical_units) == [0, 1]
    assert found.authentication(who(BOB)), "it has an account, so its name alone is nothing"
    with pytest.raises(Forbidden):
        found.authentication(who(EVE))
    with pytest.raises(Forbidden, match="has not proved"):
        found.open(who(ALICE, "payroll"))


@pytest.mark.parametrize(
    ("zones", "problem"),
    [
        ('[[zones]]\nname = "z"\ndevices = ["tape"]\n', "zone z: there is no device 'tape'; the library has changer"),
        ('[[zones]]\nname = "z"\naccounts = ["nobody"]\n', "zone z: there is no account 'nobody'"),
        ('[[zones]]\nname = "z"\n[[zones]]\nname = "z"\n', "zone name 'z' is given 2 times"),
        ('[[zones]]\nname = "z"\nluns = { 1 = "disk", 2 = "disk" }\n', "zone z: a device has two LUNs"),
        ('[[zones]]\nname = "z"\ninitiators = ["alice"]\n', "'alice' is not an iSCSI name"),
        ('[[zones]]\nname = "z"\ninitiators = ["iqn *"]\n', "'iqn \\*' is no pattern"),
        ('[[zones]]\nname = "z"\nnetworks = ["here"]\n', "'here' is no network"),
        (
            '[[zones]]\nname = "z"\ndevices = ["drive0"]\nluns = { 1 = "disk" }\n',
            "zone z: .* have one LUN, 1",
        ),
        (
            '[[zones]]\nname = "a"\ninitiators = ["*:alice"]\nluns = { 1 = "disk" }\n'
            '[[zones]]\nname = "b"\ninitiators = ["iqn.1993-08.*"]\ndevices = ["drive0"]\n',
            "zones a and b may both be one initiator's, and disk is LUN 1 in the first, drive0 is LUN 1 in the second",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(zones: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        directory(BASE + zones)


def test_zones_that_nobody_shares_may_use_one_number_twice() -> None:
    text = f'[[zones]]\nname = "a"\ninitiators = ["{ALICE}"]\nluns = {{ 0 = "disk" }}\n'
    text += f'[[zones]]\nname = "b"\ninitiators = ["{BOB}"]\nluns = {{ 0 = "drive1" }}\n'
    found = directory(BASE + text)
    assert sorted(found.open(who(ALICE)).logical_units) == sorted(found.open(who(BOB)).logical_units) == [0]
    assert found.open(who(ALICE)).logical_units[0] is not found.open(who(BOB)).logical_units[0]


@pytest.mark.parametrize(
    ("one", "other", "may"),
    [
        ("a*", "*b", True), ("a*", "b*", False), ("a?c", "ab*", True), ("a?", "a", False), ("*", "x", True),
        ("a*c", "a*d", False), ("?*?", "a", False), ("?*?", "*", True), ("ab", "ab", True), ("*ab*", "a*b", True),
    ],
)  # fmt: skip
def test_whether_two_patterns_have_a_name_in_common(one: str, other: str, may: bool) -> None:
    assert overlap(one, other) is overlap(other, one) is may


def advice(text: str) -> str:
    return "\n".join(advice_on(config_file.parse(Path("tapebay.toml"), text)))


def test_advice_on_zones() -> None:
    assert advice(BASE) == ""
    text = advice(BASE + ACCOUNTS + ZONES + '[[zones]]\nname = "empty"\n')
    assert "disk is in no zone: no initiator sees it" in text
    assert "zone empty names no initiators and no accounts" in text
    assert f"zone first: initiator {ALICE} is asked for a CHAP account (payroll)" in text
    public = BASE.replace("127.0.0.1", "0.0.0.0")
    assert "no zones: every account sees every device" in advice(public + ACCOUNTS)
    assert "whoever reaches it may be in zone first or second" in advice(public + ZONES)


def test_advice_on_what_is_not_there() -> None:
    zone = '[[zones]]\nname = "z"\naccounts = ["payroll"]\ndevices = ["drive0"]\n'
    zone += 'remotes = ["array"]\nportal_groups = [1, 2]\n'
    text = advice(BASE + ACCOUNTS + zone)
    assert "zone z: there is no remote unit 'array' that its copies could reach" in text
    assert "zone z: there is no portal of group 2, so nobody comes in by one" in text
    assert "portal of group 1," not in text
    gate = '[gate]\ntarget = "iqn.2026-11.io.tapebay:gate"\ngroups = { fast = ["drive0", "drive9"] }\n'
    assert advice(BASE + gate) == "[gate.groups] fast: there is no drive 'drive9', and no request will have it"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"remotes": "array"}, "there is no remote unit 'array'; the library has none"),
        ({"portal_groups": "1,2"}, "there is no portal group 2; the library has 1"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_zone_is_given_what_is_there(tmp_path: Path, given: dict[str, str], said: str, dry_run: bool) -> None:
    config = setup.create(tmp_path / "lib", setup.plan(tmp_path / "lib", portal="127.0.0.1:0"))
    offline(config, "zone.create", name="there", initiators=ALICE, devices="drive0", portal_groups="1")
    before = offline(config, "zone.list")
    for verb, name in (("zone.create", "new"), ("zone.change", "there")):
        with pytest.raises(OperatorError) as caught:
            offline(config, verb, name=name, dry_run=dry_run, **given)
        assert (caught.value.failure, str(caught.value)) == (Failure.NOT_FOUND, said)
    assert offline(config, "zone.list") == before


def test_who_may_ask_of_accounts_that_are_there(tmp_path: Path) -> None:
    config = setup.create(tmp_path / "lib", setup.plan(tmp_path / "lib", portal="127.0.0.1:0"))
    with pytest.raises(OperatorError, match="there is no account 'payrol'; the library has none"):
        offline(config, "who", initiator=ALICE, account="payrol")
    for target in ("one", "two"):  # it is told once
        offline(config, "account.create", user="payroll", secret="twelve chars", target=f"{IQN}-{target}")
    with pytest.raises(OperatorError, match=r"there is no account 'payrol'; the library has payroll$") as caught:
        offline(config, "who", initiator=ALICE, account="payrol")
    assert caught.value.failure is Failure.NOT_FOUND
    (answer,) = offline(config, "who", initiator=ALICE, account="payroll")
    assert answer["principal"] == "account payroll"


# ---- what is remembered of answers -----------------------------------------------------------------------------------


def test_an_answer_that_is_remembered_is_nobody_elses() -> None:
    """What decides it is in its key: who, from which address, by which portal group."""
    both = access(
        {"initiators": [ALICE], "devices": ["drive0"], "networks": ["192.0.2.0/24"]},
        {"initiators": [ALICE], "devices": ["drive1"], "portal_groups": [2]},
        {"accounts": [ALICE], "devices": ["disk"]},
    )
    asked = [
        (Principal.initiator(ALICE), PORTAL, "192.0.2.1", {1: "drive0"}),
        (Principal.initiator(ALICE), PORTAL, "198.51.100.1", {}),
        (Principal.initiator(ALICE), Portal("127.0.0.1", 3261, 2), "192.0.2.1", {1: "drive0", 2: "drive1"}),
        (Principal.initiator(ALICE), Portal("127.0.0.1", 3261, 2), "198.51.100.1", {2: "drive1"}),
        (Principal.account(ALICE), PORTAL, "192.0.2.1", {7: "disk"}),
        (Principal.initiator(BOB), PORTAL, "192.0.2.1", {}),
    ]
    for _ in range(2):
        for principal, portal, peer, luns in asked:
            assert view_for(both, principal, portal, peer).luns == luns
    assert len(both.remembered) == len(asked)


def test_names_that_nobody_knows_are_not_remembered_without_bound() -> None:
    hers = access({"initiators": [ALICE], "devices": ["drive0"]})
    for number in range(MAXIMUM_REMEMBERED + 10):
        assert not view_for(hers, Principal.initiator(f"iqn.2026-11.test:{number}"), PORTAL, "").luns
    assert len(hers.remembered) <= MAXIMUM_REMEMBERED
    assert view_for(hers, Principal.initiator(ALICE), PORTAL, "").luns == {1: "drive0"}


def shape(many: int, each: str) -> tuple[Directory, Who]:
    """A library with many zones, and one who logs in. each: what is many of: zones that name the same account, or
    initiator, or by one pattern; or each with a network of its own; or each with a pattern of its own."""
    names = [f"iqn.1993-08.org.debian:{number:03}" for number in range(many)]
    members: dict[str, Callable[[int], dict[str, Any]]] = {
        "accounts": lambda number: {"accounts": [f"user{each}" for each in range(many)]},
        "initiators": lambda number: {"initiators": names},
        "one pattern": lambda number: {"initiators": ["iqn.1993-08.*"]},
        "networks": lambda number: {"initiators": names, "networks": ["192.0.2.0/24", f"10.0.{number % 250}.0/24"]},
        "patterns": lambda number: {"initiators": [f"*:{number:03}*"]},
    }
    accounts = "".join(
        f'[[chap.accounts]]\nuser = "user{number}"\ninitiator = "{name}"\nsecret = "secret of {number:04}"\n'
        for number, name in enumerate(names)
    )
    with_accounts = each == "accounts"
    settings = config_file.parse(Path("tapebay.toml"), BASE + (accounts if with_accounts else ""))
    zones = [ZoneSettings(name=f"z{n}", devices=["drive0"], **members[each](n)) for n in range(many)]
    made = Directory(settings.model_copy(update={"zones": zones}), {})
    return made, who(names[1], "user1" if with_accounts else None)


def instructions(work: Callable[[], object]) -> int:
    """Of Python: a figure that no load disturbs, and that a loop within a function shows."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    gc.collect()
    gc.disable()  # what other tests have left is not finalised here
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
        gc.enable()
    return count


@pytest.mark.parametrize("each", ["accounts", "initiators", "one pattern", "networks", "patterns"])
def test_not_even_the_first_login_costs_more_where_there_are_many_zones(each: str) -> None:
    def log_in(made: Directory, given: Who) -> None:
        if made.authentication(given):
            assert given.account and made.credentials(given, given.account)
        assert made.open(given)

    few, many = (instructions(partial(log_in, *shape(count, each))) for count in (3, 500))
    assert abs(many - few) < 50 and few < 1500


def test_what_is_made_ahead_is_bounded_and_the_rest_is_seen_all_the_same() -> None:
    zones: list[dict[str, Any]] = [
        {"initiators": [ALICE, BOB], "devices": ["drive0"]},
        {"initiators": [BOB, EVE], "devices": ["drive1"], "networks": ["192.0.2.0/24"]},
    ]
    whole = access(*zones)
    with patch("appliance.access.zones.MAXIMUM_AHEAD", 3):
        cut = access(*zones)
    assert len(whole.ahead) == 3 and len(cut.ahead) < 3
    for name in (ALICE, BOB, EVE):
        for peer in ("192.0.2.1", "198.51.100.1"):
            one, other = (view_for(each, Principal.initiator(name), PORTAL, peer) for each in (whole, cut))
            assert (one.luns, one.zones, one.reasons) == (other.luns, other.zones, other.reasons)


@given(st.sets(st.text("ab*?", max_size=9), max_size=12), st.text("ab", max_size=9))
def test_a_name_matches_the_patterns_that_it_matches(patterns: set[str], name: str) -> None:
    found = Names({each: each for each in patterns}).matching(name)
    assert sorted(found) == sorted(each for each in patterns if fnmatchcase(name, each))


@given(st.lists(st.ip_addresses(), max_size=4), st.integers(0, 128), st.ip_addresses())
@example([], 0, ipaddress.ip_address("::ffff:0:0"))
@example([ipaddress.ip_address("192.0.2.1")], 24, ipaddress.ip_address("::ffff:192.0.2.9"))
def test_networks_around_an_address(addresses: list[Any], prefix: int, address: Any) -> None:
    networks = {
        ipaddress.ip_network(f"{each}/{min(prefix, each.max_prefixlen)}", strict=False)
        for each in [*addresses, address]
    }
    found = Networks(map(NetworkPrefix.of, networks)).around(str(address))
    meant = getattr(address, "ipv4_mapped", None) or address  # an IPv4 address in IPv6's notation is that one
    assert sorted(found) == sorted(NetworkPrefix.of(each) for each in networks if meant in each)
    assert len(set(map(NetworkPrefix.of, networks))) == len(networks)
    assert found or meant is not address


# ---- discovery by portal group ---------------------------------------------------------------------------------------


def test_discovery_tells_a_portal_only_to_who_could_log_in_there() -> None:
    """Whichever portal it asks at: a target by the portals of the groups that its zones are for, and no others."""
    text = BASE.replace(
        'listen = "127.0.0.1:3260"', 'listen = "127.0.0.1:3260"\n[[portals]]\nlisten = "127.0.0.1:3261"\ngroup = 2'
    )
    zones = f"""
[[zones]]
name = "hers"
initiators = ["{ALICE}"]
devices = ["drive0"]
portal_groups = [2]
[[zones]]
name = "theirs"
initiators = ["{ALICE}", "{BOB}"]
devices = ["drive1"]
networks = ["192.0.2.0/24"]
"""
    found = Directory(config_file.parse(Path("tapebay.toml"), text + zones), {})
    first, second = found.all_portals
    for name, peer, groups in (
        (ALICE, "198.51.100.1", [2]),
        (ALICE, "192.0.2.1", [1, 2]),
        (BOB, "192.0.2.1", [1, 2]),
        (BOB, "198.51.100.1", []),
        (EVE, "192.0.2.1", []),
    ):
        for asked_at in (first, second):
            who = Who(name, bytes(6), None, asked_at, peer)
            assert found.target_names(who) == ([IQN] if groups else [])
            assert [portal.portal_group_tag for portal in found.portals(IQN, who)] == groups
    assert found.portals(IQN) == [first, second]


# ---- zones that may be one initiator's -------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.lists(st.text("ab*?", min_size=1, max_size=4), max_size=3), st.lists(st.sampled_from("xy"), max_size=1)
        ),
        max_size=6,
    )
)
def test_zones_that_share_are_found_as_by_comparing_each_with_each(given_: list[tuple[list[str], list[str]]]) -> None:
    zones = [
        ZoneSettings(name=f"z{number}", initiators=[f"iqn.2026-11.t:{name}" for name in names], accounts=users)
        for number, (names, users) in enumerate(given_)
    ]
    expected = {
        frozenset((one.name, other.name))
        for one, other in combinations(zones, 2)
        if set(one.accounts) & set(other.accounts)
        or any(overlap(mine, theirs) for mine in one.initiators for theirs in other.initiators)
    }
    assert {frozenset(pair) for pair in _sharing(zones)} == expected


def test_many_patterns_with_luns_are_checked_at_once() -> None:
    """500 zones of a pattern each took minutes, at every change of anything."""
    zones = [
        ZoneSettings(name=f"z{number}", initiators=[f"iqn.2026-11.t:host{number:03}*"], devices=["drive0"])
        for number in range(500)
    ]
    with patch("appliance.settings.zones.overlap", wraps=overlap) as compared:
        assert not _sharing(zones)
    assert compared.call_count < 1500

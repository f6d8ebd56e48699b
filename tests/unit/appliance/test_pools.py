"""Pools: which cartridge is in which, blank ones by request out of one, tokens that are for one."""

import dataclasses
import fnmatch
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.access.caller import Caller, Scope
from appliance.control.client import Client
from appliance.failures import Failure, OperatorError
from appliance.operations.verb import OnLibrary
from appliance.settings.patterns import overlap
from appliance.settings.pools import Membership, problems_with_pools
from appliance.settings.sections import PoolSettings
from tests.support.appliance import Appliance
from tests.support.in_process import declared, do
from tests.support.ports import free_port
from tests.support.waiting import becomes, eventually
from vlib_images.library.database import events

CONFIG = """
[[portals]]
listen = "127.0.0.1:0"
[[targets]]
iqn = "iqn.2026-11.io.tapebay:lib"
[changer]
slots = 20
[gate]
target = "iqn.2026-11.io.tapebay:gate"
[[drives]]
name = "drive0"
[[drives]]
name = "drive1"
"""
POOLS = '[[pools]]\nname = "databases"\nbarcodes = "DB*"\n[[pools]]\nname = "logs"\nbarcodes = "LOG*"\n'
HOST = "iqn.1993-08.org.debian:host"
DATABASES = Caller("token db", Scope.OPERATE, pools=frozenset(["databases"]))
BOTH = Caller("token both", Scope.OPERATE, pools=frozenset(["databases", "logs"]))
BARCODES = ("DB0001L6", "DB0002L6", "LOG001L6", "N00001L6")


@pytest.fixture
def context(tmp_path: Path) -> Iterator[OnLibrary]:
    made = declared(tmp_path, CONFIG + POOLS)
    for barcode in BARCODES:
        do(made, "cartridge.create", barcode=barcode)
    made.library.start()
    yield made
    made.library.stop()
    made.library.close()


def by(context: OnLibrary, caller: Caller) -> OnLibrary:
    return dataclasses.replace(context, caller=caller)


def refused(context: OnLibrary, verb: str, **options: Any) -> tuple[Failure, str]:
    with pytest.raises(OperatorError) as caught:
        do(context, verb, **options)
    return caught.value.failure, str(caught.value)


def asked(context: OnLibrary, **options: Any) -> str:
    return str(do(context, "request.create", initiator=HOST, **options)["request"])


def granted(context: OnLibrary, request: str) -> list[str]:
    """The volumes, once the request has them."""
    eventually(lambda: do(context, "request.show", request=request)["state"] == "granted")
    return [unit["cartridge"] for unit in do(context, "request.show", request=request)["units"]]


def waits(context: OnLibrary, request: str, why: str) -> str:
    """What the request is told, once that is in it: first the library looks which of its cartridges are blank."""
    return str(eventually(lambda: why in (told := do(context, "request.show", request=request)["why"]) and told))


# ---- which cartridge is in which -------------------------------------------------------------------------------------


def pool(name: str, barcodes: str = "", *cartridges: str) -> PoolSettings:
    return PoolSettings(name=name, barcodes=barcodes, cartridges=list(cartridges))


def test_a_name_counts_before_the_patterns_of_any_pool() -> None:
    membership = Membership([pool("a", "A*,X?L6"), pool("b", "B*", "A00002L6")])
    barcodes = ["A00001L6", "A00002L6", "X1L6", "X12L6", "B00001L6", "C00001L6"]
    assert [membership.of(barcode) for barcode in barcodes] == ["a", "b", "a", None, "b", None]


@pytest.mark.parametrize(
    ("pools", "problem"),
    [
        ([pool("a", "A*"), pool("b", "*L6")], "a barcode could fit A* of pool a and *L6 of pool b"),
        ([pool("a", "X*,A?1"), pool("b", "B*,AB*")], "a barcode could fit A?1 of pool a and AB* of pool b"),
        ([pool("a", "", "X1"), pool("b", "B*", "X1")], "cartridge X1 is in pool a and in pool b; it can be in one"),
        ([pool("a", "", "X1", "X1")], "pool a: a cartridge is given twice"),
    ],
)
def test_a_cartridge_is_in_one_pool_at_most(pools: list[PoolSettings], problem: str) -> None:
    (said,) = problems_with_pools(pools)
    assert problem in said
    assert not problems_with_pools([pool("a", "A*", "B00001L6"), pool("b", "B*", "A00001L6")])


SHORT = ["".join(letters) for length in range(4) for letters in itertools.product("AB", repeat=length)]
PATTERNS = st.text("AB?*", min_size=1, max_size=5).filter(lambda pattern: len(pattern.replace("*", "")) <= 2)


@given(PATTERNS, PATTERNS)
def test_patterns_overlap_when_a_barcode_fits_both(first: str, second: str) -> None:
    """Two patterns of at most two characters beside their stars: what fits both at all, some of 4 characters does."""
    words = [*SHORT, *("".join(letters) for letters in itertools.product("AB", repeat=4))]
    both = any(fnmatch.fnmatchcase(word, first) and fnmatch.fnmatchcase(word, second) for word in words)
    assert overlap(first, second) == overlap(second, first) == both


# ---- verbs -----------------------------------------------------------------------------------------------------------


def test_pools_are_made_changed_and_deleted(context: OnLibrary) -> None:
    made = do(context, "pool.create", name="named", cartridges="N00001L6")
    assert made == {"name": "named", "barcodes": "", "cartridges": ["N00001L6"], "holds": 1, "blank": 1}
    changed = do(context, "pool.change", name="named", barcodes="NEW*", add_cartridges="DB0001L6")
    assert (changed["holds"], changed["barcodes"]) == (2, "NEW*")
    holds = {row["name"]: row["holds"] for row in do(context, "pool.list")}
    assert holds == {"databases": 1, "logs": 1, "named": 2}
    assert do(context, "cartridge.show", barcode="DB0001L6")["pool"] == "named"
    do(context, "pool.change", name="named", remove_cartridges="DB0001L6")
    assert do(context, "cartridge.show", barcode="DB0001L6")["pool"] == "databases"
    assert refused(context, "pool.create", name="named", barcodes="Z*")[0] is Failure.REFUSED
    assert refused(context, "pool.create", name="more", barcodes="D*")[0] is Failure.REFUSED
    assert refused(context, "pool.change", name="named", barcodes="D?0*")[0] is Failure.REFUSED
    assert refused(context, "pool.change", name="named", remove_cartridges="X")[0] is Failure.REFUSED
    assert refused(context, "pool.create", name="lower", barcodes="db*")[0] is Failure.USAGE
    assert refused(context, "pool.show", name="nobody")[0] is Failure.NOT_FOUND
    do(context, "pool.delete", name="named")
    assert do(context, "cartridge.show", barcode="N00001L6")["pool"] is None
    with context.files.database.read() as connection:
        told = [event.action for event in events.latest(connection, 100) if event.subject == "named"]
    assert told == ["pool removed", "pool changed", "pool changed", "pool added"]


def test_pools_are_declared_planned_and_shown_as_toml(context: OnLibrary) -> None:
    assert POOLS.replace("\n[[", "\n\n[[").strip() in do(context, "configuration.show")["toml"]
    context.config.write_text(CONFIG + POOLS.replace("LOG*", "LOG*,L*") + '[[pools]]\nname = "more"\nbarcodes = "M*"\n')
    changes = ["+ pool more: barcodes M*", "~ pool logs: barcodes LOG* -> LOG*,L*"]
    assert sorted(do(context, "configuration.plan")["changes"]) == changes
    do(context, "configuration.apply")
    assert [row["name"] for row in do(context, "pool.list")] == ["databases", "logs", "more"]
    assert do(context, "configuration.plan")["changes"] == []


# ---- requests --------------------------------------------------------------------------------------------------------


def test_a_blank_cartridge_is_of_the_pool_that_is_named_and_else_of_none(context: OnLibrary) -> None:
    assert granted(context, asked(context, pool="logs")) == ["LOG001L6"]
    waits(context, asked(context, pool="logs"), "in pool logs")
    assert granted(context, asked(context)) == ["N00001L6"]


def test_who_asks_for_none_is_told_that_what_is_left_is_in_pools(context: OnLibrary) -> None:
    assert granted(context, asked(context)) == ["N00001L6"]
    waits(context, asked(context), "of a pool are had by its name")


def test_a_pool_s_volume_by_its_name(context: OnLibrary) -> None:
    assert granted(context, asked(context, volume=["DB0002L6"], pool="databases")) == ["DB0002L6"]
    failure, text = refused(context, "request.create", initiator=HOST, volume=["DB0001L6"], pool="logs")
    assert (failure, text) == (Failure.REFUSED, "cartridge DB0001L6 is in pool databases, not in logs")
    assert refused(context, "request.create", initiator=HOST, pool="nobody")[0] is Failure.NOT_FOUND


def test_two_at_once_and_by_the_choice_of_the_gate(context: OnLibrary) -> None:
    assert sorted(granted(context, asked(context, scratch=2, pool="databases"))) == ["DB0001L6", "DB0002L6"]
    waiting = asked(context, pool="logs", by_gate=True)
    eventually(lambda: do(context, "request.show", request=waiting)["state"] == "placing")
    assert context.library.broker is not None
    (unit,) = context.library.broker.requests.get(waiting).units
    assert unit.volume == "LOG001L6"


def test_who_waits_for_a_volume_that_leaves_the_pool_does_not_get_it(context: OnLibrary) -> None:
    held = asked(context, volume=["DB0001L6"])
    granted(context, held)
    database = by(context, DATABASES)
    waiting = asked(database, volume=["DB0001L6"])
    do(context, "pool.change", name="logs", add_cartridges="DB0001L6")
    do(context, "grant.release", request=held)
    eventually(lambda: do(context, "request.show", request=held)["state"] == "done")
    waits(database, waiting, "is not in pool databases")


def test_who_waits_for_a_pool_sees_it_change_and_go(context: OnLibrary) -> None:
    held = asked(context, pool="logs")
    assert granted(context, held) == ["LOG001L6"]
    waiting = asked(context, pool="logs")
    waits(context, waiting, "in pool logs")
    do(context, "pool.delete", name="logs")
    waits(context, waiting, "in pool logs")
    do(context, "pool.create", name="logs", cartridges="N00001L6")
    assert granted(context, waiting) == ["N00001L6"]


# ---- tokens for a pool -----------------------------------------------------------------------------------------------


def test_a_token_for_a_pool_sees_its_cartridges_only(context: OnLibrary) -> None:
    database = by(context, DATABASES)
    assert [row["barcode"] for row in do(database, "cartridge.list")] == ["DB0001L6", "DB0002L6"]
    assert do(database, "cartridge.show", barcode="DB0001L6")["pool"] == "databases"
    do(context, "move", cartridge="DB0002L6", to="shelf")
    assert do(database, "cartridge.show", barcode="DB0002L6")["place"] == "shelf"
    for barcode in ("LOG001L6", "N00001L6", "X00001L6"):
        assert refused(database, "cartridge.show", barcode=barcode)[0] is Failure.NOT_FOUND
    assert [row["name"] for row in do(database, "pool.list")] == ["databases"]
    assert refused(database, "pool.show", name="logs")[0] is Failure.NOT_FOUND
    assert do(database, "drive.list") == do(database, "partition.list") == []
    assert refused(database, "move", cartridge="DB0001L6", to="slot:20")[0] is Failure.NOT_PERMITTED


def test_a_token_for_a_pool_asks_for_its_volumes_only(context: OnLibrary) -> None:
    database = by(context, DATABASES)
    assert granted(database, asked(database)) == ["DB0001L6"]  # its pool is the only one it can mean
    assert granted(database, asked(database, volume=["DB0002L6"])) == ["DB0002L6"]
    assert {row["name"]: row["cartridge"] for row in do(database, "drive.list")} == {
        "drive0": "DB0001L6", "drive1": "DB0002L6"
    }  # fmt: skip
    assert refused(database, "request.create", initiator=HOST, volume=["LOG001L6"])[0] is Failure.NOT_FOUND
    assert refused(database, "request.create", initiator=HOST, volume=["LOG001L6"], pool="databases")[0] is (
        Failure.NOT_FOUND
    )
    assert refused(database, "request.create", initiator=HOST, pool="logs")[0] is Failure.NOT_FOUND
    assert refused(database, "request.create", initiator=HOST, device=["disk0@1"])[0] is Failure.NOT_PERMITTED
    others = asked(context, pool="logs")
    assert others not in [row["request"] for row in do(database, "request.list")]
    assert refused(database, "request.show", request=others)[0] is Failure.NOT_PERMITTED


def test_a_token_for_two_pools_says_of_which(context: OnLibrary) -> None:
    both = by(context, BOTH)
    assert "--pool" in refused(both, "request.create", initiator=HOST)[1]
    assert granted(both, asked(both, pool="logs")) == ["LOG001L6"]
    assert granted(both, asked(both, volume=["DB0002L6"])) == ["DB0002L6"]


def test_what_a_token_s_request_waits_for_is_no_secret_of_others(context: OnLibrary) -> None:
    """A cartridge of another pool is as if it were not there, also in the words of a request that waits."""
    database = by(context, DATABASES)
    for held in (asked(context, pool="logs"), asked(context)):
        granted(context, held)
    said = waits(database, asked(database), "no drive that fits is free")
    assert not [barcode for barcode in ("LOG001L6", "N00001L6") if barcode in said]


def test_over_tcp_it_follows_its_own_requests_and_no_others(tmp_path: Path) -> None:
    """As `tapebay mount` does while it waits; nothing of that is a refusal in the audit record."""
    port = free_port()
    more = f'[api]\nlisten = "127.0.0.1:{port}"\n[gate]\ntarget = "iqn.2026-11.io.tapebay:gate"\n'
    with Appliance(tmp_path, cartridges=3, more=more) as appliance:
        appliance.call("pool.create", name="logs", cartridges="TST002L6")
        token = appliance.call("token.create", name="logs", scope="operate", pools="logs")["token"]
        client = Client.at(f"http://127.0.0.1:{port}", token)
        first = client.call("request.create", initiator=HOST)["request"]
        becomes("granted", lambda: client.call("request.show", request=first)["state"])  # the pool's only cartridge:
        request = client.call("request.create", initiator=HOST)["request"]  # so this one waits until it is cancelled
        told = client.events(request, timeout_seconds=60)
        assert next(told) is None
        client.call("request.cancel", request=request)
        assert next(event for event in told if event is not None)["subject"] == request
        assert not [row for row in appliance.call("audit.list") if row["action"] == "request refused"]
        other = appliance.call("request.create", initiator=HOST)["request"]
        for subject in (other, "TST001L6", "0" * 16):
            with pytest.raises(OperatorError, match="its own requests only"):
                next(client.events(subject, timeout_seconds=60))

"""Tokens for a part of the library: what they see and do, and what they do not."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.access.caller import Caller, Scope
from appliance.failures import Failure, OperatorError
from appliance.operations import VERBS
from appliance.operations.verb import OnLibrary, Window
from tests.support.in_process import declared, do

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
[[partitions]]
name = "left"
slots = "1-8"
drives = ["drive0"]
[[partitions]]
name = "right"
slots = "9-16"
drives = ["drive1"]
"""
LEFT = Caller("token left", Scope.ADMINISTER, frozenset(["left"]))
POOLS = Caller("token pools", Scope.ADMINISTER, pools=frozenset(["scratch"]))


@pytest.fixture
def context(tmp_path: Path) -> Iterator[OnLibrary]:
    made = declared(tmp_path, CONFIG)
    library = made.library
    for barcode, place in [("L00001L6", "slot:1"), ("R00001L6", "slot:9"), ("N00001L6", "slot:17")]:
        do(made, "cartridge.create", barcode=barcode, place=place)
    do(made, "cartridge.create", barcode="S00001L6", place="shelf")
    assert library.broker is not None
    library.broker.start()
    yield made
    library.broker.stop()
    library.close()


def by(context: OnLibrary, caller: Caller, window: Window | None = None) -> OnLibrary:
    return dataclasses.replace(context, caller=caller, window=window)


def failure(context: OnLibrary, verb: str, **given: Any) -> Failure:
    with pytest.raises(OperatorError) as caught:
        do(context, verb, **given)
    return caught.value.failure


def test_it_sees_its_part(context: OnLibrary) -> None:
    left = by(context, LEFT)
    assert [row["barcode"] for row in do(left, "cartridge.list")] == ["L00001L6"]
    paged = by(context, LEFT, Window(None, 10))
    assert [row["barcode"] for row in do(paged, "cartridge.list")] == ["L00001L6"]
    assert do(left, "cartridge.show", barcode="L00001L6")["place"] == "slot:1"
    for barcode in ("R00001L6", "N00001L6", "S00001L6", "X00001L6"):
        assert failure(left, "cartridge.show", barcode=barcode) is Failure.NOT_FOUND
    assert [row["name"] for row in do(left, "drive.list")] == ["drive0"]
    assert failure(left, "drive.show", name="drive1") is Failure.NOT_PERMITTED
    assert [row["name"] for row in do(left, "partition.list")] == ["left"]
    assert failure(left, "partition.show", name="right") is Failure.NOT_FOUND


def test_it_moves_in_its_part_only(context: OnLibrary) -> None:
    left = by(context, LEFT)
    assert do(left, "load", cartridge="L00001L6", drive="drive0")["to"] == "drive:0"
    assert do(left, "unload", drive="drive0")["to"] == "slot:1"
    assert do(left, "move", cartridge="L00001L6", to="slot:5")["to"] == "slot:5"
    for to in ("slot:9", "slot:17", "shelf", "drive1"):
        assert failure(left, "move", cartridge="L00001L6", to=to) is Failure.NOT_PERMITTED
    for source in ("R00001L6", "slot:9", "S00001L6", "N00001L6"):
        assert failure(left, "move", cartridge=source, to="slot:6") in (Failure.NOT_FOUND, Failure.NOT_PERMITTED)
    assert failure(left, "unload", drive="drive1") is Failure.NOT_PERMITTED
    everything = do(context, "cartridge.list")
    assert {row["barcode"]: row["place"] for row in everything} == {
        "L00001L6": "slot:5", "R00001L6": "slot:9", "N00001L6": "slot:17", "S00001L6": "shelf",
    }  # fmt: skip


def test_it_asks_for_volumes_of_its_part_only(context: OnLibrary) -> None:
    left = by(context, LEFT)
    host = "iqn.1993-08.org.debian:host"
    made = do(left, "request.create", initiator=host, volume=["L00001L6"])
    assert failure(left, "request.create", initiator=host, volume=["R00001L6"]) is Failure.NOT_FOUND
    assert failure(left, "request.create", initiator=host) is Failure.NOT_PERMITTED  # any blank one
    other = do(context, "request.create", initiator=host, volume=["R00001L6"])
    assert [row["request"] for row in do(left, "request.list")] == [made["request"]]
    assert failure(left, "request.show", request=other["request"]) is Failure.NOT_PERMITTED
    assert failure(left, "request.cancel", request=other["request"]) is Failure.NOT_PERMITTED
    assert do(left, "request.cancel", request=made["request"])["request"] == made["request"]


def test_what_is_about_the_whole_is_refused(context: OnLibrary) -> None:
    refused = [name for name, verb in VERBS.items() if not verb.confinable]
    assert {"status", "shutdown", "token.create", "zone.list", "audit.list", "session.list"} <= set(refused)
    for caller in (LEFT, POOLS):
        for name in ("status", "zone.list", "session.list"):
            assert failure(by(context, caller), name) is Failure.NOT_PERMITTED


def test_a_token_for_a_pool_that_is_not_there_reaches_nothing(context: OnLibrary) -> None:
    pools = by(context, POOLS)
    for nouns in ("cartridge", "drive", "partition", "pool"):
        assert do(pools, f"{nouns}.list") == []
    assert failure(pools, "load", cartridge="L00001L6", drive="drive0") is Failure.NOT_PERMITTED


def test_who_is_for_a_partition_and_a_pool_reaches_what_is_in_both(context: OnLibrary) -> None:
    do(context, "pool.create", name="both", barcodes="*1L6")
    both = by(context, Caller("token both", Scope.OPERATE, frozenset(["left"]), frozenset(["both"])))
    assert [row["barcode"] for row in do(both, "cartridge.list")] == ["L00001L6"]
    assert failure(both, "request.create", initiator="iqn.1993-08.org.debian:host", pool="both") is (
        Failure.NOT_PERMITTED  # a blank one of the pool would be outside the partition
    )

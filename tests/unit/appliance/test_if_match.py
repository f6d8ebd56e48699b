"""If-Match: whatever is changed, removed or ended is what its ETag says, or stays as it is."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.broker.broker import Broker
from appliance.failures import Failure, OperatorError
from appliance.operations import VERBS
from appliance.operations.verb import OnLibrary
from appliance.operations.versions import tag_of
from appliance.web.app import make_app
from appliance.web.routes import path_of
from tests.support.in_process import declared, do
from tests.support.waiting import eventually
from tests.unit.appliance.test_pools import CONFIG, HOST, POOLS

PARTITION = '[[partitions]]\nname = "left"\nslots = "1-8"\ndrives = ["drive0"]\n'
ACCOUNT = '[[chap.accounts]]\nuser = "u"\nsecret = "twelve chars"\n'
ZONE = '[[zones]]\nname = "z"\naccounts = ["u"]\n'


@pytest.fixture
def context(tmp_path: Path) -> Iterator[OnLibrary]:
    made = declared(tmp_path, CONFIG + POOLS + PARTITION + ACCOUNT + ZONE)
    do(made, "cartridge.create", barcode="N00001L6", place="slot:9")
    do(made, "token.create", name="t")
    made.library.start()
    yield made
    made.library.stop()
    made.library.close()


def tag(context: OnLibrary, wanted: str, **options: Any) -> str:
    found = tag_of(VERBS[wanted], do(context, wanted, **options))
    assert found is not None
    return found


def refused(context: OnLibrary, verb: str, if_match: str, **options: Any) -> Failure:
    with pytest.raises(OperatorError) as caught:
        do(context, verb, if_match, **options)
    return caught.value.failure


CHANGES: dict[str, tuple[dict[str, Any], str, dict[str, Any], str, dict[str, Any]]] = {
    # what shows it; a change that somebody else makes meanwhile; what is asked for with the ETag of before
    "partition": ({"name": "left"}, "partition.change", {"barcodes": "A*"}, "partition.delete", {"whole": True}),
    "pool": ({"name": "logs"}, "pool.change", {"barcodes": "LO*"}, "pool.change", {"add_cartridges": "N00001L6"}),
    "zone": ({"name": "z"}, "zone.change", {"networks": "192.0.2.0/24"}, "zone.delete", {"open": True}),
    "account": (
        {"user": "u"},
        "account.change",
        {"secret": "another secret"},
        "account.change",
        {"secret": "a third secret"},
    ),
    "cartridge": ({"barcode": "N00001L6"}, "cartridge.protect", {"protected": True}, "cartridge.delete", {}),
}


def test_a_weak_tag_matches_nothing(context: OnLibrary) -> None:
    """RFC 9110 13.1.1: strong comparison."""
    seen = tag(context, "pool.show", name="logs")
    assert refused(context, "pool.delete", f"W/{seen}", name="logs") is Failure.CHANGED
    do(context, "pool.delete", f'"other", {seen}', name="logs")


@pytest.mark.parametrize("noun", CHANGES)
def test_a_change_of_what_has_changed_is_refused(noun: str, context: OnLibrary) -> None:
    one, other, by_others, wanted, given = CHANGES[noun]
    seen = tag(context, f"{noun}.show", **one)
    assert tag(context, f"{noun}.show", **one) == seen
    do(context, other, **one, **by_others)
    before = do(context, f"{noun}.show", **one)
    assert refused(context, wanted, seen, **one, **given) is Failure.CHANGED
    assert do(context, f"{noun}.show", **one) == before
    do(context, wanted, tag(context, f"{noun}.show", **one), **one, **given)


def test_a_token_is_revoked_as_it_was_seen(context: OnLibrary) -> None:
    seen = tag(context, "token.show", name="t")
    do(context, "token.revoke", name="t")
    assert refused(context, "token.revoke", seen, name="t") is Failure.NOT_FOUND
    do(context, "token.create", name="t", scope="operate")  # another one of that name
    assert refused(context, "token.revoke", seen, name="t") is Failure.CHANGED
    do(context, "token.revoke", tag(context, "token.show", name="t"), name="t")


def test_a_request_is_cancelled_as_it_was_seen(context: OnLibrary) -> None:
    made = do(context, "request.create", initiator=HOST, volume=["N00001L6"])
    request, queued = made["request"], tag_of(VERBS["request.show"], made) or ""
    assert made["state"] == "queued"
    eventually(lambda: do(context, "request.show", request=request)["state"] == "granted")
    for verb in ("request.cancel", "grant.release", "grant.revoke"):
        assert refused(context, verb, queued, request=request) is Failure.CHANGED
    granted = tag(context, "request.show", request=request)
    do(context, "grant.renew", request=request)  # its lease is no version of it
    do(context, "grant.release", granted, request=request)
    assert refused(context, "request.cancel", granted, request=request) is Failure.CHANGED


def test_the_broker_makes_no_step_between_the_look_and_the_change(
    context: OnLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = do(context, "request.create", initiator=HOST, volume=["N00001L6"])["request"]
    eventually(lambda: do(context, "request.show", request=request)["state"] == "granted")
    assert context.library.broker is not None
    requests, end, free = context.library.broker.requests, Broker.end, list[bool]()

    def watched(broker: Broker, *what: Any) -> Any:
        stranger = threading.Thread(target=lambda: free.append(requests.changing.acquire(blocking=False)))
        stranger.start()
        stranger.join()
        return end(broker, *what)

    monkeypatch.setattr(Broker, "end", watched)
    do(context, "grant.release", tag(context, "request.show", request=request), request=request)
    assert free == [False]


def test_configuration_and_working_keys(context: OnLibrary) -> None:
    shown, keys = tag(context, "configuration.show"), tag(context, "key.list")
    do(context, "pool.delete", name="logs")
    assert refused(context, "configuration.apply", shown) is Failure.CHANGED
    do(context, "configuration.apply", tag(context, "configuration.show"))
    do(context, "key.rotate", keys)
    for verb, given in {"key.rotate": {}, "key.deny": {"tag": "x"}, "key.allow": {"tag": "x"}}.items():
        assert refused(context, verb, keys, **given) is Failure.CHANGED


def test_what_moves_by_itself_makes_no_version(context: OnLibrary) -> None:
    partition, pool = tag(context, "partition.show", name="left"), tag(context, "pool.show", name="logs")
    do(context, "cartridge.create", barcode="LOG001L6", place="slot:1")
    assert do(context, "partition.show", name="left")["cartridges"] == do(context, "pool.show", name="logs")["holds"]
    assert tag(context, "partition.show", name="left") == partition
    assert tag(context, "pool.show", name="logs") == pool


def test_a_dry_run_is_no_version_of_what_is(context: OnLibrary) -> None:
    foreseen = do(context, "zone.change", name="z", networks="192.0.2.0/24", dry_run=True)
    assert tag_of(VERBS["zone.change"], foreseen) is None


def test_a_secret_s_version_tells_nothing_of_it(context: OnLibrary) -> None:
    version = do(context, "account.show", user="u")["version"]
    do(context, "account.change", user="u", secret="another secret")
    assert do(context, "account.show", user="u")["version"] != version
    do(context, "account.change", user="u", secret="twelve chars")
    assert do(context, "account.show", user="u")["version"] == version


def test_the_document_says_which_verbs_take_it() -> None:
    app = make_app(lambda progress: None, threading.Event())  # type: ignore[arg-type, return-value]
    document = app.openapi()
    for verb in VERBS.values():
        post = document["paths"][path_of(verb.name)]["post"]
        takes = "If-Match" in [parameter["name"] for parameter in post.get("parameters", [])]
        assert takes == bool(verb.changes), verb.name
        if verb.changes:
            assert f"If-Match: the ETag of {verb.changes}" in post["description"]
            shown = document["paths"][path_of(verb.changes)]["get"]
            assert "ETag" in shown["responses"]["200"]["headers"]

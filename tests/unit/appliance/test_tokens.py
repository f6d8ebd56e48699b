"""Tokens: what is kept of them, whom they let in, until when."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from appliance.access import tokens as tokens_module
from appliance.access.caller import Scope
from appliance.access.tokens import NoSuchToken, TokenRefused, Tokens
from appliance.failures import Failure, OperatorError
from appliance.operations import setup
from tests.support.database import new_database, open_again
from tests.unit.appliance.offline import offline
from vlib_images.library.database import events, schema
from vlib_images.library.database.database import Database
from vlib_images.library.database.errors import StateDamaged


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return new_database(tmp_path)


def test_a_token_has_256_random_bits_and_only_its_digest_is_kept(database: Database, tmp_path: Path) -> None:
    tokens = Tokens(database)
    made, secret = tokens.create("payroll", Scope.OPERATE)
    assert secret.startswith("tapebay_")
    assert len(secret) == len("tapebay_") + 43  # 256 bits in base64url
    assert made.digest == hashlib.sha256(secret.encode()).hexdigest()
    assert len({Tokens.create(tokens, f"t{n}", Scope.READ)[1] for n in range(100)}) == 100
    database.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert secret.encode() not in kept
    assert secret.removeprefix("tapebay_").encode() not in kept
    assert secret not in repr(made)


def test_it_opens_until_it_is_revoked_or_expires(database: Database, tmp_path: Path, monkeypatch: Any) -> None:
    tokens = Tokens(database)
    made, secret = tokens.create("a", Scope.READ, partitions=frozenset(["left"]), valid_ms=60_000)
    assert tokens.shown(secret) is made
    assert tokens.with_digest(made.digest) is made
    for wrong in ("", secret[:-1], secret + "x", secret.upper(), "ä" * 20, "x" * 10_000, made.digest):
        assert tokens.shown(wrong) is None
    database.close()
    again = Tokens(open_again(tmp_path))
    assert again.all() == [made]
    later = time.time_ns() + 60_000_000_000
    with monkeypatch.context() as patch:
        patch.setattr(tokens_module.time, "time_ns", lambda: later)
        assert again.shown(secret) is None
    again.revoke("a")
    assert again.shown(secret) is None
    assert again.with_digest(made.digest) is None
    with pytest.raises(NoSuchToken):
        again.revoke("a")
    assert again.create("a", Scope.READ)[1] != secret


def test_names_are_unique_and_their_number_is_bounded(database: Database, monkeypatch: Any) -> None:
    monkeypatch.setattr(tokens_module, "MOST_TOKENS", 2)
    tokens = Tokens(database)
    tokens.create("a", Scope.READ)
    with pytest.raises(TokenRefused, match="there is a token a already"):
        tokens.create("a", Scope.READ)
    tokens.create("b", Scope.READ)
    with pytest.raises(TokenRefused, match="there are 2 tokens"):
        tokens.create("c", Scope.READ)


def test_a_damaged_row_is_not_believed(database: Database) -> None:
    Tokens(database).create("a", Scope.READ)
    with database.change() as connection:
        connection.execute(update(schema.tokens).values(scope="administer"))
    with pytest.raises(StateDamaged, match="token a fails its checksum"):
        Tokens(database)


def test_the_audit_record_tells_of_it_and_of_no_secret(database: Database) -> None:
    tokens = Tokens(database)
    made, secret = tokens.create("a", Scope.OPERATE, pools=frozenset(["scratch"]))
    tokens.revoke("a")
    with database.read() as connection:
        rows = connection.execute(select(schema.events).order_by(schema.events.c.id)).all()
        told = [(event.action, event.subject) for event in events.latest(connection, 5)]
    assert told == [("token revoked", "a"), ("token created", "a")]
    assert json.loads(rows[0].details)["pools"] == ["scratch"]
    assert secret not in repr(rows)
    assert made.digest not in repr(rows)


def test_the_verbs(tmp_path: Path) -> None:
    config = setup.create(tmp_path / "lib", setup.plan(tmp_path / "lib", portal="127.0.0.1:0"))
    offline(config, "partition.create", name="left", slots="1-2")
    offline(config, "partition.create", name="right", slots="3-4")
    made = offline(config, "token.create", name="payroll", scope="operate", partitions="left, right", days=1)
    assert made["token"].startswith("tapebay_")
    (listed,) = offline(config, "token.list")
    assert listed["partitions"] == ["left", "right"]
    assert listed["expires_at_ms"] - listed["created_at_ms"] == 86_400_000
    assert "token" not in listed
    assert offline(config, "token.show", name="payroll") == listed
    for name, given in [("token.create", {"name": "payroll"}), ("token.show", {"name": "other"})]:
        with pytest.raises(OperatorError):
            offline(config, name, **given)
    with pytest.raises(OperatorError) as caught:
        offline(config, "token.create", name="x", partitions=" , ")
    assert caught.value.failure is Failure.USAGE
    for name in ("ünïcode", "a b", "", "x" * 64, ".hidden", "a\n"):
        with pytest.raises(OperatorError, match=r"^name: must match \^\[A-Za-z0-9\]\[A-Za-z0-9._-\]\{0,62\}\$, not "):
            offline(config, "token.create", name=name)
    offline(config, "token.revoke", name="payroll")
    assert offline(config, "token.list") == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"partitions": "left,lfet"}, "there is no partition 'lfet'; the library has left, right"),
        ({"pools": "databases"}, "there is no pool 'databases'; the library has logs"),
        ({"partitions": "left", "pools": "logs,left"}, "there is no pool 'left'; the library has logs"),
        ({"partitions": "a b"}, "there is no partition 'a b'; the library has left, right"),
    ],
)
def test_a_token_is_for_what_is_there(tmp_path: Path, given: dict[str, str], said: str) -> None:
    config = setup.create(tmp_path / "lib", setup.plan(tmp_path / "lib", portal="127.0.0.1:0"))
    offline(config, "partition.create", name="left", slots="1-2")
    offline(config, "partition.create", name="right", slots="3-4")
    offline(config, "pool.create", name="logs", barcodes="L*")
    with pytest.raises(OperatorError) as caught:
        offline(config, "token.create", name="payroll", **given)
    assert (caught.value.failure, str(caught.value)) == (Failure.NOT_FOUND, said)
    assert offline(config, "token.list") == []


def test_where_there_are_no_pools_a_token_is_for_none(tmp_path: Path) -> None:
    config = setup.create(tmp_path / "lib", setup.plan(tmp_path / "lib", portal="127.0.0.1:0"))
    with pytest.raises(OperatorError, match="there is no pool 'logs'; the library has none"):
        offline(config, "token.create", name="payroll", pools="logs")

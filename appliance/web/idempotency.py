"""Idempotency keys: a request that is sent again with the same key is not done again, and gets the first answer.

A row says that a key's request is at work before it is begun, and holds its answer afterwards, so that this holds when
the daemon was killed meanwhile too. Answers may hold secrets (a grant's, a new token): they are encrypted with a key
that is made from the caller's token and the idempotency key, neither of which is in the database.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import threading
import time
import zlib
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, delete, func, insert, select, update

from appliance.failures import Failure, OperatorError
from vlib_images.library.database import schema
from vlib_images.library.database.database import Database

KEPT_MS: Final = 24 * 3_600_000
MOST_KEYS_OF_A_CALLER: Final = 1000
MOST_KEYS: Final = 20_000
LIMIT_KEY_CHARACTERS: Final = 255
LIMIT_ANSWER_BYTES: Final = 32 << 10  # compressed
NONCE_BYTES: Final = 12

_table = schema.idempotency_keys


class AnotherRequest(Exception):
    """The key came with another request before."""


class StillAtWork(OperatorError):
    """The first request with the key is: the same may be asked again."""

    def __init__(self) -> None:
        super().__init__(Failure.BUSY, "the first request with this Idempotency-Key is still at work")


@dataclass(frozen=True)
class Once:
    """A request that is to be done once. secret: from which the answer's encryption is made."""

    caller: str
    key: str = field(repr=False)
    request: str
    secret: bytes = field(repr=False)

    @classmethod
    def of(cls, caller: str, authorization: str, key: str, request: str) -> Once:
        """Raises OperatorError USAGE for what cannot be a key."""
        if not (0 < len(key) <= LIMIT_KEY_CHARACTERS and key.isascii() and key.isprintable()):
            message = f"an Idempotency-Key has 1 to {LIMIT_KEY_CHARACTERS} printable ASCII characters"
            raise OperatorError(Failure.USAGE, message)
        secret = hashlib.sha256(f"tapebay idempotency\0{authorization}\0{key}".encode("utf-8", "replace")).digest()
        digest = hmac.new(secret, request.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
        return cls(caller, hashlib.sha256(key.encode()).hexdigest(), digest, secret)

    def encrypted(self, answer: Any) -> bytes:
        """For the row. Raises ValueError: too long."""
        content = zlib.compress(json.dumps(answer, separators=(",", ":")).encode())
        if len(content) > LIMIT_ANSWER_BYTES:
            raise ValueError
        nonce = os.urandom(NONCE_BYTES)
        return nonce + AESGCM(self.secret).encrypt(nonce, content, self.caller.encode())

    def decrypted(self, kept: bytes) -> Any:
        """Raises InvalidTag: it was kept for another token, or is damaged."""
        content = AESGCM(self.secret).decrypt(kept[:NONCE_BYTES], kept[NONCE_BYTES:], self.caller.encode())
        return json.loads(zlib.decompress(content))


class IdempotencyKeys:
    """Those of all callers. Thread-safe; blocks on the database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._changing = threading.Lock()
        self._at_work: set[tuple[str, str]] = set()

    def begin(self, once: Once) -> Any:
        """None: it is to be done now, then finish() or forget() it. Else the answer of the first time.

        Raises AnotherRequest; StillAtWork; OperatorError REFUSED when nobody knows whether it was done, BUSY;
        OSError."""
        with self._changing:
            now = time.time_ns() // 1_000_000
            with self._database.read() as connection:
                row = connection.execute(select(_table).where(*_this(once))).one_or_none()
            if row is not None and ((once.caller, once.key) in self._at_work or row.at_ms > now - KEPT_MS):
                return self._answer_of(row, once)
            with self._database.change() as connection:
                _make_room(connection, once, now, [key for _, key in self._at_work])
                connection.execute(
                    insert(_table), [{"caller": once.caller, "key": once.key, "request": once.request, "at_ms": now}]
                )
            self._at_work.add((once.caller, once.key))
            return None

    def finish(self, once: Once, answer: Any) -> None:
        """It is done, and this is what was answered. Raises OSError, and the row says as before that it is at work."""
        try:
            kept = once.encrypted(answer)
        except ValueError:
            kept = once.encrypted({"too_long": True})
        with self._changing:
            self._at_work.discard((once.caller, once.key))
            with self._database.change() as connection:
                connection.execute(update(_table).where(*_this(once)).values(answer=kept))

    def forget(self, once: Once) -> None:
        """It was refused and nothing was done: the key may be used again. Raises OSError."""
        with self._changing:
            self._at_work.discard((once.caller, once.key))
            with self._database.change() as connection:
                connection.execute(delete(_table).where(*_this(once)))

    def _answer_of(self, row: Any, once: Once) -> Any:
        if not hmac.compare_digest(row.request, once.request):
            raise AnotherRequest
        if row.answer is None:
            if (once.caller, once.key) in self._at_work:
                raise StillAtWork
            message = "the daemon stopped while this was at work: look whether it was done, then use another key"
            raise OperatorError(Failure.REFUSED, message)
        try:
            return once.decrypted(row.answer)
        except InvalidTag:
            raise AnotherRequest from None


def _this(once: Once) -> tuple[Any, Any]:
    return _table.c.caller == once.caller, _table.c.key == once.key


def _make_room(connection: Connection, once: Once, now: int, at_work: list[str]) -> None:
    """Those that have expired go, and of one caller's too many the oldest; not those whose request is at work, which
    would be done again. Raises OperatorError BUSY."""
    ended = _table.c.key.not_in(at_work)
    connection.execute(delete(_table).where(_table.c.at_ms <= now - KEPT_MS, ended))
    connection.execute(delete(_table).where(*_this(once)))
    mine = connection.scalars(
        select(_table.c.key).where(_table.c.caller == once.caller, ended).order_by(_table.c.at_ms.desc())
    ).all()
    for key in mine[MOST_KEYS_OF_A_CALLER - 1 :]:
        connection.execute(delete(_table).where(_table.c.caller == once.caller, _table.c.key == key))
    if (connection.scalar(select(func.count()).select_from(_table)) or 0) >= MOST_KEYS:
        raise OperatorError(
            Failure.BUSY, f"{MOST_KEYS} idempotency keys are kept; each is for a day, then there is room"
        )

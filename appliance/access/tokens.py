"""Bearer tokens: 256 random bits that an application shows instead of a password. Only their SHA-256 is kept, so that
nobody who reads the database, a backup of it or a log can use one.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import delete, insert, select

from appliance.access.caller import Caller, Scope
from vlib_images.library.database import schema
from vlib_images.library.database.database import Database
from vlib_images.library.database.errors import StateDamaged
from vlib_images.library.database.events import Event

PREFIX: Final = "tapebay_"  # so that who finds one in a file or a log knows what it opens
SECRET_BYTES: Final = 32
MOST_TOKENS: Final = 1000
LONGEST_CHARACTERS: Final = 128  # of what is looked at as a token at all

_table = schema.tokens


class NoSuchToken(Exception):
    """There is no token of that name."""


class TokenRefused(Exception):
    """A token of that name is there already, or there are too many."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token without its secret. digest: SHA-256 in hexadecimal. expires_at_ms: since 1970-01-01 00:00 UTC."""

    name: str
    digest: str
    caller: Caller
    created_at_ms: int
    expires_at_ms: int | None

    def expired(self, now_ms: int) -> bool:
        """Whether it opens nothing any more."""
        return self.expires_at_ms is not None and now_ms >= self.expires_at_ms


class Tokens:
    """All of them, in memory as in the database. Thread-safe."""

    def __init__(self, database: Database) -> None:
        """Raises StateDamaged, OSError."""
        self._database = database
        self._changing = threading.Lock()
        self._by_name = {token.name: token for token in _load(database)}
        self._by_digest = {token.digest: token for token in self._by_name.values()}
        self._watchers: list[Callable[[], None]] = []
        self.used_at_ms: dict[str, int] = {}
        """When each was last shown, since this process began."""

    def watch(self, told: Callable[[], None]) -> None:
        """Call told() when there is another token, or one less. It must not wait."""
        self._watchers.append(told)

    def all(self) -> list[Token]:
        """By name."""
        return sorted(self._by_name.copy().values(), key=lambda token: token.name)

    def get(self, name: str) -> Token:
        """Raises NoSuchToken."""
        try:
            return self._by_name[name]
        except KeyError:
            raise NoSuchToken(f"there is no token {name!r}; see: tapebay token list") from None

    def create(
        self,
        name: str,
        scope: Scope,
        *,
        partitions: frozenset[str] | None = None,
        pools: frozenset[str] | None = None,
        valid_ms: int | None = None,
    ) -> tuple[Token, str]:
        """A new one, and what its holder shows, which cannot be had again. Raises TokenRefused, OSError."""
        secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        now = time.time_ns() // 1_000_000
        digest = digest_of(secret)
        caller = Caller(f"token {name}", scope, partitions, pools, digest.encode())
        token = Token(name, digest, caller, now, None if valid_ms is None else now + valid_ms)
        with self._changing:
            if name in self._by_name:
                raise TokenRefused(f"there is a token {name} already; revoke it first, or choose another name")
            if len(self._by_name) >= MOST_TOKENS:
                raise TokenRefused(f"there are {MOST_TOKENS} tokens; revoke those that nobody needs")
            details = {
                "scope": scope.value,
                "expires_at_ms": token.expires_at_ms,
                "partitions": _listed(partitions),
                "pools": _listed(pools),
            }
            with self._database.change(Event("token created", name, details)) as connection:
                connection.execute(insert(_table), [_row(token)])
            self._by_name[name] = self._by_digest[token.digest] = token
            self._tell()
        return token, secret

    def revoke(self, name: str) -> Token:
        """It opens nothing from now on. Raises NoSuchToken, OSError."""
        with self._changing:
            token = self.get(name)
            with self._database.change(Event("token revoked", name)) as connection:
                connection.execute(delete(_table).where(_table.c.name == name))
            del self._by_name[name], self._by_digest[token.digest]
            self.used_at_ms.pop(name, None)
            self._tell()
        return token

    def _tell(self) -> None:
        for told in self._watchers:
            told()

    def with_digest(self, digest: str) -> Token | None:
        """The token whose SHA-256 that is, or None: there is none, or it has expired.

        What takes longer for a digest that begins like a stored one tells nothing: nobody can choose a digest."""
        token = self._by_digest.get(digest)
        now = time.time_ns() // 1_000_000
        if token is None or not hmac.compare_digest(token.digest, digest) or token.expired(now):
            return None
        self.used_at_ms[token.name] = now
        return token

    def shown(self, secret: str) -> Token | None:
        """The token that somebody shows, or None."""
        return self.with_digest(digest_of(secret)) if can_be_a_token(secret) else None


def can_be_a_token(secret: str) -> bool:
    """Whether it is worth being looked at."""
    return len(secret) <= LONGEST_CHARACTERS and secret.isascii()


def digest_of(secret: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _row(token: Token) -> dict[str, Any]:
    caller = token.caller
    values = {
        "name": token.name,
        "digest": token.digest,
        "scope": caller.scope.value,
        "partitions": _document(caller.partitions),
        "pools": _document(caller.pools),
        "created_at_ms": token.created_at_ms,
        "expires_at_ms": token.expires_at_ms,
    }
    return schema.seal(_table, values)


def _load(database: Database) -> list[Token]:
    with database.read() as connection:
        rows = list(connection.execute(select(_table)))
    found = []
    for row in rows:
        if not schema.is_sealed(_table, row):
            raise StateDamaged(database.path, f"damaged: token {row.name} fails its checksum")
        reach = _names(row.partitions), _names(row.pools)
        caller = Caller(f"token {row.name}", Scope(row.scope), *reach, row.digest.encode())
        found.append(Token(row.name, row.digest, caller, row.created_at_ms, row.expires_at_ms))
    return found


def _listed(names: frozenset[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)


def _document(names: frozenset[str] | None) -> str | None:
    return None if names is None else json.dumps(sorted(names))


def _names(document: str | None) -> frozenset[str] | None:
    return None if document is None else frozenset(json.loads(document))

"""Who asks: on TCP a token says it, on the control socket whoever may open it is the owner."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from appliance.access.caller import CALLER_KEY, CONNECTION_KEY
from appliance.access.tokens import Token, can_be_a_token, digest_of
from appliance.failures import Failure, OperatorError
from appliance.web.backend import Backend
from appliance.web.problems import problem
from appliance.web.refusals import Refusals
from scsi_targets.iscsi.failed_logins import FailedLogins

TOKEN_KEY: Final = "tapebay.token"  # of an ASGI scope: the Token that was shown, if the caller is not the owner
LIMIT_HEADERS: Final = 100
LIMIT_HEAD_BYTES: Final = 32 << 10
FAILURES_AT_ONCE = 300  # wrong tokens of one peer, then one every FAILURE_SECONDS
FAILURE_SECONDS = 2.0


class TokenAdmission:
    """Lets in who has shown a token, and nobody else; before the body of a request is read.

    Whoever shows too many wrong ones is told to wait. A right one is taken all the same: 256 random bits are not
    guessed, and one misconfigured program must not lock out the others on its host."""

    def __init__(self, app: ASGIApp, backend: Backend, refusals: Refusals) -> None:
        self._app = app
        self._backend = backend
        self._refusals = refusals
        self._failed = FailedLogins(FAILURES_AT_ONCE, FAILURE_SECONDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if len(headers) > LIMIT_HEADERS or _head_bytes(scope) > LIMIT_HEAD_BYTES:
            message = f"the head of a request has at most {LIMIT_HEADERS} fields and {LIMIT_HEAD_BYTES} bytes"
            await self._refuse(scope, receive, send, OperatorError(Failure.USAGE, message), 431)
            return
        if CALLER_KEY not in scope:
            try:
                token = await self._shown(headers)
            except OperatorError as error:  # the daemon is gone, or has no thread to spare
                await problem(error, headers={"Connection": "close"})(scope, receive, send)
                return
            if token is None:
                await self._refuse_stranger(scope, receive, send, "authorization" in headers)
                return
            scope[CALLER_KEY], scope[TOKEN_KEY] = token.caller, token
            if (place := scope.get(CONNECTION_KEY)) is not None:
                place.show_token()
        await self._app(scope, receive, send)

    async def _shown(self, headers: Headers) -> Token | None:
        given = headers.getlist("authorization")
        if len(given) != 1:
            return None
        scheme, _, secret = given[0].partition(" ")
        if scheme.lower() != "bearer" or not can_be_a_token(secret.strip()):
            return None
        return await self._backend.token(digest_of(secret.strip()))

    async def _refuse_stranger(self, scope: Scope, receive: Receive, send: Send, shown: bool) -> None:
        peer = peer_of(scope)
        if shown and not self._failed.admit(peer, peer):
            error = OperatorError(Failure.BUSY, "too many tokens that open nothing came from this address; wait")
            await self._refuse(scope, receive, send, error, 429, {"Retry-After": f"{FAILURE_SECONDS:.0f}"})
            return
        if shown:
            self._failed.failed(peer, peer)
        what = "this token opens nothing: it is wrong, revoked or expired" if shown else "show a token"
        message = f"{what}; Authorization: Bearer TOKEN, with what `tapebay token create` prints"
        headers = {"WWW-Authenticate": 'Bearer realm="tapebay"' + (', error="invalid_token"' if shown else "")}
        await self._refuse(scope, receive, send, OperatorError(Failure.NOT_PERMITTED, message), 401, headers)

    async def _refuse(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        error: OperatorError,
        status: int,
        headers: dict[str, str] | None = None,
    ) -> None:
        await self._refusals.tell(scope, error, status)
        # Closed, so that an endless body or a flood of such requests needs new connections.
        await problem(error, status, {**(headers or {}), "Connection": "close"})(scope, receive, send)


def _head_bytes(scope: Scope) -> int:
    fields = sum(len(name) + len(value) for name, value in scope["headers"])
    return fields + len(scope.get("raw_path") or b"") + len(scope["query_string"])


def peer_of(scope: Scope) -> str:
    """The address of the client; "" of who uses the control socket."""
    client = scope.get("client")
    return str(client[0]) if client else ""

"""HTTP/1.1 on one connection: uvicorn's, with an end to every wait for a client."""

import asyncio
import json
import re
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

IDLE_SECONDS = 60
TRANSFER_SECONDS = 30  # for a request to arrive whole, and for what is sent at once to be taken
LIMIT_HEAD_BYTES = 32 << 10

NOT_HTTP = {
    "type": "about:blank",
    "title": "usage",
    "status": 400,
    "detail": "this is no HTTP/1.1 request, or its head is too long; the connection is closed",
    "code": "usage",
}


_ABSOLUTE: Final = re.compile(rb"https?://[^/?]*", re.IGNORECASE)


class _Connection(h11.Connection):
    """Two things that RFC 9112 asks of a server and h11 leaves to it."""

    def next_event(self) -> Any:
        """Raises h11.RemoteProtocolError."""
        event = super().next_event()
        if not isinstance(event, h11.Request):
            return event
        names = {name for name, _ in event.headers}
        if {b"transfer-encoding", b"content-length"} <= names:
            # 6.1: where it ends is one thing to us and perhaps another to a proxy, so what follows is nobody's request.
            raise h11.RemoteProtocolError("both Transfer-Encoding and Content-Length")
        if (absolute := _ABSOLUTE.match(event.target)) is not None:  # 3.2.2: as a proxy is asked, and we may be
            target = b"/" + event.target[absolute.end() :].removeprefix(b"/")
            return h11.Request(
                method=event.method, headers=list(event.headers), target=target, http_version=event.http_version
            )
        return event


class Protocol(H11Protocol):
    """A client that asks for nothing, one that does not finish what it asks, one that does not read the answer: each
    holds one of a server's places, and loses it."""

    _request_timer: asyncio.TimerHandle | None = None
    _answer_timer: asyncio.TimerHandle | None = None

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.conn = _Connection(h11.SERVER, LIMIT_HEAD_BYTES)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=1, low=0)  # writing pauses while anything is unsent; 0 stops TLS at once
        self.timeout_keep_alive_task = self.loop.call_later(IDLE_SECONDS, self.timeout_keep_alive_handler)

    def handle_events(self) -> None:
        super().handle_events()
        begun = self.conn.their_state is h11.SEND_BODY or bool(self.conn.trailing_data[0])
        if not begun or self.conn.their_state is h11.DONE:
            self._request_timer = _cancelled(self._request_timer)
        elif self._request_timer is None:
            self._request_timer = self.loop.call_later(TRANSFER_SECONDS, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        """A problem like every other. In the middle of an answer nothing can be said any more."""
        unanswered = self.conn.our_state is h11.SEND_RESPONSE and (self.cycle is None or self.cycle.response_complete)
        if self.conn.our_state is not h11.IDLE and not unanswered:
            self.transport.abort()
            return
        body = json.dumps(NOT_HTTP).encode()
        headers = [
            ("Content-Type", "application/problem+json"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._answer_timer = self.loop.call_later(TRANSFER_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._answer_timer = _cancelled(self._answer_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._request_timer, self._answer_timer = _cancelled(self._request_timer), _cancelled(self._answer_timer)


def _cancelled(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """None, which is what stands for a timer that does not run."""
    if timer is not None:
        timer.cancel()
    return None

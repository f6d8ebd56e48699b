"""HTTP/1.1 on one connection: uvicorn's, with an end to every wait for a client."""

import asyncio
import json

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


class Protocol(H11Protocol):
    """A client that asks for nothing, one that does not finish what it asks, one that does not read the answer: each
    holds one of a server's places, and loses it."""

    _request_timer: asyncio.TimerHandle | None = None
    _answer_timer: asyncio.TimerHandle | None = None

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
        if self.conn.our_state is not h11.IDLE:
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

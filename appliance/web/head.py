"""HEAD: what GET would answer, without the body (RFC 9110 9.3.2)."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_END: Final[Message] = {"type": "http.response.body", "body": b"", "more_body": False}


class Head:
    """Asks the application with GET and leaves out what comes after the head. A stream without an end (events) is told
    at once that nobody listens."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        answered = asyncio.Event()

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send(_END)
                answered.set()

        async def until_answered() -> Message:
            message = asyncio.ensure_future(receive())
            done = asyncio.ensure_future(answered.wait())
            await asyncio.wait((message, done), return_when=asyncio.FIRST_COMPLETED)
            done.cancel()
            if message.done() and not answered.is_set():
                return message.result()
            message.cancel()
            return {"type": "http.disconnect"}

        await self._app({**scope, "method": "GET"}, until_answered, send_head)

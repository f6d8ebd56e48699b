"""Requests that were not understood or not allowed, in the audit record: so many of them that whoever makes them is
noticed, so few that they never push out what was done.
"""

from __future__ import annotations

from typing import Any, Final

from starlette.types import Scope

from appliance.access.caller import CALLER_KEY
from appliance.failures import Failure, OperatorError
from appliance.web.backend import Backend
from scsi_targets.iscsi.log_lines import LogLines
from vlib_images.library.database.events import Event

LINES_AT_ONCE: Final = 20  # of one peer; all together five times as many
LINE_SECONDS: Final = 300.0
STRANGER: Final = "stranger"
LIMIT_DETAIL_CHARACTERS: Final = 300


class Refusals:
    """Writes a line for each, as long as the peer has an allowance; what is left out is counted in the next line."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lines = LogLines(LINES_AT_ONCE, LINE_SECONDS, together=5)

    async def malformed(self, peer: str) -> None:
        """The same of what was no HTTP at all."""
        error = OperatorError(Failure.USAGE, "this is no HTTP/1.1 request, or its head is too long")
        await self.tell({"client": (peer, 0), "method": "?", "path": "not HTTP"}, error, 400)

    async def tell(self, scope: Scope, error: OperatorError, status: int) -> None:
        """One line, on the disk when this returns; never raises."""
        peer = str(scope["client"][0]) if scope.get("client") else "control socket"
        more = self._lines.admit(peer)
        if more is None:
            return
        caller = scope.get(CALLER_KEY)
        details: dict[str, Any] = {"status": status, "code": error.failure.code, "peer": peer, **more}
        details["detail"] = str(error)[:LIMIT_DETAIL_CHARACTERS].encode("ascii", "backslashreplace").decode()
        subject = f"{scope['method']} {scope['path']}"[:200].encode("ascii", "backslashreplace").decode()[:255]
        event = Event("request refused", subject, details)
        await self._backend.tell(STRANGER if caller is None else caller.name, event)

"""Who acts: an operator, an initiator, or the library by itself. The audit record asks for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

LIBRARY = "library"
OPERATOR = "operator"
_actor: ContextVar[str] = ContextVar("actor", default=LIBRARY)


@contextmanager
def acting_as(actor: str) -> Iterator[None]:
    """What this thread changes in the block is recorded as done by `actor` (OPERATOR, an initiator's name)."""
    token = _actor.set(actor[:255])
    try:
        yield
    finally:
        _actor.reset(token)


def actor() -> str:
    """Who acts now."""
    return _actor.get()

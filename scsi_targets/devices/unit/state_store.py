"""What a logical unit asks of the store that keeps its state: reservations, mode pages, counts."""

from typing import Any, Protocol


class StateStore(Protocol):
    """Where a logical unit keeps what survives power loss. Values are JSON. put() is durable when it returns, and
    nobody calls it under a unit's lock; put_soon() waits for nothing, and a crash may lose what
    it was given in the last second."""

    def get(self, key: str, /) -> Any: ...
    def put(self, key: str, value: Any, /) -> None: ...
    def put_soon(self, key: str, value: Any, /) -> None: ...


class MemoryStore:
    """A StateStore that forgets: for tests, and for logical units that are made anew at each start."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def get(self, key: str, /) -> Any:
        return self._values.get(key)

    def put(self, key: str, value: Any, /) -> None:
        self._values[key] = value

    def put_soon(self, key: str, value: Any, /) -> None:
        self._values[key] = value

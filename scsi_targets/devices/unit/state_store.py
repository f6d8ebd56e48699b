"""What a logical unit asks of the store that keeps its state: reservations, mode pages, counts."""

from typing import Any, Protocol


class StateStore(Protocol):
    """Where a logical unit keeps what survives power loss. Values are JSON; put() is durable when it returns."""

    def get(self, key: str, /) -> Any: ...
    def put(self, key: str, value: Any, /) -> None: ...


class MemoryStore:
    """A StateStore that forgets: for tests, and for logical units that are made anew at each start."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def get(self, key: str, /) -> Any:
        return self._values.get(key)

    def put(self, key: str, value: Any, /) -> None:
        self._values[key] = value

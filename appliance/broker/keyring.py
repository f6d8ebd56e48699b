"""Working keys made anew and withdrawn, policy tags denied and allowed: what ends many grants at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from appliance.access.gate import Gate
from appliance.access.keys import WorkingKeys, tag_hash
from appliance.broker import key_store
from appliance.broker.broker import Broker
from appliance.broker.requests import Request
from appliance.broker.states import RequestStateError, RequestStep
from vlib_images.library.state import LibraryState


class StillUsed(Exception):
    """Live grants would end; str() says how many, and what to do."""


class Keyring:
    """Thread-safe. What it changes is kept first and holds from then on, also after a restart; the broker makes no step
    between that and the end of the grants that it concerns."""

    def __init__(self, store: LibraryState, gate: Gate, broker: Broker, look_again: Callable[[], None]) -> None:
        self._store, self._gate, self._broker, self._look_again = store, gate, broker, look_again
        self._changing = threading.Lock()
        self.denied_tags = key_store.denied_tags(store)
        self._tell_gate()

    @property
    def keys(self) -> WorkingKeys:
        """The working keys: never shown to anybody."""
        return self._gate.keys

    def grants_of(self, version: int) -> list[Request]:
        """The live grants whose key a working key made."""
        return [each for each in self._live() if each.key_version == version]

    def rotate(self, *, force: bool = False) -> int:
        """A new working key makes keys from now on; the one before stays valid until the next rotation. Returns the
        version of the new one. Raises StillUsed, OSError."""
        with self._changing, self._broker.requests.changing:
            rotated = self.keys.rotated()
            gone = self.keys.keys.keys() - rotated.keys.keys()
            used = [grant for version in gone for grant in self.grants_of(version)]
            if used and not force:
                raise StillUsed(
                    f"{len(used)} grants would end that were made with the working key before this one; release them, "
                    "or wait, or insist: --force"
                )
            self._replace(rotated)
            self._end(dict.fromkeys((grant.name for grant in used), "the working key of its key was rotated out"))
        return rotated.current

    def withdraw(self, version: int) -> int:
        """Every key that a working key made is revoked; how many grants ended. Raises ValueError: it is the current
        one; KeyError: there is none; OSError."""
        with self._changing, self._broker.requests.changing:
            if version not in self.keys.keys:
                raise KeyError(version)
            self._replace(self.keys.without(version))
            return self._end_denied()

    def deny(self, tag: str) -> int:
        """No key with a policy tag is good any more; how many grants ended. Requests with it that wait are ended by the
        broker, when it looks at them next. Raises OSError."""
        with self._changing, self._broker.requests.changing:
            self._keep_tags(self.denied_tags | {tag})
            return self._end_denied()

    def allow(self, tag: str) -> bool:
        """Ends what deny() began; False: it was not denied. Raises OSError."""
        with self._changing:
            if tag not in self.denied_tags:
                return False
            self._keep_tags(self.denied_tags - {tag})
            return True

    def _live(self) -> list[Request]:
        return [request for request in self._broker.requests.all() if request.state.live]

    def _replace(self, keys: WorkingKeys) -> None:
        key_store.keep_keys(self._store, keys)
        self._gate.keys = keys

    def _keep_tags(self, tags: frozenset[str]) -> None:
        key_store.keep_denied_tags(self._store, tags)
        self.denied_tags = tags
        self._tell_gate()

    def _tell_gate(self) -> None:
        self._gate.deny_tags([tag_hash(tag) for tag in self.denied_tags])

    def _end_denied(self) -> int:
        return self._end({grant.name: why for grant in self._live() if (why := self._broker.denied(grant))})

    def _end(self, reasons: Mapping[str, str]) -> int:
        """Grants, by name; how many ended."""
        ended = 0
        for name, reason in reasons.items():
            try:
                self._broker.end(name, RequestStep.FAIL, reason)
                ended += 1
            except RequestStateError:  # it has ended by itself
                continue
        self._look_again()
        return ended

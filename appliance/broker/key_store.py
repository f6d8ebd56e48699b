"""The gate's working keys and the policy tags that are denied, which the library keeps. Who has a working key makes
keys, so they never leave it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

from appliance.access.keys import WORKING_KEY_BYTES, WorkingKeys
from vlib_images.library.state import JsonValue, LibraryState, StateDamaged

NAMESPACE: Final = "gate"
KEYS: Final = "working_keys"
TAGS: Final = "denied_tags"


def working_keys(store: LibraryState, path: Path) -> WorkingKeys:
    """Those that are kept; at the first time, a new one. path: of the database. Raises StateDamaged, OSError."""
    found = store.get(NAMESPACE, KEYS)
    if found is None:
        made = WorkingKeys.new()
        keep_keys(store, made)
        return made
    try:
        return _decoded(found)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise StateDamaged(path, "it has lost the gate's working keys") from None


def keep_keys(store: LibraryState, keys: WorkingKeys) -> None:
    """Raises OSError."""
    shown: JsonValue = {str(version): key.hex() for version, key in keys.keys.items()}
    store.put(NAMESPACE, KEYS, {"current": keys.current, "keys": shown})


def denied_tags(store: LibraryState) -> frozenset[str]:
    """Those that are kept."""
    found = store.get(NAMESPACE, TAGS)
    return frozenset(str(tag) for tag in found) if isinstance(found, list) else frozenset()


def keep_denied_tags(store: LibraryState, tags: Collection[str]) -> None:
    """Raises OSError."""
    store.put(NAMESPACE, TAGS, list[JsonValue](sorted(tags)))


def _decoded(document: object) -> WorkingKeys:
    assert isinstance(document, dict)
    keys = {int(version): bytes.fromhex(key) for version, key in document["keys"].items()}
    if document["current"] not in keys or any(len(key) != WORKING_KEY_BYTES for key in keys.values()):
        raise ValueError("a working key is missing or has another length")
    return WorkingKeys(keys, document["current"])

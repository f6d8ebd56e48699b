"""Names of initiators, some of them patterns, made ready once to be asked often."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from itertools import chain
from typing import Generic, TypeVar

Meaning = TypeVar("Meaning")


# By so many characters of theirs, patterns are found that a name may match.
_KEY_LENGTH = 4


class Names(Generic[Meaning]):
    """What plain names and patterns (* and ? match any characters) stand for. Never changes. A plain name costs one
    look, whatever their number; patterns are found by the end of their longest piece of text, and then matched."""

    def __init__(self, meanings: Mapping[str, Meaning]) -> None:
        self._exact: dict[str, Meaning] = {}
        self._patterns: defaultdict[str, list[tuple[re.Pattern[str], Meaning]]] = defaultdict(list)
        for name, meaning in meanings.items():
            if "*" in name or "?" in name:
                self._patterns[_key(name)].append((_compiled(name), meaning))
            else:
                self._exact[name] = meaning

    def __contains__(self, name: str) -> bool:
        return bool(self.matching(name))

    def matching(self, name: str) -> list[Meaning]:
        """What stands behind a name: by itself, and by each pattern that it matches."""
        found = [self._exact[name]] if name in self._exact else []
        if not self._patterns:
            return found
        keys = {name[start : start + _KEY_LENGTH] for start in range(len(name) - _KEY_LENGTH + 1)} | {""}
        candidates = chain.from_iterable(self._patterns[key] for key in self._patterns.keys() & keys)
        return found + [meaning for pattern, meaning in candidates if pattern.fullmatch(name)]


def _key(pattern: str) -> str:
    """What is in each name that matches; "" where the pattern has no text long enough."""
    text = max(re.split("[*?]", pattern), key=len)
    return text[-_KEY_LENGTH:] if len(text) >= _KEY_LENGTH else ""


def matches(pattern: str, name: str) -> bool:
    """Whether a plain name or a pattern stands for a name."""
    if "*" in pattern or "?" in pattern:
        return pattern == "*" or _compiled(pattern).fullmatch(name) is not None
    return pattern == name


@lru_cache(maxsize=4096)  # so that a change of content does not compile all patterns again
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile("".join({"*": ".*", "?": "."}.get(each, re.escape(each)) for each in pattern), re.DOTALL)

"""Names of initiators, some of them patterns, made ready once to be asked often."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from copy import copy
from functools import lru_cache
from itertools import chain
from typing import Generic, Self, TypeVar

Meaning = TypeVar("Meaning")

# By so many characters of theirs, patterns are found that a name may match.
_KEY_LENGTH = 4


class Words(Generic[Meaning]):
    """What some words stand for. Never changes; others are made of it, for what differs."""

    def __init__(self, meanings: Mapping[str, Meaning]) -> None:
        self._exact = dict(meanings)

    def get(self, word: str) -> Meaning | None:
        """What that very word stands for."""
        return self._exact.get(word)

    def matching(self, word: str) -> list[Meaning]:
        """What stands behind a word that somebody says: one meaning at most."""
        return [self._exact[word]] if word in self._exact else []

    def but(self, others: Mapping[str, Meaning | None]) -> Self:
        """The same with other meanings of some words; None: without them."""
        made = copy(self)
        made._exact = _but(self._exact, others)
        return made


class Names(Words[Meaning]):
    """What plain names and patterns (* and ? match any characters) stand for. A plain name costs one look, whatever
    their number; patterns are found by the end of their longest piece of text, and then matched."""

    def __init__(self, meanings: Mapping[str, Meaning]) -> None:
        patterns = {name: meaning for name, meaning in meanings.items() if _is_pattern(name)}
        super().__init__({name: meaning for name, meaning in meanings.items() if name not in patterns})
        self._hold(patterns)

    def _hold(self, patterns: Mapping[str, Meaning]) -> None:
        self._patterns = patterns
        self._by_key = defaultdict[str, list[tuple[re.Pattern[str], Meaning]]](list)
        for pattern, meaning in patterns.items():
            self._by_key[_key(pattern)].append((_compiled(pattern), meaning))

    def __contains__(self, name: str) -> bool:
        return bool(self.matching(name))

    def get(self, word: str) -> Meaning | None:
        """What that very name or pattern stands for."""
        return self._patterns.get(word) if _is_pattern(word) else self._exact.get(word)

    def matching(self, word: str) -> list[Meaning]:
        """What stands behind a name: by itself, and by each pattern that it matches."""
        found = super().matching(word)
        if not self._patterns:
            return found
        keys = {word[start : start + _KEY_LENGTH] for start in range(len(word) - _KEY_LENGTH + 1)} | {""}
        candidates = chain.from_iterable(self._by_key[key] for key in self._by_key.keys() & keys)
        return found + [meaning for pattern, meaning in candidates if pattern.fullmatch(word)]

    def but(self, others: Mapping[str, Meaning | None]) -> Self:
        """The same with other meanings of some names and patterns; None: without them."""
        patterns = {word: meaning for word, meaning in others.items() if _is_pattern(word)}
        made = super().but({word: meaning for word, meaning in others.items() if word not in patterns})
        made._hold(_but(self._patterns, patterns))
        return made


def _but(meanings: Mapping[str, Meaning], others: Mapping[str, Meaning | None]) -> dict[str, Meaning]:
    made = dict(meanings)
    for word, meaning in others.items():
        if meaning is None:
            made.pop(word, None)
        else:
            made[word] = meaning
    return made


def _is_pattern(name: str) -> bool:
    return "*" in name or "?" in name


def _key(pattern: str) -> str:
    """What is in each name that matches; "" where the pattern has no text long enough."""
    text = max(re.split("[*?]", pattern), key=len)
    return text[-_KEY_LENGTH:] if len(text) >= _KEY_LENGTH else ""


def matches(pattern: str, name: str) -> bool:
    """Whether a plain name or a pattern stands for a name."""
    if _is_pattern(pattern):
        return pattern == "*" or _compiled(pattern).fullmatch(name) is not None
    return pattern == name


@lru_cache(maxsize=4096)  # so that a change of content does not compile all patterns again
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile("".join({"*": ".*", "?": "."}.get(each, re.escape(each)) for each in pattern), re.DOTALL)

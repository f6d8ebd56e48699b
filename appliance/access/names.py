"""Names of initiators, some of them patterns, made ready once to be asked often."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence


class Names:
    """Which of some numbers a name stands for. Never changes. A plain name costs one look, whatever their number;
    patterns (* and ? match any characters) cost a match each."""

    def __init__(self, named: Iterable[tuple[str, int]]) -> None:
        self._exact: defaultdict[str, list[int]] = defaultdict(list)
        self._patterns: list[tuple[re.Pattern[str], int]] = []
        for name, number in named:
            if "*" in name or "?" in name:
                self._patterns.append((_compiled(name), number))
                continue
            numbers = self._exact[name]
            if not numbers or numbers[-1] != number:  # they come in their order
                numbers.append(number)

    def __contains__(self, name: str) -> bool:
        return name in self._exact or any(pattern.fullmatch(name) for pattern, _ in self._patterns)

    def numbers(self, name: str) -> Sequence[int]:
        """Each once, in their order."""
        exact = self._exact.get(name, [])
        if not self._patterns:
            return exact
        return sorted({*exact, *(number for pattern, number in self._patterns if pattern.fullmatch(name))})


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile("".join({"*": ".*", "?": "."}.get(each, re.escape(each)) for each in pattern), re.DOTALL)

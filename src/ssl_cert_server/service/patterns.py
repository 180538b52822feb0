"""Many RE2 patterns at once."""

from __future__ import annotations

from collections.abc import Sequence

import re2

_MAX_MEMORY = 64 * 1024 * 1024


class PatternSet:
    """Many RE2 patterns matched at once against a whole name; linear in the name's length."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._set = None
        if patterns:
            options = re2.Options()
            options.max_mem = _MAX_MEMORY
            options.log_errors = False
            self._set = re2.Set.FullMatchSet(options)
            for pattern in patterns:
                self._set.Add(pattern)
            self._set.Compile()

    def first(self, name: str) -> int | None:
        """Give the index of the first pattern that matches the whole name."""
        if self._set is None:
            return None
        matching: list[int] | None = self._set.Match(name)
        return min(matching) if matching else None

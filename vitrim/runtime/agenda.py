"""Who acts when: the methods' places by block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..core.schedule import Place
from ..methods import Method


class Agenda:
    """Who acts when, looked up once for a forward: most blocks have nothing to do, and should pay nothing for it."""

    def __init__(self, methods: Iterable[Method]):
        self.acts: dict[tuple[str, int], list[tuple[Method, Place]]] = {}
        for method in methods:
            for place in method.places:
                self.acts.setdefault((method.acts, place.block), []).append((method, place))
        self.watchers = [method for method in methods if method.watches]

    def at(self, when: str, block: int) -> Sequence[tuple[Method, Place]]:
        """The methods that act at this block at this moment, with their places, in the order given."""
        return self.acts.get((when, block), ())

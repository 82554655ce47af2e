"""Token Recycling (arXiv 2408.08696): of every token, the likeliest successors when the target met it last.

The tree has one shape, whatever stands in it: the authors' of 80 nodes in six levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aded_bench.drafters.published import Sketch
from aded_local.step import Beginning, Likely, StepResult
from aded_local.tree import ROOT

SHAPE: Final = "8 84321111 832111112100100101100 5211100010010000001001100 311001000010100 20010000"
"""Children of each node, level by level from the root, the likeliest first; "2.2.2", the authors' default. Spaces are
for reading."""
NODES: Final = 80

Successors = dict[int, list[int]]


def recycle(successors: Successors, tokens: Sequence[int], likely: Likely) -> None:
    """Keep the likeliest successors of ``tokens``, one row of ``likely`` each; a later row replaces an earlier one."""
    for token, row in zip(tokens, likely.tokens.tolist(), strict=True):
        if row[0] >= 0:
            successors[token] = [one for one in row if one >= 0]


class TokenRecycling:
    """See this module's first line."""

    def __init__(self) -> None:
        self._successors: Successors = {}
        self._last = -1

    def begin(self, beginning: Beginning) -> None:
        self._last = int(beginning.new[-1])

    def read_prompt(self, tokens: Sequence[int], likely: Likely) -> None:
        recycle(self._successors, tokens, likely)

    def sketch(self) -> Sketch:
        sketch = Sketch(NODES)
        # Places of the shape; None where no token is known for one.
        places: list[tuple[int, int] | None] = [(ROOT, self._last)]
        for place, children in zip(iter(places), SHAPE.replace(" ", ""), strict=False):
            known = [] if place is None else self._successors.get(place[1], [])
            for rank in range(int(children)):
                if place is None or rank >= len(known):
                    places.append(None)
                    continue
                node = sketch.add(place[0], known[rank], (place[0] == ROOT, rank))
                assert node is not None
                places.append((node, known[rank]))
        return sketch

    def observe(self, result: StepResult) -> None:
        if result.likely is not None:
            recycle(self._successors, [self._last, *result.tree.tokens.tolist()], result.likely)
        self._last = result.tokens[-1]

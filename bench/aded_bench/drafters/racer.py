"""RACER (arXiv 2604.14885): passages of the text that go on from here, then a tree of last-seen successors.

Passages of ten tokens lie in a trie of limited size, the least recently used leaves of which give way. The authors'
Aho-Corasick automaton finds all ends of the text that occur in the trie by its failure links. Here they are looked up
one by one: the same states in more time. (The authors renew the links after the prompt only, and lose some states.)
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Final

from aded_bench.drafters.published import Sketch
from aded_bench.drafters.token_recycling import Successors, recycle
from aded_local.step import Beginning, Likely, StepResult
from aded_local.tree import ROOT

PASSAGE: Final = 10
TRIE_NODES: Final = 10_000
LEAST_MATCH: Final = 2
"""Tokens that must have matched, the root included."""
BREADTH: Final = 8
NODES: Final = 63
"""The authors' capacity of 64 counts the root."""

Context = tuple[int, ...]


class Passages:
    """How often each passage occurred, and each of its beginnings."""

    def __init__(self) -> None:
        self._counts: OrderedDict[Context, int] = OrderedDict()
        self._next: dict[Context, dict[int, None]] = {}

    def insert(self, passage: Context) -> None:
        """Count a passage. Beginnings become more recent than what goes on from them, so leaves give way first."""
        for n in range(len(passage), 0, -1):
            part = passage[:n]
            self._counts[part] = self._counts.get(part, 0) + 1
            self._counts.move_to_end(part)
            self._next.setdefault(part[:-1], {})[part[-1]] = None
        while len(self._counts) > TRIE_NODES:
            gone, _ = self._counts.popitem(last=False)
            del self._next[gone[:-1]][gone[-1]]

    def touch(self, context: Context) -> None:
        """Something was looked up."""
        for n in range(len(context), 0, -1):
            self._counts.move_to_end(context[:n])

    def likeliest(self, ends: Sequence[Context], most: int) -> list[tuple[Context, int, int]]:
        """The most frequent continuations below any of ``ends``: context, tokens of it that matched, count."""
        heap = [(-self._counts[end], len(end), end, len(end)) for end in ends]
        heapq.heapify(heap)
        found: list[tuple[Context, int, int]] = []
        while heap and len(found) < most:
            count, length, context, matched = heapq.heappop(heap)
            if length > matched:
                found.append((context, matched, -count))
            for token in self._next.get(context, ()):
                longer = (*context, token)
                heapq.heappush(heap, (-self._counts[longer], length + 1, longer, matched))
        return found

    def __contains__(self, context: Context) -> bool:
        return context in self._counts


class Racer:
    """See this module's first line."""

    def __init__(self) -> None:
        self._successors: Successors = {}
        self._passages = Passages()
        self._text: list[int] = []

    def begin(self, beginning: Beginning) -> None:
        self._text = []
        self._append(beginning.new.tolist())

    def _append(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self._text.append(token)
            if len(self._text) >= PASSAGE:
                self._passages.insert(tuple(self._text[-PASSAGE:]))

    def read_prompt(self, tokens: Sequence[int], likely: Likely) -> None:
        recycle(self._successors, tokens, likely)

    def sketch(self) -> Sketch:
        sketch = Sketch(NODES)
        ends = [tuple(self._text[-n:]) for n in range(LEAST_MATCH, min(PASSAGE, len(self._text)) + 1)]
        known = [end for end in ends if end in self._passages]
        for end in known:
            self._passages.touch(end)
        for context, matched, count in self._passages.likeliest(known, NODES):
            node: int | None = ROOT
            for depth, token in enumerate(context[matched:], 1):
                if node is not None:
                    node = sketch.add(node, token, ("passage", matched, min(count, 4), min(depth, 3)))
        self._grow(sketch)
        return sketch

    def _grow(self, sketch: Sketch) -> None:
        """Breadth first: a node's children get half of its breadth, a quarter, and so on; the root's begin with all."""
        queue = deque([(ROOT, self._text[-1], BREADTH)])
        while queue:
            parent, token, breadth = queue.popleft()
            share = breadth if parent == ROOT else breadth >> 1
            for rank, following in enumerate(self._successors.get(token, [])[:breadth]):
                node = sketch.add(parent, following, ("successor", parent == ROOT, rank))
                if node is None:
                    return
                queue.append((node, following, max(1, share >> rank)))

    def observe(self, result: StepResult) -> None:
        if result.likely is not None:
            recycle(self._successors, [self._text[-1], *result.tree.tokens.tolist()], result.likely)
        self._append(result.tokens)

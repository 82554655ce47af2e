"""What a draft model says of a step's places is still there when the step ends, however much it said before."""

from __future__ import annotations

import numpy as np
import pytest

from aded_local.drafters.ngram.drafter import NgramDrafter
from aded_local.drafters.statement import Statement
from aded_local.step import NO_TOKENS, Beginning

N_VOCAB, AT_ONCE, STEPS = 97, 100, 60


def statement(path: tuple[int, ...], token: int) -> Statement:
    tokens = np.array([token, *range(80, 87)], np.int32)
    return Statement(path, tokens, np.array([0.98, *[0.002] * 7], np.float32))


@pytest.mark.parametrize("seed", range(3))
def test_new_statements_take_the_places_of_old_ones(seed: int) -> None:
    random = np.random.default_rng(seed)
    drafter = NgramDrafter(n_vocab=N_VOCAB)
    drafter.hear_model()
    text = [int(token) for token in random.integers(0, 80, 40)]
    drafter.begin(Beginning(0, NO_TOKENS, np.array(text, np.int32)))
    found = []
    for step in range(STEPS):
        wanted = step % 80
        paths = {tuple(map(int, random.integers(0, 80, 3))) for _ in range(AT_ONCE)}
        drafter.tell(text, [statement((), wanted), *(statement(path, 0) for path in paths)])
        tokens, _ = drafter.predict()
        found.append(int(tokens[0]) == wanted)
    assert all(found)

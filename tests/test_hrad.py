"""H-RAD: classes of a chain, branch points, a classifier that learns online and is kept."""

from __future__ import annotations

import stat
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aded_local.drafters.model import numbers
from aded_local.drafters.model.hrad import (
    DRAFT_FEATURES,
    SETTLED,
    Acceptance,
    Hrad,
    branch_point,
    draft_features,
    opened,
    outcome,
)
from aded_local.errors import StoreError
from aded_local.tree import FloatArray

N_HIDDEN = 48
Example = tuple[FloatArray, FloatArray, Acceptance]


def examples(n: int, seed: int, *, telling: str) -> list[Example]:
    """Chains whose class shows in the hidden state, or in what the draft says, and in nothing else."""
    random = np.random.default_rng(seed)
    directions = np.random.default_rng(99).standard_normal((3, N_HIDDEN))
    found = []
    for _ in range(n):
        came = Acceptance(int(random.integers(3)))
        hidden = random.standard_normal(N_HIDDEN) + (2.0 * directions[came] if telling == "hidden" else 0.0)
        p = (0.1, 0.5, 0.95)[came] if telling == "draft" else 0.5
        draft = draft_features([p, p, p], [1.0 - p] * 3)
        found.append((hidden.astype(np.float32), draft, came))
    return found


def accuracy(classifier: Hrad, given: list[Example]) -> float:
    return sum(classifier.expected(hidden, draft) is came for hidden, draft, came in given) / len(given)


def taught(telling: str, n: int = 400) -> Hrad:
    classifier = Hrad(N_HIDDEN, seed=1)
    for example in examples(n, 1, telling=telling):
        classifier.learn(*example)
    return classifier


@given(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.lists(st.integers(0, 2), max_size=8))
def test_an_outcome_is_known_once_it_cannot_change(chain: list[int], came: list[int]) -> None:
    found = outcome(chain, came)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chain, came, strict=False)))
    if same == len(chain):
        assert found is Acceptance.ALL
    elif same == len(came):
        assert found is None
    else:
        assert found is (Acceptance.SOME if same else Acceptance.NONE)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0, 1))
def test_branches_start_at_the_first_token_that_is_not_trusted(chain: list[float], least: float) -> None:
    assert branch_point(chain, Acceptance.NONE, least) == 0
    assert branch_point(chain, Acceptance.ALL, least) == len(chain)
    place = branch_point(chain, Acceptance.SOME, least)
    assert all(p >= least for p in chain[:place]) and (place == len(chain) or chain[place] < least)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 12)), min_size=1, max_size=9))
def test_features_are_finite(chain: list[tuple[float, float]]) -> None:
    found = draft_features([p for p, _ in chain], [entropy for _, entropy in chain])
    assert found.shape == (DRAFT_FEATURES,) and np.all(np.isfinite(found))


@pytest.mark.parametrize("telling", ["hidden", "draft"])
def test_it_learns_what_the_features_tell(telling: str) -> None:
    assert accuracy(taught(telling), examples(200, 2, telling=telling)) > 0.8


def test_nothing_is_learnt_from_noise() -> None:
    assert accuracy(taught("nothing"), examples(300, 2, telling="nothing")) < 0.5


def test_confidence_decides_until_enough_is_learnt() -> None:
    classifier = Hrad(N_HIDDEN)
    for count, (hidden, draft, _) in enumerate(examples(SETTLED, 3, telling="hidden"), 1):
        assert classifier.expected(hidden, draft) is Acceptance.SOME
        classifier.learn(hidden, draft, Acceptance.NONE)
        assert classifier.is_settled == (count >= SETTLED)
    assert classifier.expected(hidden, draft) is Acceptance.NONE


def test_the_same_seed_learns_the_same() -> None:
    (hidden, draft, _), *_ = examples(1, 4, telling="hidden")
    np.testing.assert_array_equal(
        taught("hidden").predict(hidden, draft), taught("hidden").predict(hidden, draft)
    )


@pytest.mark.parametrize(
    "hidden", [np.zeros(N_HIDDEN), np.full(N_HIDDEN, np.nan), np.full(N_HIDDEN, 1e30), None]
)
def test_odd_hidden_states_leave_probabilities(hidden: FloatArray | None) -> None:
    state = None if hidden is None else hidden.astype(np.float32)
    classifier = taught("hidden", 50)
    classifier.learn(state, draft_features([0.5], [1.0]), Acceptance.SOME)
    found = classifier.predict(state, draft_features([0.5], [1.0]))
    assert np.all(np.isfinite(found)) and found.sum() == pytest.approx(1.0, abs=1e-5)


def test_what_it_learnt_is_kept_for_a_pair(tmp_path: Path) -> None:
    path, classifier = tmp_path / "folder" / "pair.json", taught("hidden")
    classifier.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = opened(path, N_HIDDEN, seed=1)
    assert again.n_seen == classifier.n_seen
    for hidden, draft, _ in examples(5, 5, telling="hidden"):
        np.testing.assert_array_equal(again.predict(hidden, draft), classifier.predict(hidden, draft))
    again.learn(*examples(1, 6, telling="hidden")[0])


def test_pairs_have_files_of_their_own() -> None:
    kinds, models = ("hrad", "pairs"), ("x", "y")
    assert len({numbers.path_of(kind, a, b) for kind in kinds for a in models for b in models}) == 8


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "text", "folder", "nan", "shape", "another"])
def test_a_file_that_cannot_be_used_leaves_a_new_classifier(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "pair.json"
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        classifier = Hrad(N_HIDDEN + 1, seed=1) if damage == "another" else taught("hidden", 40)
        if damage == "nan":
            classifier._weights[0][0, 0] = np.nan
        elif damage == "shape":
            classifier._mean = classifier._mean[1:]
        classifier.save(path)
    if damage in ("empty", "cut", "text"):
        whole = path.read_bytes()
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"hello"}[damage])
    fresh = Hrad(N_HIDDEN, seed=1)
    assert not fresh.load(path) and fresh.n_seen == 0
    fresh.learn(*examples(1, 7, telling="hidden")[0])


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        Hrad(N_HIDDEN).save(tmp_path / "file" / "pair.json")

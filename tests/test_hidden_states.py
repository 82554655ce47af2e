"""The target's hidden states: what they are, and that reading them changes no logit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGUFReader
from interrupting import instants

from aded_local.errors import DeviceError, ModelNotFoundError
from aded_local.llama import ContextSettings, Model, Target
from aded_local.llama.loading import lib
from aded_local.tree import ROOT, DraftTree
from aded_models import find

TREE = DraftTree(
    np.array([7, 8, 9, 10, 11], np.int32),
    np.array([ROOT, 0, 1, 0, ROOT], np.int32),
    np.array([1, 2, 3, 2, 1], np.int32),
    np.linspace(0.9, 0.1, 5, dtype=np.float32),
)
PROMPT = list(range(20, 60))


@pytest.fixture(scope="module")
def llama(tiny: dict[str, Path]) -> Iterator[Model]:
    model = Model(tiny["llama"])
    yield model
    model.close()


@pytest.fixture
def target(llama: Model) -> Iterator[Target]:
    made = Target(llama, ContextSettings(256, 1, False, "f32", 4))
    yield made
    made.close()


def verified(target: Target, *, reads: bool) -> npt.NDArray[np.float32]:
    """The logits of a tree behind a prompt."""
    target.forget()
    target.read_hidden(reads)
    target.prefill(PROMPT)
    target.verify(5, TREE)
    return np.array(target.verified_logits())


def test_a_hidden_state_is_what_the_output_matrix_multiplies(target: Target, tiny: dict[str, Path]) -> None:
    logits = verified(target, reads=True)
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(tiny["llama"]).tensors}
    matrix = np.asarray(tensors["output.weight"], np.float32)
    for row in range(len(TREE) + 1):
        np.testing.assert_allclose(matrix @ target.hidden_at(row), logits[row], atol=1e-3)


def test_reading_hidden_states_changes_no_logit(target: Target) -> None:
    plain = verified(target, reads=False)
    np.testing.assert_array_equal(verified(target, reads=True), plain)
    np.testing.assert_array_equal(verified(target, reads=False), plain)


@pytest.mark.parametrize("cache", ["f16", "bf16"])
def test_nor_on_smollm2(cache: str) -> None:
    try:
        model = Model(find("smollm2").path)
    except ModelNotFoundError as missing:
        pytest.skip(str(missing))
    target = Target(model, ContextSettings(256, 1, cache == "bf16", cache, 4))
    plain = verified(target, reads=False)
    np.testing.assert_array_equal(verified(target, reads=True), plain)
    assert target.hidden_at(0).shape == (576,)
    target.close()
    model.close()


def test_what_was_not_kept_cannot_be_read(target: Target) -> None:
    verified(target, reads=False)
    with pytest.raises(DeviceError, match="hidden state"):
        target.hidden_at(0)
    verified(target, reads=True)
    with pytest.raises(DeviceError, match="hidden state"):
        target.hidden_at(len(TREE) + 1)
    target.prefill([*PROMPT, 3])
    with pytest.raises(DeviceError, match="hidden state"):
        target.hidden_at(0)


def test_a_context_that_is_opened_anew_still_keeps_them(target: Target) -> None:
    verified(target, reads=True)
    before = target.hidden_at(2)
    target.reopen(target.settings)
    target.prefill(PROMPT)
    target.verify(5, TREE)
    np.testing.assert_array_equal(target.hidden_at(2), before)


# ctypes drops one that comes in a callback.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_at_any_instant_leaves_them_readable(target: Target) -> None:
    expected = verified(target, reads=True)
    n = 0
    for _ in instants(lambda: lambda: verified(target, reads=True), every=3):
        np.testing.assert_array_equal(verified(target, reads=True), expected)
        assert target.hidden_at(0).shape == (target.model.n_hidden,)
        n += 1
    assert n > 50


def test_an_interrupt_at_any_instant_of_setting_threads_is_made_good_by_the_next(target: Target) -> None:
    context = target.context
    for _ in instants(lambda: lambda: context.set_threads(2)):
        # Whatever llama.cpp has now, what is asked for next is set.
        context.set_threads(1)
        assert lib.llama_n_threads(context._handle) == 1
    context.set_threads(2)
    assert lib.llama_n_threads(context._handle) == 2

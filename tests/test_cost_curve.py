"""The cost curve: between and beyond what was measured, by cells, refined by real steps, kept in a file."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aded_local.speed.cost_curve import BASE_FILL, LARGEST_BATCH, CostCurve, from_measurements
from aded_local.speed.exactness import EXACT_SIZES, ExactnessProbe
from aded_local.speed.probe import Probe

JAGGED = {1: 20e-3, 2: 30e-3, 3: 45e-3, 4: 34e-3, 8: 64e-3, 16: 107e-3}


def test_measured_sizes_cost_what_was_measured() -> None:
    curve = from_measurements(JAGGED, {}, 0)
    for n, seconds in JAGGED.items():
        assert curve.seconds(BASE_FILL)[n] == pytest.approx(seconds)


def test_unmeasured_sizes_are_interpolated_and_larger_ones_grow_in_proportion() -> None:
    cost = from_measurements(JAGGED, {}, 0).seconds(BASE_FILL)
    assert cost[6] == pytest.approx((34e-3 + 64e-3) / 2)
    assert cost[64] == pytest.approx(4 * 107e-3)


def test_a_fuller_cache_costs_more_and_by_the_measured_amount() -> None:
    far = {1: 23e-3, 4: 46e-3, 16: 155e-3}
    curve = from_measurements(JAGGED, far, 2048)
    assert curve.seconds(2048)[4] == pytest.approx(46e-3, rel=0.05)
    assert np.all(np.diff([curve.seconds(cells)[4] for cells in (0, 512, 1024, 4096)]) > 0)


def test_a_single_token_is_never_taken_to_cost_more_than_several() -> None:
    """Beside other programs it may look so, and drafts would seem to be free."""
    curve = from_measurements({1: 10.8e-3, 2: 12.3e-3, 4: 5.4e-3, 6: 3.3e-3}, {}, 0)
    cost = curve.seconds(BASE_FILL)
    assert cost[1] == pytest.approx(3.3e-3) and (cost[1:] >= cost[1] * 0.999).all()


def test_real_passes_move_the_curve_towards_their_times() -> None:
    curve = from_measurements(JAGGED, {}, 0)
    for _ in range(300):
        curve.observe(4, BASE_FILL, 50e-3)
        curve.observe(1, BASE_FILL, 20e-3)
    assert curve.seconds(BASE_FILL)[4] == pytest.approx(50e-3, rel=0.05)
    assert curve.seconds(BASE_FILL)[1] == pytest.approx(20e-3, rel=0.05)


def test_a_machine_that_slows_down_raises_the_cost_of_untried_sizes_too() -> None:
    curve = from_measurements(JAGGED, {}, 0)
    for _ in range(100):
        curve.observe(1, BASE_FILL, 2 * JAGGED[1])
    assert curve.seconds(BASE_FILL)[4] > 1.3 * JAGGED[4]
    assert CostCurve.from_dict(curve.to_dict()).seconds(BASE_FILL)[4] == pytest.approx(JAGGED[4]), "not kept"


def test_one_interrupted_step_hardly_moves_it() -> None:
    curve = from_measurements(JAGGED, {}, 0)
    curve.observe(4, BASE_FILL, 60.0)
    assert curve.seconds(BASE_FILL)[4] < 1.1 * 34e-3


@given(
    st.dictionaries(st.integers(2, LARGEST_BATCH), st.floats(1e-4, 10.0), max_size=12),
    st.floats(1e-4, 1.0),
    st.integers(0, 8192),
)
def test_costs_are_always_positive_and_finite(sizes: dict[int, float], one: float, cells: int) -> None:
    near = {1: one, **sizes}
    far = {n: seconds * 1.5 for n, seconds in near.items() if n in (1, 2, 4)}
    cost = from_measurements(near, far, 2048).seconds(cells)
    assert np.isfinite(cost).all()
    assert (cost[1:] > 0).all()


def test_a_curve_reads_as_it_was_written() -> None:
    curve = from_measurements(JAGGED, {1: 23e-3, 4: 46e-3}, 2048)
    again = CostCurve.from_dict(curve.to_dict())
    assert again.seconds(700) == pytest.approx(curve.seconds(700))


def test_the_second_start_corrects_a_measurement_at_a_busy_moment() -> None:
    busy = {n: seconds * (1 if n == 1 else 3) for n, seconds in JAGGED.items()}
    first, second = from_measurements(busy, {}, 0), from_measurements(JAGGED, {}, 0)
    for earlier, later in ((first, second), (second, first)):
        both = CostCurve.from_dict(earlier.to_dict())
        both.see_again(later)
        assert both.seconds(BASE_FILL) == pytest.approx(second.seconds(BASE_FILL))
        assert both.sightings == 2


def test_a_quiet_measurement_replaces_one_made_beside_other_programs() -> None:
    busy = from_measurements({1: 10e-3, 2: 15e-3}, {}, 0)
    busy.contended = True
    busy.see_again(from_measurements(JAGGED, {}, 0))
    assert not busy.contended and busy.measured == sorted(JAGGED)
    assert busy.seconds(BASE_FILL)[1] == pytest.approx(JAGGED[1])
    assert busy.sightings == 1


@pytest.mark.parametrize(
    "broken",
    [
        {"base": [1.0]}, {"base": "x"}, {"base": [0.0] * 65}, {"base": [10**400] * 65}, {"base": [1e300] * 65},
        {"per_cell": [1e308] * 65}, {"measured": None}, {"measured": [1, 999]}, {"measured": [-5]},
        {"measured": [1, math.inf]}, {"sightings": math.inf},
    ],
)  # fmt: skip
def test_a_broken_curve_is_refused(broken: dict[str, object]) -> None:
    data = from_measurements(JAGGED, {}, 0).to_dict() | broken
    with pytest.raises((ValueError, TypeError, KeyError, ArithmeticError)):
        CostCurve.from_dict(data)


class _Context:
    """Stands in for llama.cpp: batches equal one-token decoding but for a token in ``seldom``, from 4 rows on."""

    n_ctx = 4096
    batch_capacity = 512

    def __init__(self, seldom: int, *, threads_matter: bool = False) -> None:
        self._seldom = seldom
        self._threads_matter = threads_matter
        self._threads = 4
        self.settings = SimpleNamespace(n_threads=4)
        self.n_past = 0
        self._rows: list[npt.NDArray[np.float32]] = []
        self.model = SimpleNamespace(
            random_tokens=lambda n, seed: np.arange(n, dtype=np.int32),
            n_ctx_train=4096,
            n_layer=30,
            n_embd=576,
            is_recurrent=False,
            is_hybrid=False,
        )

    def set_threads(self, n: int) -> None:
        self._threads = n

    def clear(self) -> None:
        self.n_past = 0

    def roll_back(self, n: int) -> int:
        self.n_past = min(n, self.n_past)
        return self.n_past

    def fill_by_copy(self, n_cells: int) -> None:
        self.n_past = n_cells

    def prefill(self, tokens: npt.NDArray[np.int32], *, want_logits: bool = True) -> float:
        seconds = self.probe_batch(tokens[-1:])
        self.n_past += len(tokens) - 1
        return seconds * len(tokens)

    def probe_batch(self, tokens: npt.NDArray[np.int32]) -> float:
        off = [
            1.0 if len(tokens) >= 4 and token % self._seldom == self._seldom - 1 else 0.0 for token in tokens
        ]
        if self._threads_matter:
            off = [self._threads + each for each in off]
        self._rows = [np.array([token, more], np.float32) for token, more in zip(tokens, off, strict=True)]
        self.n_past += len(tokens)
        return 1e-3

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        return self._rows[row]


@pytest.mark.parametrize(("seldom", "exact"), [(10**9, list(EXACT_SIZES)), (400, [1, 2, 3]), (40, [1, 2, 3])])
def test_sizes_that_differ_at_one_token_of_hundreds_are_not_exact(seldom: int, exact: list[int]) -> None:
    context = _Context(seldom)
    found = ExactnessProbe(cast(Any, context)).exactness()
    assert found.sizes == exact and found.steady
    assert context.n_past == 0


@pytest.mark.parametrize(("n_layer", "n_embd", "compared"), [(30, 576, 256), (16, 2048, 135), (32, 4096, 64)])
def test_of_a_slow_model_fewer_tokens_are_compared_the_more_values_each_has(
    n_layer: int, n_embd: int, compared: int
) -> None:
    context = _Context(10**9)
    context.model.n_layer, context.model.n_embd = n_layer, n_embd
    sizes: list[int] = []
    decoding = context.probe_batch

    def counted(tokens: npt.NDArray[np.int32]) -> float:
        sizes.append(len(tokens))
        return decoding(tokens)

    context.probe_batch = counted  # type: ignore[method-assign]
    ticks = itertools.count(step=10)
    probe = ExactnessProbe(cast(Any, context), clock=lambda: float(next(ticks)))
    told: list[tuple[int, int]] = []
    assert probe.lasting_sizes([2, 4], told=lambda done, whole: told.append((done, whole))) == {1, 2, 4}
    assert sizes.count(1) == 1 + compared, "the prefix's last token, and those compared"
    assert told == [(0, 2), (1, 2)]


@pytest.mark.parametrize(("seconds", "read"), [(1e-3, [64, 256]), (5e-2, [64])])
def test_a_slow_model_is_not_asked_to_read_a_long_prompt(seconds: float, read: list[int]) -> None:
    context, chunks = _Context(10**9), []

    def prefill(tokens: npt.NDArray[np.int32], *, want_logits: bool = True) -> float:
        chunks.append(len(tokens))
        return seconds * len(tokens)

    context.prefill = prefill  # type: ignore[method-assign]
    assert Probe(cast(Any, context)).time_prompt() == pytest.approx(seconds)
    assert chunks == read


def test_a_setting_whose_bits_depend_on_the_threads_is_told() -> None:
    context = _Context(10**9, threads_matter=True)
    assert not ExactnessProbe(cast(Any, context)).exactness().steady
    assert context._threads == context.settings.n_threads, "all threads again"


class _Recording(_Context):
    """As CUDA does it: from the third one-token pass in a row on, a graph is recorded, and passes take half as long."""

    def __init__(self, *, records: bool = True) -> None:
        super().__init__(10**9)
        self._records, self._in_a_row = records, 0

    def probe_batch(self, tokens: npt.NDArray[np.int32]) -> float:
        super().probe_batch(tokens)
        self._in_a_row = self._in_a_row + 1 if len(tokens) == 1 else 0
        if len(tokens) > 1:
            return 3e-3
        return 1e-3 if self._records and self._in_a_row > 2 else 2e-3


def test_one_token_takes_what_it_takes_in_plain_decoding() -> None:
    probe = Probe(cast(Any, _Recording()))
    assert probe.time_sizes((4, 2), 256, seconds=math.inf) == {1: 1e-3, 2: 3e-3, 4: 3e-3}


def test_what_a_wide_pass_costs_the_plain_ones_behind_it_is_measured() -> None:
    assert Probe(cast(Any, _Recording())).time_waking(256) == pytest.approx(2e-3)
    assert Probe(cast(Any, _Recording(records=False))).time_waking(256) == 0.0


def test_a_disturbance_is_no_price_of_wide_passes() -> None:
    class Disturbed(_Recording):
        """Passes behind a wide one take five times as long, in all rounds but the first."""

        passes = 0

        def probe_batch(self, tokens: npt.NDArray[np.int32]) -> float:
            self.passes += 1
            after_wide = 0 < self._in_a_row < 3 and len(tokens) == 1
            taken = super().probe_batch(tokens)
            return 5 * taken if after_wide and self.passes > 13 else taken

    assert Probe(cast(Any, Disturbed(records=False))).time_waking(256) == 0.0


def test_what_is_lost_behind_a_pass_is_kept_and_follows_the_machine() -> None:
    curve = from_measurements(JAGGED, {}, 0)
    curve.waking = 5e-3
    again = CostCurve.from_dict(curve.to_dict())
    assert again.lost_behind == pytest.approx(5e-3)
    assert again.scaled(2.0).lost_behind == pytest.approx(10e-3)
    assert CostCurve.from_dict({**curve.to_dict(), "waking": 0.0}).lost_behind == 0.0
    for damaged in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError):
            CostCurve.from_dict({**curve.to_dict(), "waking": damaged})

"""What result files hold: one schema, by which they are written, continued and reported.

Keys as docs/results.md explains them. A file may hold more than is named here; what is named is of this type.
"""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

from aded_local.errors import OptionError

try:
    import msgspec
    from msgspec import Meta
except ImportError:
    raise OptionError("result files are checked with msgspec: pip install 'aded-local[bench]'") from None

LARGEST = 1e15
"""Drawing adds, multiplies and takes logarithms, and stays far from infinity."""

Number = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
Count = Annotated[int, Meta(ge=0, le=10**15)]
Factor = Annotated[float, Meta(ge=0.0, le=1e6)]
Cost = Annotated[float, Meta(gt=1e-6, le=1e6)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Size = Annotated[str, Meta(pattern="^[1-9][0-9]{0,5}$")]
"""Tokens in a pass, as a key."""


class Summary(TypedDict):
    count: Count
    minimum: Number
    first_quartile: Number
    median: Number
    third_quartile: Number
    maximum: Number
    low: Number | None
    high: Number | None


class Spread(TypedDict, total=False):
    median: Number
    p99: Number
    mean: Number


class SpeedUp(TypedDict):
    speedup: Factor
    low: Factor | None
    high: Factor | None


class Category(SpeedUp):
    answers: Count
    tokens: Count
    tokens_per_pass: Number


class Bin(TypedDict):
    low: Share
    high: Share
    count: Annotated[int, Meta(ge=1, le=10**15)]
    predicted: Share
    observed: Share


class Calibration(TypedDict):
    ece: Share
    bins: list[Bin]


class Depth(TypedDict):
    depth: Count
    proposed: Count
    accepted: Count


class Decoded(SpeedUp):
    passes: Count
    nodes: Count
    tokens_per_pass: Number
    nodes_per_pass: Number
    categories: dict[str, Category]
    draft_microseconds: Spread | None


class Figures(Decoded):
    learn_microseconds: Spread | None
    calibration: Calibration | None
    depths: list[Depth]


class Passes(TypedDict):
    passes: Annotated[int, Meta(ge=1)]
    measured_ms: Number
    predicted_ms: Number


class Answer(TypedDict):
    category: str
    tokens: Count
    passes: Count
    nodes: Count
    seconds: Number
    verify: Number
    modelled: Number
    modelled_plain: Number
    plain_passes: Count
    plain_timed: Number
    plain_predicted: Number
    sizes: dict[Size, tuple[Count, Number, Number]]
    draft_microseconds: dict[Annotated[str, Meta(pattern="^[0-9]{1,12}$")], Count]


class Body(Decoded):
    model: str
    quantization: str
    flash_attention: bool
    cache_type: str
    threads: Count
    context: Count
    gpu_layers: str
    plain_every: Count
    tokens: Count
    seconds: Number
    plain_seconds: Number
    plain_passes_timed: Count
    modelled: Number
    sizes: dict[Size, Passes]
    gap: dict[str, Number] | None
    largest_gap: str
    curve: dict[str, Any]
    answers: dict[str, Answer]
    clipped: Count
    left_out: Count


class Row(TypedDict):
    trace: str
    method: str
    setting: str
    phase: str
    answers: Count
    tokens: Count
    bits_per_token: Number | None
    draft_microseconds: Spread | None
    learn_microseconds: Spread | None
    curves: dict[str, Figures]
    body: Body | None


class TraceSize(TypedDict):
    name: str
    answers: Count
    tokens: Count
    categories: dict[str, Count]


class _Result(TypedDict, total=False):
    missing: dict[str, str]
    skipped: dict[str, str]


class Result(_Result):
    kind: str
    complete: bool
    provenance: dict[str, Any]


class ReplayResult(Result):
    curves: dict[str, dict[str, dict[Size, Cost]]]
    traces: list[TraceSize]
    warm: list[TraceSize]
    ablation: list[str]
    peers: dict[str, str]
    rows: list[Row]


class Setting(TypedDict):
    flash_attention: bool
    cache_type: str


class Curve(Setting):
    prefix: Count
    milliseconds: dict[Size, Number]
    ratio: dict[Size, Cost]
    low: dict[Size, Number]
    high: dict[Size, Number]
    rounds: Count
    exact: list[Count] | None
    note: str | None


class CurveResult(Result):
    curves: list[Curve]
    chosen: Setting


class Method(TypedDict, total=False):
    tokens_per_second: Summary | None
    first_token_ms: Summary | None
    tokens_per_pass: Number
    nodes_per_pass: Number
    microseconds_per_pass: dict[str, Number]
    memory_megabytes: Number


class Ratio(TypedDict, total=False):
    summary: Summary | None
    by_category: dict[str, Summary | None]
    same_tokens: Count
    pairs: Count


class Phase(TypedDict):
    methods: dict[str, Method]
    ratios: dict[str, Ratio]


class _RunResult(Result, total=False):
    suite: str
    methods: list[str]
    arms: dict[str, dict[str, Any]]
    summary: dict[str, Phase]


class RunResult(_RunResult):
    runs: list[dict[str, Any]]
    histories: dict[str, str]


class Comparison(TypedDict):
    method: str
    against: str
    temperature: Number
    identical: Count
    total: Count
    crossing_512_cells: Count


class _Parting(TypedDict, total=False):
    candidates: list[dict[str, Any]]
    difference: Number
    within_rounding: bool


class Parting(_Parting):
    method: str
    prompt: str
    temperature: Number
    position: Count
    cells: Count


class _LosslessResult(Result, total=False):
    comparisons: list[Comparison]
    partings: list[Parting]


class LosslessResult(_LosslessResult):
    answers: dict[str, dict[str, Any]]
    histories: dict[str, str]


KINDS: dict[str, Any] = {
    "run": RunResult,
    "replay": ReplayResult,
    "curve": CurveResult,
    "lossless": LosslessResult,
}


def check(found: object, kind: Any) -> None:
    """Does ``found`` hold what ``kind``, a type of this module, asks for?

    Raises:
        ValueError: it does not; one line says where and why.
    """
    try:
        msgspec.convert(found, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ValueError(str(error).replace("`", "")) from None

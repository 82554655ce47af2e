"""What result files hold: one schema, by which they are written, continued and reported.

docs/results.md has the meaning of every key. A file may hold more than is named here; what is named is of this type.
"""

from __future__ import annotations

from types import GenericAlias
from typing import Annotated, Any

from aded_bench.extra import msgspec

Meta, UNSET = msgspec.Meta, msgspec.UNSET

LARGEST = 10**15
"""Drawing adds, multiplies and takes logarithms, and stays far from infinity."""

Number = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
Maybe = Number | None
Count = Annotated[int, Meta(ge=0, le=LARGEST)]
Factor = Annotated[float, Meta(ge=0.0, le=1e6)]
Cost = Annotated[float, Meta(gt=1e-6, le=1e6)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Size = Annotated[str, Meta(pattern="^[1-9][0-9]{0,5}$")]
"""Tokens in a pass, as a key."""
Object = dict[str, Any]


def _list(kind: Any) -> Any:
    return GenericAlias(list, (kind,))


def _dict(kind: Any) -> Any:
    return GenericAlias(dict, (str, kind))


def _object(*alike: Any, **keys: Any) -> Any:
    """A type of JSON objects with these keys, and those of others; keys that end with ``_`` may be absent."""
    own: list[tuple[Any, ...]] = [(key, kind) for key, kind in keys.items() if not key.endswith("_")]
    own += [(key[:-1], kind | msgspec.UnsetType, UNSET) for key, kind in keys.items() if key.endswith("_")]
    return msgspec.defstruct("Object", own, bases=alike or None, kw_only=True)


Summary = _object(
    count=Count, minimum=Number, first_quartile=Number, median=Number, third_quartile=Number, maximum=Number,
    low=Maybe, high=Maybe,
)  # fmt: skip
Spread = _object(median=Number, p99=Number, mean_=Number) | None
SpeedUp = _object(speedup=Factor, low=Factor | None, high=Factor | None)
Category = _object(SpeedUp, answers=Count, tokens=Count, tokens_per_pass=Number)
Bin = _object(
    low=Share, high=Share, count=Annotated[int, Meta(ge=1, le=LARGEST)], predicted=Share, observed=Share
)
Swept = _object(
    SpeedUp, passes=Count, nodes=Count, tokens_per_pass=Number, nodes_per_pass=Number, draft_microseconds=Spread,
    categories=_dict(Category),
)  # fmt: skip
Figures = _object(
    Swept, learn_microseconds=Spread, calibration=_object(ece=Share, bins=_list(Bin)) | None,
    depths=_list(_object(depth=Count, proposed=Count, accepted=Count)),
)  # fmt: skip
Answer = _object(
    category=str, tokens=Count, passes=Count, nodes=Count, seconds=Number, verify=Number, modelled=Number,
    modelled_plain=Number, plain_passes=Count, plain_timed=Number, plain_predicted=Number,
    sizes=dict[Size, tuple[Count, Number, Number]],
    draft_microseconds=dict[Annotated[str, Meta(pattern="^[0-9]{1,12}$")], Count],
)  # fmt: skip
Body = _object(
    Swept, model=str, quantization=str, flash_attention=bool, cache_type=str, threads=Count, context=Count,
    gpu_layers=str, tokens=Count, seconds=Number, plain_seconds=Number, modelled=Number, largest_gap=str,
    curve=Object, answers=_dict(Answer),
)  # fmt: skip
Row = _object(
    trace=str, method=str, setting=str, phase=str, answers=Count, tokens=Count, bits_per_token=Maybe,
    draft_microseconds=Spread, learn_microseconds=Spread, curves=_dict(Figures), body=Body | None,
)  # fmt: skip
Trace = _object(name=str, answers=Count, tokens=Count, categories=dict[str, Count])

Setting = _object(flash_attention=bool, cache_type=str)
Times = dict[Size, Number]
Curve = _object(
    Setting, prefix=Count, milliseconds=Times, ratio=dict[Size, Cost], low=Times, high=Times, rounds=Count,
    exact=list[Count] | None, note=str | None,
)  # fmt: skip

Run = _object(
    prompt=str, category=str, method=str, sweep=Count, tokens=list[int], generated=Count, tokens_per_second=Number,
    first_seconds=Number, decode_seconds=Number, passes=Count, drafted=Count,
)  # fmt: skip
Method = _object(
    tokens_per_second=Summary | None, first_token_ms=Summary | None, tokens_per_pass_=Number, nodes_per_pass_=Number,
    microseconds_per_pass_=dict[str, Number], memory_megabytes_=Number, draft_model_=Object,
)  # fmt: skip
Ratio = _object(summary=Summary | None, by_category=_dict(Summary | None), same_tokens=Count, pairs=Count)

Chosen = _object(arms=_dict(Count))
Arm = _object(method=str, setting=str, arm=str)
Way = _object(method=str, setting=str, row_by_row=bool, sizes=list[Count] | None)
Comparison = _object(
    Arm, same=str, against=str, temperature=Number, identical=Count, total=Count, crossing_512_cells=Count
)
Movement = _object(
    Arm, positions=Count, wide=Count, divergence_mean=Number, divergence_largest=Number, change_largest=Share
)
Candidate = _object(text=str, one=Number, wide_=Number, real_=Number)
Parting = _object(
    Arm, prompt=str, temperature=Number, position=Count, cells=Count, candidates_=_list(Candidate), gap_=Number,
    moved_=Number, within_rounding_=bool,
)  # fmt: skip
Held = _dict(_object(tensors=Count, weights=Count))

Bound = _object(
    answers=Count, valid=Count, same_text=Count, compared=Count, tokens_per_pass=Number, nodes_per_pass=Number,
    accepted_share=Number, tokens_per_second=Number, median_gain=Maybe, draft_share=Number,
)  # fmt: skip
Spelling = _object(tried=Count, came=Count, misspelt=Count)

Simulated = _object(
    draft=str, curve=str, ratio=Cost, mode=str, rule=str | None, tokens=Count, passes=Count, speedup=Cost,
    low=Factor | None, high=Factor | None, tokens_per_pass=Number, nodes_per_pass=Number, target_waits=Number,
    draft_idle=Number, decodes_per_token=Number, dropped_per_token=Number, class_accuracy_=Share | None,
    commonest_class_=Share | None,
)  # fmt: skip

Result = _object(kind=str, complete=bool, provenance=Object, missing_=dict[str, str], skipped_=dict[str, str])
Lossless = _object(
    Result, same=_dict(Chosen), arms=_dict(Way), answers=_dict(Object), histories=dict[str, str],
    comparisons_=_list(Comparison), partings_=_list(Parting), movements_=_list(Movement),
)  # fmt: skip
Version = _object(Lossless, tensors_=Held, replaced_=dict[str, Share])
KINDS: dict[str, Any] = {
    "run": _object(
        Result, suite_=str, runs=_list(Run), histories=dict[str, str], arms_=_dict(Object),
        summary_=_dict(_object(methods=_dict(Method), ratios=_dict(Ratio))),
    ),
    "replay": _object(
        Result, traces=_list(Trace), warm=_list(Trace), ablation=list[str], peers=dict[str, str], rows=_list(Row),
    ),
    "curve": _object(Result, curves=_list(Curve), chosen=Setting),
    "lossless": Lossless,
    "schemas": _object(Result, answers=_dict(Object), spelling=_dict(Spelling), summary_=_dict(Bound)),
    "branch": _object(Result, cells=_list(Simulated), agreement=dict[str, Share]),
    "sameness": _object(Result, suite_=str, source=_object(tensors=Held), types=_dict(Version)),
}  # fmt: skip


def check(found: object, kind: Any) -> None:
    """Does ``found`` hold what ``kind``, a type of this module, asks for?

    Raises:
        ValueError: it does not; one line says where and why.
    """
    try:
        msgspec.convert(found, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ValueError(str(error).replace("`", "")) from None

"""Random settings of every sampler, for property tests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from aded_local.llama import Sampling


def samplings(n_vocab: int) -> st.SearchStrategy[dict[str, Any]]:
    """Options of any samplers together, with a seed."""
    bias = st.one_of(st.floats(-20, 20), st.just(float("-inf")))
    return st.fixed_dictionaries(
        {"seed": st.integers(0, 1000), "temperature": st.sampled_from([0.0, 0.3, 0.8, 1.5])},
        optional={
            "top_k": st.sampled_from([0, 1, 5, 40]),
            "top_p": st.floats(0, 1),
            "min_p": st.floats(0, 0.5),
            "typical_p": st.floats(0, 1),
            "repeat_penalty": st.floats(0.8, 1.5),
            "presence_penalty": st.floats(-1, 2),
            "frequency_penalty": st.floats(-1, 2),
            "repeat_last_n": st.sampled_from([-1, 0, 3, 64]),
            "penalize_prompt": st.booleans(),
            "xtc_probability": st.floats(0, 1),
            "xtc_threshold": st.floats(0, 0.5),
            "dry_multiplier": st.floats(0, 2),
            "dry_allowed_length": st.integers(0, 3),
            "dry_penalty_last_n": st.sampled_from([-1, 0, 5, 64]),
            "dry_sequence_breakers": st.sampled_from([[], ["\n"], ["the", ":"]]),
            "mirostat_mode": st.sampled_from([0, 1, 2]),
            "mirostat_tau": st.floats(0.5, 8),
            "mirostat_eta": st.floats(0, 1),
            "logit_bias": st.dictionaries(st.integers(0, n_vocab - 1), bias, max_size=5),
        },
    )


def checked(options: dict[str, Any]) -> Sampling:
    """The settings as a target takes them."""
    held = {**options, "logit_bias": tuple(options.get("logit_bias", {}).items())}
    if "dry_sequence_breakers" in options:
        held["dry_sequence_breakers"] = tuple(options["dry_sequence_breakers"])
    return Sampling(**held)

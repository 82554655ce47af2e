"""What callers give, checked before anything is done with it: one line says what is wrong.

Where llama.cpp's programs have a number that means "you choose" (-1, for a context 0), it means here what None means.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, TypedDict

import numpy as np

from aded_local.errors import OptionError, PromptError
from aded_local.llama import Sampling
from aded_local.llama.context import SMALLEST_CONTEXT

LARGEST_CONTEXT: Final = 2**20
"""Tokens of context accepted at most: a typing error above that, not a wish."""

LARGEST_THREADS: Final = 512
"""llama.cpp ends the process above this many (``GGML_MAX_N_THREADS``, ggml.h)."""

MOST_LAYERS: Final = 10_000
"""Layers accepted at most: no model has as many."""

LONGEST_TIMEOUT: Final = 1e9
"""Seconds accepted at most: what the operating system's clocks can count."""

YOU_CHOOSE: Final = -1
"""llama.cpp's number for "not limited" (``-n``), "random" (``--seed``) and its own choice of threads (``-t``)."""


class Options(TypedDict, total=False):
    """What may be asked of an answer; None, or leaving it out, leaves the choice open.

    Attributes:
        max_tokens: tokens wanted at most; without, or with -1, it goes on until the model ends the answer or the
            context is full, which may be thousands of tokens.
        temperature, top_k, top_p, min_p, repeat_penalty: see ``Sampling``; without, what the model suggests
            (``general.sampling.*`` in the GGUF), else llama.cpp's default.
        seed: of the random draws; without, the object's, and -1 draws one. The same seed gives the same answer with
            ``exact`` or ``draft="off"`` in one setting of attention and cache; else drafts follow measured times, and
            wider passes round differently.
        stop: texts that end the answer and are not part of it.
    """

    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repeat_penalty: float | None
    seed: int | None
    stop: str | Sequence[str] | None


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of one answer, checked.

    Attributes:
        sampling: how its tokens are chosen.
        max_tokens: tokens at most; None for as many as the context holds.
        stop: texts that end it.
    """

    sampling: Sampling
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()

    @classmethod
    def of(cls, options: Options, suggested: Mapping[str, float], object_seed: int | None) -> Request:
        """What the caller gave, else what the model suggests, else llama.cpp's default.

        Args:
            options: of the caller.
            suggested: by the model's maker, by our names.
            object_seed: what counts where the caller gave no seed.

        Raises:
            OptionError: one is out of range, or there is no such option.
        """
        known = Options.__annotations__
        unknown = [name for name in options if name not in known]
        if unknown:
            raise OptionError(f"there is no option {unknown[0]!r}; there are {', '.join(known)}")
        given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        max_tokens, stop = given.pop("max_tokens", None), given.pop("stop", None)
        names = {field.name for field in fields(Sampling)}
        chosen: dict[str, Any] = {name: value for name, value in suggested.items() if name in names}
        seed = seed_of(given.pop("seed")) if "seed" in given else object_seed
        return cls(
            Sampling(**{**chosen, **given, "seed": seed}),
            whole("max_tokens", max_tokens, 1, LARGEST_CONTEXT, you_choose=YOU_CHOOSE),
            stop_texts(stop),
        )


def whole(name: str, value: object, low: int, high: int, *, you_choose: int | None = None) -> int | None:
    """A whole number from ``low`` to ``high``; None where the choice is left open, which ``you_choose`` does too.

    Raises:
        OptionError: it is none, or out of range.
    """
    if value is None:
        return None
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        if value == you_choose:
            return None
        if low <= value <= high:
            return int(value)
    also = "" if you_choose is None or low <= you_choose <= high else f", or {you_choose} to leave it open"
    raise OptionError(f"{name} is {value!r}; it must be a whole number from {low} to {high}{also}")


def context_size(value: object) -> int | None:
    """Tokens of context; None for as many as model and memory allow."""
    return whole("n_ctx", value, SMALLEST_CONTEXT, LARGEST_CONTEXT, you_choose=0)


def threads(value: object) -> int | None:
    """CPU threads; None for the physical cores."""
    return whole("n_threads", value, 1, LARGEST_THREADS, you_choose=YOU_CHOOSE)


def layers(value: object) -> int | None:
    """Layers on the GPU; None for all."""
    return whole("n_gpu_layers", value, 0, MOST_LAYERS, you_choose=YOU_CHOOSE)


def seed_of(value: object) -> int | None:
    """A seed; None to draw one."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value == YOU_CHOOSE:
        return None
    return Sampling(seed=value).seed  # type: ignore[arg-type]  # it looks itself


def require_flags(**given: object) -> None:
    """Refuse what is no truth value: a text like ``"off"`` would count as true.

    Raises:
        OptionError: one is neither a bool nor None.
    """
    for name, value in given.items():
        if value is not None and not isinstance(value, (bool, np.bool_)):
            raise OptionError(f"{name} is {value!r}; it must be True or False")


def seconds(name: str, value: object) -> float | None:
    """Seconds to wait at most; None for as long as it takes.

    Raises:
        OptionError: it is no such number.
    """
    if value is None:
        return None
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not is_number or not 0 <= value < LONGEST_TIMEOUT:  # type: ignore[operator]
        raise OptionError(f"{name} is {value!r}; it must be seconds, or None")
    return float(value)  # type: ignore[arg-type]


def stop_texts(stop: str | Iterable[str] | None) -> tuple[str, ...]:
    """The texts that end an answer; none where None.

    Raises:
        OptionError: there is something else among them, or an empty text.
    """
    try:
        texts = () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)
    except TypeError:
        texts = (None,)  # type: ignore[assignment]
    if any(not isinstance(text, str) or not text for text in texts):
        raise OptionError(f"stop is {stop!r}; it must be texts that are not empty, or None")
    return texts


def token_ids(prompt: Iterable[int], n_vocab: int) -> list[int]:
    """The ids of a prompt that is no text.

    Raises:
        PromptError: it is none of ids within the vocabulary.
    """
    if isinstance(prompt, (bytes, bytearray, memoryview)):
        raise PromptError(f"the prompt is {type(prompt).__name__}; give text: bytes.decode makes it of them")
    try:
        given = list(prompt)
    except TypeError:
        kind = type(prompt).__name__
        raise PromptError(f"a prompt is a text or a list of token ids, not {kind}") from None
    ids: list[int] = []
    for token in given:
        try:
            if isinstance(token, bool):
                raise TypeError
            ids.append(operator.index(token))
        except TypeError:
            kind = type(token).__name__
            raise PromptError(f"token ids are whole numbers, and the prompt holds a {kind}") from None
    for token in ids:
        if not 0 <= token < n_vocab:
            raise PromptError(f"token id {token} is outside the vocabulary of {n_vocab}")
    return ids

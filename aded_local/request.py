"""What callers give, checked before anything is done with it: one line says what is wrong.

Where llama.cpp's programs have a number that means "you choose" (-1, for a context 0), it means here what None means.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, TypedDict, get_args

import numpy as np

from aded_local.errors import ContextOverflowError, GrammarError, OptionError, PromptError
from aded_local.llama import ALL_LAYERS, Sampling, Steering
from aded_local.llama.context import SMALLEST_CONTEXT
from aded_local.llama.sampling import FORBIDDEN, biases
from aded_local.llama.steering import UNSTEERED, LogitsProcessor, StoppingCriterion, functions

LARGEST_CONTEXT: Final = 2**20
"""Tokens of context accepted at most: a typing error above that, not a wish."""

LARGEST_THREADS: Final = 512
"""llama.cpp ends the process above this many (``GGML_MAX_N_THREADS``, ggml.h)."""

MOST_LAYERS: Final = 10_000
"""Layers accepted at most: no model has as many."""

LONGEST_TIMEOUT: Final = 1e9
"""Seconds accepted at most: what the operating system's clocks can count."""

MOST_LOGPROBS: Final = 1024
"""Likeliest tokens beside each that a call may ask for; more is a typing error. Chosen."""

LARGEST_GRAMMAR: Final = 2**20
"""Characters of a grammar or a schema at most, before anything reads it. Chosen."""

LONG_FOR_A_TOKEN: Final = 16
"""Bytes a token of the context, above which a text is looked at before it is tokenized: English has four or five, so
what has more is seldom a prompt, and shorter texts are not kept waiting for a look at the vocabulary. Chosen."""

DraftChoice = Literal["auto", "off"]
"""Whether an answer is drafted: as the object was opened, or not."""

YOU_CHOOSE: Final = -1
"""llama.cpp's number for "not limited" (``-n``), "random" (``--seed``) and its own choice of threads (``-t``)."""


class Options(TypedDict, total=False):
    """What may be asked of an answer; None, or leaving it out, leaves the choice open.

    Attributes:
        max_tokens: tokens wanted at most; without, or with -1, it goes on until the model ends the answer or the
            context is full, which may be thousands of tokens.
        temperature, top_k, top_p, min_p, typical_p, repeat_penalty, presence_penalty, frequency_penalty,
            repeat_last_n, penalize_prompt, xtc_probability, xtc_threshold, dry_multiplier, dry_base,
            dry_allowed_length, dry_penalty_last_n, dry_sequence_breakers, mirostat_mode, mirostat_tau, mirostat_eta,
            logit_bias: see ``Sampling``; without, what the model suggests (``general.sampling.*`` in the GGUF), else
            llama.cpp's default.
        seed: of the random draws; without, the object's, and -1 draws one. The same seed gives the same answer with
            ``exact`` or ``draft="off"`` in one setting of attention and cache; else drafts follow measured times, and
            wider passes round differently.
        stop: texts that end the answer and are not part of it.
        logprobs: the number of likeliest tokens to tell beside each token of the answer; 0 tells of the token alone.
        grammar: what the answer keeps to, in llama.cpp's notation (GBNF).
        json_schema: the same as a JSON schema, a mapping or its text; ``{}`` is any JSON object.
        logits_processor: called as ``processor(input_ids, scores)`` before each token is chosen, with the tokens so far
            and a copy of the logits; returns the logits to choose from. One, or a list of them.
        stopping_criteria: called as ``criterion(input_ids, logits)`` before each token is chosen; where it is true, the
            answer ends there. One, or a list. What these functions raise ends the answer and reaches the caller.
        draft: ``off`` decodes this answer plainly; ``auto`` drafts as the object was opened to.
        wait: wait until other answers of this object have ended, first come, first served; without it a second answer
            of a session is a BusyError.
    """

    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    repeat_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repeat_last_n: int | None
    penalize_prompt: bool | None
    xtc_probability: float | None
    xtc_threshold: float | None
    dry_multiplier: float | None
    dry_base: float | None
    dry_allowed_length: int | None
    dry_penalty_last_n: int | None
    dry_sequence_breakers: Sequence[str] | None
    mirostat_mode: int | None
    mirostat_tau: float | None
    mirostat_eta: float | None
    logit_bias: Mapping[int, float] | None
    seed: int | None
    stop: str | Sequence[str] | None
    logprobs: int | None
    grammar: str | None
    json_schema: Mapping[str, object] | str | None
    logits_processor: LogitsProcessor | Sequence[LogitsProcessor] | None
    stopping_criteria: StoppingCriterion | Sequence[StoppingCriterion] | None
    draft: DraftChoice | None
    wait: bool | None


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of one answer, checked.

    Attributes:
        sampling: how its tokens are chosen.
        max_tokens: tokens at most; None for as many as the context holds.
        stop: texts that end it.
        steering: functions of the caller's, and log-probabilities; the grammar is not compiled yet.
        grammar: in GBNF; None where there is none.
        json_schema: a mapping, or JSON text; None where there is none.
        is_plain: it is not drafted, whatever the object was opened to.
        waits: it queues while another is computed.
    """

    sampling: Sampling
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    steering: Steering = UNSTEERED
    grammar: str | None = None
    json_schema: Mapping[str, object] | str | None = None
    is_plain: bool = False
    waits: bool = False

    @classmethod
    def of(
        cls, options: Options, suggested: Mapping[str, float], object_seed: int | None, n_vocab: int
    ) -> Request:
        """What the caller gave, else what the model suggests, else llama.cpp's default.

        Args:
            options: of the caller.
            suggested: by the model's maker, by our names.
            object_seed: what counts where the caller gave no seed.
            n_vocab: tokens of the model.

        Raises:
            OptionError: one is out of range, or there is no such option.
            GrammarError: grammar or schema are too long, or both are given.
        """
        known = Options.__annotations__
        unknown = [name for name in options if name not in known]
        if unknown:
            raise OptionError(f"there is no option {unknown[0]!r}; there are {', '.join(known)}")
        given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        names = {field.name for field in fields(Sampling)}
        chosen: dict[str, Any] = {name: value for name, value in suggested.items() if name in names}
        chosen.update((name, given.pop(name)) for name in names & given.keys())
        chosen["seed"] = seed_of(chosen["seed"]) if "seed" in chosen else object_seed
        if "logit_bias" in chosen:
            chosen["logit_bias"] = biases(chosen["logit_bias"])
        if "dry_sequence_breakers" in chosen:
            chosen["dry_sequence_breakers"] = _breakers(chosen["dry_sequence_breakers"])
        sampling = Sampling(**chosen)
        _require_known_tokens(sampling.logit_bias, n_vocab)
        wait, draft = given.get("wait"), given.get("draft")
        require_flags(wait=wait)
        if draft is not None and draft not in get_args(DraftChoice):
            raise OptionError(f"draft is {draft!r}; for one answer it must be 'auto' or 'off'")
        grammar, schema = given.get("grammar"), given.get("json_schema")
        _require_one_grammar(grammar, schema)
        return cls(
            sampling,
            whole("max_tokens", given.get("max_tokens"), 1, LARGEST_CONTEXT, you_choose=YOU_CHOOSE),
            stop_texts(given.get("stop")),
            Steering(
                processors=functions("logits_processor", given.get("logits_processor")),
                criteria=functions("stopping_criteria", given.get("stopping_criteria")),
                logprobs=whole("logprobs", given.get("logprobs"), 0, MOST_LOGPROBS),
            ),
            grammar,
            schema,
            is_plain=draft == "off",
            waits=bool(wait),
        )


def _breakers(given: object) -> tuple[str, ...]:
    """``dry_sequence_breakers`` as ``Sampling`` takes it; what it holds, ``Sampling`` checks."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise OptionError(f"dry_sequence_breakers is {given!r}; it must be a list of texts")
    return tuple(given)


def _require_known_tokens(pairs: tuple[tuple[int, float], ...], n_vocab: int) -> None:
    for token, _ in pairs:
        if token >= n_vocab:
            raise OptionError(f"logit_bias names token {token}; the vocabulary has {n_vocab}")
    if sum(bias == FORBIDDEN for _, bias in pairs) >= n_vocab:
        raise OptionError("logit_bias forbids every token of the vocabulary; leave one")


def _require_one_grammar(grammar: object, schema: object) -> None:
    """Refuse what cannot be a grammar or a schema; whether it is one, its compilation says."""
    if grammar is not None and schema is not None:
        raise OptionError("grammar and json_schema were both given; leave one out")
    if grammar is not None and not isinstance(grammar, str):
        raise OptionError(f"grammar is {type(grammar).__name__}; it must be text in GBNF")
    if schema is not None and not isinstance(schema, (str, Mapping)):
        raise OptionError(f"json_schema is {type(schema).__name__}; it must be a mapping or JSON text")
    for name, given in (("grammar", grammar), ("json_schema", schema)):
        if isinstance(given, str) and len(given) > LARGEST_GRAMMAR:
            raise GrammarError(f"{name} has {len(given)} characters; at most {LARGEST_GRAMMAR} are read")


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


def threads(value: object, name: str = "n_threads") -> int | None:
    """CPU threads; None for the physical cores."""
    return whole(name, value, 1, LARGEST_THREADS, you_choose=YOU_CHOOSE)


def layers(value: object, name: str = "n_gpu_layers") -> int:
    """Layers on the GPU, ``ALL_LAYERS`` where the choice is left open."""
    found = whole(name, value, 0, MOST_LAYERS, you_choose=YOU_CHOOSE)
    return ALL_LAYERS if found is None else found


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


def require_short(given: object, n_ctx: int, longest_token: Callable[[], int]) -> None:
    """Refuse texts before they are tokenized, which takes seconds a megabyte, where no tokens could be few enough.

    Args:
        given: a text, or lists and dicts that hold texts, such as messages.
        n_ctx: tokens of context.
        longest_token: gives the bytes that a token spells at most.

    Raises:
        ContextOverflowError: they are too long.
    """
    n_bytes, left = 0, [given]
    while left:
        each = left.pop()
        if isinstance(each, str):
            n_bytes += len(each.encode("utf-8", errors="replace"))
        elif isinstance(each, Mapping):
            left += each.values()
        elif isinstance(each, (list, tuple)):
            left += each
    if n_bytes > LONG_FOR_A_TOKEN * n_ctx and n_bytes > longest_token() * n_ctx:
        raise ContextOverflowError(
            f"the prompt has {n_bytes:,} bytes, and the {n_ctx:,} tokens that the context holds cannot spell as many; "
            "shorten it, or raise -c (n_ctx)"
        )


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

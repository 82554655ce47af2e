"""A sampler that is steered: by a grammar, by a person's own functions; and one that says how likely its tokens were.

It chooses once for each token of the answer, in order, drafted or not, and each time from the row of logits behind the
right tokens. So drafts that it disagrees with are refused as ever, and the text is that of plain decoding.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aded_local.errors import GrammarError, OptionError
from aded_local.llama.context import Context
from aded_local.llama.grammar import CANDIDATE, Grammar, GrammarState
from aded_local.llama.loading import lib
from aded_local.llama.sampler import Sampler
from aded_local.llama.sampling import FORBIDDEN, Sampling
from aded_local.logprobs import TokenLogprob, token_logprob
from aded_local.tree import FloatArray, IntArray

LogitsProcessor = Callable[[IntArray, FloatArray], FloatArray]
"""Given the tokens so far, int32 ``(n,)``, and the logits of the next, float32 ``(n_vocab,)``: other logits."""

StoppingCriterion = Callable[[IntArray, FloatArray], bool]
"""Given the same: whether the answer ends here, before the next token."""

ENDED: Final = -1
"""What ``SteeredSampler.sample`` returns in place of a token where the answer ends before it."""

LOOKED_AT: Final = 128
"""Likeliest tokens that a grammar is asked about before the whole vocabulary is. Chosen: it nearly always allows one of
them, and asking about 50,000 takes milliseconds."""


@dataclass(frozen=True, slots=True)
class Steering:
    """What else is asked of the choice of tokens.

    Attributes:
        grammar: what the answer must keep to.
        processors: change the logits before the samplers, one after the other.
        criteria: end the answer.
        logprobs: the number of likeliest tokens wanted beside each; None wants no log-probabilities.
    """

    grammar: Grammar | None = None
    processors: tuple[LogitsProcessor, ...] = ()
    criteria: tuple[StoppingCriterion, ...] = ()
    logprobs: int | None = None

    @property
    def is_any(self) -> bool:
        """Whether anything is asked."""
        return bool(self.grammar or self.processors or self.criteria) or self.logprobs is not None


UNSTEERED: Final = Steering()


class SteeredSampler(Sampler):
    """See this module's first lines.

    Args:
        context, sampling, prompt: as for ``Sampler``.
        steering: what is asked.

    Attributes:
        logprobs: of the tokens chosen so far, where they are wanted.
    """

    def __init__(self, context: Context, sampling: Sampling, prompt: list[int], steering: Steering) -> None:
        super().__init__(context, sampling, prompt)
        self._steering = steering
        self._grammar = None if steering.grammar is None else steering.grammar.state()
        self._said = list(prompt) if steering.processors or steering.criteria else None
        self._candidates: npt.NDArray[Any] = np.empty(0, CANDIDATE)
        self._forbidden = [token for token, bias in sampling.logit_bias if bias == FORBIDDEN]
        self.logprobs: list[TokenLogprob] = []

    def sample(self, row: int) -> int:
        """The target's token after batch row ``row``; ``ENDED`` where a criterion ends the answer before it.

        Raises:
            OptionError: a processor did not return logits.
            GrammarError: the grammar allows no token.
            Exception: whatever a processor or a criterion raised.
        """
        steering = self._steering
        raw = self._context.logits(row)
        if any(criterion(self._tokens(), np.array(raw)) for criterion in steering.criteria):
            return ENDED
        scores = raw
        for processor in steering.processors:
            scores = self._checked(processor(self._tokens(), np.array(scores)))
        is_own = scores is raw and self._grammar is None
        token = super().sample(row) if is_own else self._chosen(scores)
        if self._said is not None:
            self._said.append(token)
        if steering.logprobs is not None:
            self.logprobs.append(token_logprob(raw, token, steering.logprobs))
        return token

    def _tokens(self) -> IntArray:
        """A copy of the tokens so far: whoever keeps or changes it changes nothing here."""
        return np.array(self._said, np.int32)

    def _checked(self, scores: object) -> FloatArray:
        """What a processor returned, as logits that llama.cpp can choose from: it ends the process at others."""
        try:
            found = np.asarray(scores, np.float32)
        except (TypeError, ValueError):
            found = np.empty(0, np.float32)
        n_vocab = self._context.model.n_vocab
        if found.shape != (n_vocab,):
            raise OptionError(
                f"a logits_processor returned {type(scores).__name__} of shape {np.shape(found)}; it must return "
                f"the logits, an array of {n_vocab} numbers"
            )
        if not np.isfinite(found.max()):  # NaN is the maximum where there is one
            raise OptionError(
                "a logits_processor returned NaN, infinity or no finite number; a token is forbidden by -inf, and "
                "one has to be left"
            )
        return found

    # --- choosing from logits that are not llama.cpp's own --------------------------------------------

    def _chosen(self, scores: FloatArray) -> int:
        """Choose and take note: freely at first and, where the grammar refuses that, from what it allows.

        llama.cpp's programs do the same, since asking a grammar about one token takes no time, and about all takes
        longer than choosing. Both ways the tokens that it allows keep their proportions.
        """
        token = self._drawn(scores, None)
        if self._grammar is not None:
            if not self._grammar.allows(token):
                token = self._drawn_allowed(scores, self._grammar)
            self._grammar.accept(token)
        if self._owned is not None:
            lib.llama_sampler_accept(self._owned.handle, token)
        return token

    def _drawn_allowed(self, scores: FloatArray, grammar: GrammarState) -> int:
        if self._owned is None and len(scores) > LOOKED_AT:
            first = np.argpartition(scores, -LOOKED_AT)[-LOOKED_AT:].astype(np.int32)
            first = first[np.lexsort((first, -scores[first]))]
            good = first[grammar.allowed(first) & np.isfinite(scores[first])]
            if len(good):
                return int(good[0])
        usable = np.isfinite(scores)
        usable[self._forbidden] = False
        every = np.arange(len(scores), dtype=np.int32)
        good = every[grammar.allowed(every) & usable]
        if not len(good):
            raise GrammarError(
                "the grammar allows no token of this model here; it may need a character that the vocabulary lacks, "
                "or logit_bias or a logits_processor forbids what it allows"
            )
        return self._drawn(scores, good)

    def _drawn(self, scores: FloatArray, among: IntArray | None) -> int:
        """Choose one of the tokens ``among``, or of all, without taking note of it.

        Args:
            scores: logits, float32 ``(n_vocab,)``, finite at ``among``.
            among: ids, ascending.
        """
        if self._owned is None:
            return int(scores.argmax()) if among is None else int(among[scores[among].argmax()])
        n = len(scores) if among is None else len(among)
        if len(self._candidates) < n:
            self._candidates = np.empty(len(scores), CANDIDATE)
        candidates = self._candidates[:n]
        candidates["id"] = np.arange(n) if among is None else among
        candidates["logit"] = scores if among is None else scores[among]
        candidates["p"] = 0.0
        pointer = candidates.ctypes.data_as(ctypes.POINTER(lib.llama_token_data))
        listed = lib.llama_token_data_array(pointer, n, -1, False)
        lib.llama_sampler_apply(self._owned.handle, ctypes.byref(listed))
        # A sampler may have moved the beginning of the list.
        return int(listed.data[listed.selected].id)


def functions(name: str, given: object) -> tuple[Any, ...]:
    """A person's functions: one, or several in a sequence; a callable sequence is one.

    Raises:
        OptionError: there is something else among them.
    """
    if given is None:
        return ()
    found = (given,) if callable(given) else tuple(given) if isinstance(given, Sequence) else (given,)
    if isinstance(given, (str, bytes)) or not all(callable(each) for each in found):
        raise OptionError(f"{name} is {given!r}; it must be a function, or a list of functions")
    return found

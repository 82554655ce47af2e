"""The part of ``Llama`` that goes token by token: ``eval``, ``sample``, ``generate``."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from aded_local.asking import ChatPrompt
from aded_local.errors import ContextOverflowError, OptionError
from aded_local.llama_compat.arguments import Seeds, answering
from aded_local.llama_compat.vocabulary import LlamaVocabulary
from aded_local.request import token_ids
from aded_local.session import Session
from aded_local.stream import Stream


class LlamaLoop(LlamaVocabulary):
    """See ``Llama``, which makes it.

    Attributes:
        last_n_tokens_size: tokens that penalties look back over.
    """

    last_n_tokens_size: int
    _session: Session
    _seeds: Seeds
    _evaluated: list[int] | None  # what ``eval`` was given and all before it; None for what the session said

    def _answer(
        self,
        prompt: ChatPrompt | list[int],
        max_tokens: int | None,
        seed: int | None,
        stop: str | Sequence[str] | None,
        options: dict[str, Any],
    ) -> Stream:
        """Ask the session; the length is what ``llama_cpp.Llama`` makes of ``max_tokens``."""
        tokens = prompt.tokens if isinstance(prompt, ChatPrompt) else prompt
        room = self.n_ctx() - len(tokens)
        if room < 1:
            raise ContextOverflowError(
                f"the prompt has {len(tokens)} tokens and the context holds {self.n_ctx()}; "
                "shorten it or raise n_ctx"
            )
        self._evaluated = None
        options |= {
            "max_tokens": room if max_tokens is None or max_tokens <= 0 else min(max_tokens, room),
            "seed": self._seeds.next(seed),
            "stop": stop,
            "repeat_last_n": self.last_n_tokens_size,
            "penalize_prompt": False,  # as there
            "wait": True,
        }
        if isinstance(prompt, ChatPrompt):
            return self._session.stream_chat(prompt, **options)
        return self._session.stream(prompt, **options)

    @property
    def input_ids(self) -> npt.NDArray[np.int32]:
        """Tokens that the next ``sample`` goes on from: what was evaluated, or the last prompt and its answer."""
        said = self._session.said if self._evaluated is None else self._evaluated
        return np.array(said, np.int32)

    @property
    def n_tokens(self) -> int:
        """How many."""
        return len(self.input_ids)

    def eval(self, tokens: Sequence[int]) -> None:
        """Go on with ``tokens``; they are decoded with the next ``sample``.

        Raises:
            PromptError: they are none of the vocabulary.
            ContextOverflowError: there is no room for them.
        """
        longer = self.input_ids.tolist() + token_ids(tokens, self.n_vocab())
        if len(longer) > self.n_ctx():
            raise ContextOverflowError(
                f"{len(longer)} tokens do not fit a context of {self.n_ctx()}; reset() or raise n_ctx"
            )
        self._evaluated = longer

    def sample(
        self,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        temp: float = 0.80,
        repeat_penalty: float = 1.0,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_eta: float = 0.1,
        mirostat_tau: float = 5.0,
        penalize_nl: bool = True,
        logits_processor: Any = None,
        grammar: Any = None,
        idx: int | None = None,
    ) -> int:
        """The next token's id; ``eval`` it to go on. The arguments are those of ``generate``.

        Raises:
            OptionError: ``idx`` asks for another place than the last.
            EmptyPromptError: nothing was evaluated.
        """
        tokens = self.input_ids.tolist()
        if idx not in (None, -1, len(tokens) - 1):
            raise OptionError(f"idx is {idx!r}; only the last token's logits are kept, so leave it out")
        options = answering({**locals(), "temperature": temp})
        stream = self._answer(tokens, 1, self._seeds.last, None, options)
        for _piece in stream:
            pass
        token = self._session.said[-1]
        self._evaluated = tokens
        return token

    def generate(
        self,
        tokens: Sequence[int],
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        temp: float = 0.80,
        repeat_penalty: float = 1.0,
        reset: bool = True,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        penalize_nl: bool = True,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        grammar: Any = None,
    ) -> Generator[int, Sequence[int] | None, None]:
        """Token ids that continue a prompt, to the end token, which is the last, or until the context is full.

        Args:
            tokens: the prompt.
            temp: temperature.
            reset: else the prompt goes on from ``input_ids``.
            penalize_nl, tfs_z: passed over, as there.
            top_k, top_p, min_p, typical_p, repeat_penalty, frequency_penalty, presence_penalty, mirostat_mode,
                mirostat_tau, mirostat_eta, logits_processor, stopping_criteria, grammar: see ``create_completion``.

        Yields:
            The next id. Ids that are sent into the generator come behind it.
        """
        options = answering({**locals(), "temperature": temp})
        prompt = token_ids(tokens, self.n_vocab())
        if not reset:
            prompt = self.input_ids.tolist() + prompt
        while True:
            sent = None
            pieces = self._answer(prompt, None, self._seeds.last, None, options)
            with contextlib.closing(pieces):
                for piece in pieces:
                    for token in piece.tokens:
                        prompt.append(token)
                        sent = yield token
                        if sent is not None:
                            break
                    if sent is not None:
                        break
            if sent is None:
                break
            prompt += token_ids(sent, self.n_vocab())
        said = self._session.said
        if len(said) > len(prompt):
            yield said[-1]

    def set_seed(self, seed: int) -> None:
        """What the seeds of the answers follow from."""
        self._seeds = Seeds(seed)

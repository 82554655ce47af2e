"""The part of ``Llama`` that answers: completions and chats, whole or chunk by chunk."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

from aded_local.asking import ChatPrompt
from aded_local.chat.detokenize import showing
from aded_local.chat.parsing import AnswerParser
from aded_local.chat.style import PLAIN
from aded_local.completions import (
    Heading,
    Shape,
    by_token,
    chat_chunks,
    chat_completion,
    completion,
    completion_chunks,
)
from aded_local.errors import EmptyPromptError, OptionError, TemplateError
from aded_local.llama_compat import functions as functions_of
from aded_local.llama_compat.arguments import answering, response_schema
from aded_local.llama_compat.loop import LlamaLoop
from aded_local.request import token_ids
from aded_local.result import Piece, TokenLogprob
from aded_local.spelling import Spelling
from aded_local.stream import Stream

Chunks = Generator[Shape, None, None]


class LlamaAnswers(LlamaLoop):
    """See ``Llama``, which makes it.

    Attributes:
        model_path: as given; the name in results.
        spm_infill: fill in with the suffix before the prefix.
    """

    model_path: str
    spm_infill: bool

    def _name(self, model: str | None) -> str:
        return self.model_path if model is None else model

    def create_completion(
        self,
        prompt: str | Sequence[int],
        suffix: str | None = None,
        max_tokens: int | None = 16,
        temperature: float = 0.8,
        top_p: float = 0.95,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        logprobs: int | None = None,
        echo: bool = False,
        stop: str | Sequence[str] | None = (),
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        repeat_penalty: float = 1.0,
        top_k: int = 40,
        stream: bool = False,
        seed: int | None = None,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        model: str | None = None,
        stopping_criteria: Any = None,
        logits_processor: Any = None,
        grammar: Any = None,
        logit_bias: Mapping[int, float] | None = None,
    ) -> Shape | Chunks:
        """Continue a text.

        Args:
            prompt: text, in which control-token texts become control tokens, or token ids.
            suffix: what comes behind: filled in between where the vocabulary has tokens for that, else put behind.
            max_tokens: tokens at most; None, 0 and less for as many as the context holds.
            logprobs: so many likeliest tokens beside each.
            echo: begin the text with the prompt.
            stream: chunk by chunk.
            model: its name in the result; None for ``model_path``.
            tfs_z: passed over, as there.
            temperature, top_p, min_p, typical_p, stop, frequency_penalty, presence_penalty, repeat_penalty, top_k,
                seed, mirostat_mode, mirostat_tau, mirostat_eta, stopping_criteria, logits_processor, logit_bias: see
                ``request.Options``. A negative temperature draws from the model's own softmax.
            grammar: GBNF text, or a ``llama_cpp.LlamaGrammar``.

        Returns:
            The completion, or with ``stream`` its chunks.

        Raises:
            PromptError, ContextOverflowError, OptionError, BusyError, DeviceError
        """
        options = answering(locals())
        heading = Heading.of_completion(self._name(model))
        tokens, is_filled_in = self._prompt_tokens(prompt, suffix)
        spelling = told = None
        if logprobs is not None:
            options["logprobs"] = logprobs
            is_echoed = echo and not stream
            spelling = Spelling(self._engine.model.piece, 0 if is_echoed else len(prompt))
            told = self._echoed_logprobs(tokens, spelling, logprobs) if is_echoed else None
        pieces = self._answer(tokens, max_tokens, seed, stop, options)
        if stream:
            by_tokens = by_token(pieces, self._engine.model.piece)
            return self._chunks(
                by_tokens, pieces, functools.partial(completion_chunks, spelling=spelling), heading
            )
        found = completion(
            pieces,
            heading,
            before=self._echoed(prompt) if echo else "",
            after="" if suffix is None or is_filled_in else suffix,
            spelling=spelling,
        )
        if told is not None:
            choice = found["choices"][0]
            choice["logprobs"] = {name: told[name] + values for name, values in choice["logprobs"].items()}
        return found

    __call__ = create_completion

    def create_chat_completion(
        self,
        messages: Sequence[Mapping[str, Any]],
        functions: Sequence[Mapping[str, Any]] | None = None,
        function_call: Any = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: Any = None,
        temperature: float = 0.2,
        top_p: float = 0.95,
        top_k: int = 40,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        stream: bool = False,
        stop: str | Sequence[str] | None = (),
        seed: int | None = None,
        response_format: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repeat_penalty: float = 1.0,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        model: str | None = None,
        logits_processor: Any = None,
        grammar: Any = None,
        logit_bias: Mapping[int, float] | Mapping[str, float] | None = None,
        logprobs: bool | None = None,
        top_logprobs: int | None = None,
    ) -> Shape | Chunks:
        """Answer a conversation through the model's own chat template.

        Args:
            messages: see ``Session.stream_chat``. What they say never becomes a control token.
            functions, function_call: OpenAI's older words for ``tools`` and ``tool_choice``.
            tools: functions that the model may call.
            tool_choice: ``none``, ``auto``, ``required``, or a function that is to be called.
            response_format: ``json_object``, with a ``schema`` or without; ``json_schema``.
            logprobs: tell how likely each token was.
            top_logprobs: so many likeliest tokens beside each.
            max_tokens: None, 0 and less for as many as the context holds.
            temperature, top_p, top_k, min_p, typical_p, stream, stop, seed, presence_penalty, frequency_penalty,
                repeat_penalty, tfs_z, mirostat_mode, mirostat_tau, mirostat_eta, model, logits_processor, grammar,
                logit_bias: see ``create_completion``.

        Returns:
            The answer, or with ``stream`` its chunks.

        Raises:
            PromptError, ContextOverflowError, TemplateError, OptionError, BusyError, DeviceError
        """
        options = answering(locals())
        tools, tool_choice = functions_of.as_tools(functions, function_call, tools, tool_choice)
        function = functions_of.chosen_function(tools, tool_choice)
        schema = response_schema(response_format) if function is None else function.get("parameters", {})
        if schema is not None:
            options["json_schema"] = schema
            options.pop("grammar", None)
        spelling = None
        if logprobs:
            options["logprobs"] = top_logprobs or 0
            spelling = Spelling(self._engine.model.piece)
        heading = Heading.of_chat(self._name(model))
        prompt = self._chat_prompt(messages, tools, tool_choice, function)
        pieces = self._answer(prompt, max_tokens, seed, stop, options)
        whole: Callable[..., Shape] = chat_completion
        chunked: Callable[..., Iterator[Shape]] = chat_chunks
        named: dict[str, Any] = {"spelling": spelling}
        if function is not None:
            whole, chunked = functions_of.function_completion, functions_of.function_chunks
            named["name"] = function["name"]
        elif prompt.style != PLAIN:
            named["parser"] = AnswerParser(prompt.style)
        if not stream:
            return whole(pieces, heading, **named)
        tokens = by_token(pieces, showing(self._engine.model, prompt.style.markers))
        return self._chunks(tokens, pieces, functools.partial(chunked, **named), heading)

    def create_chat_completion_openai_v1(self, *args: Any, **kwargs: Any) -> Any:
        """As ``create_chat_completion``, in the types of the ``openai`` package.

        Raises:
            OptionError: the package is not installed.
        """
        try:
            from openai.types.chat import ChatCompletion, ChatCompletionChunk
        except ImportError:
            raise OptionError(
                "create_chat_completion_openai_v1 needs OpenAI's client; install it with pip install openai"
            ) from None
        found = self.create_chat_completion(*args, **kwargs)
        if isinstance(found, dict):
            return ChatCompletion(**found)
        return (ChatCompletionChunk(**chunk) for chunk in found)

    def _chunks(
        self,
        pieces: Iterable[Piece],
        stream: Stream,
        chunked: Callable[[Iterable[Piece], Heading], Iterator[Shape]],
        heading: Heading,
    ) -> Chunks:
        """A chunk for each token, as there. This object stays open until the last one."""
        with contextlib.closing(stream):
            yield from chunked(pieces, heading)

    def _chat_prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: functions_of.Tools | None,
        tool_choice: Any,
        function: Mapping[str, Any] | None,
    ) -> ChatPrompt:
        """The prompt a conversation becomes; where a function is to be called, its schema alone binds the answer."""
        self._session.require_short([messages, tools])
        if function is None:
            return self._session.chat_prompt(messages, tools=tools, tool_choice=tool_choice)
        try:
            return self._session.chat_prompt(messages, tools=tools)
        except TemplateError:  # the template may have no place for tools
            return self._session.chat_prompt(messages)

    def _prompt_tokens(self, prompt: str | Sequence[int], suffix: str | None) -> tuple[list[int], bool]:
        """A prompt's token ids; and whether the suffix is in them."""
        model = self._engine.model
        self._session.require_short([prompt, suffix])
        with self._engine.access.reading():
            infill = None if suffix is None else model.infill
            if isinstance(prompt, str):
                tokens = model.tokenize(prompt, add_special=infill is None, parse_special=infill is None)
            else:
                tokens = token_ids(prompt, model.n_vocab)
            if infill is not None and suffix is not None:
                before, behind, middle = infill
                rest = [behind, *model.tokenize(suffix, add_special=False, parse_special=False)]
                start = [model.bos] if model.adds_bos and isinstance(prompt, str) else []
                first = [before, *tokens]
                tokens = [*start, *(rest + first if self.spm_infill else first + rest), middle]
        if not tokens:
            raise EmptyPromptError("the prompt is empty; write something to go on from")
        return tokens, infill is not None

    def _echoed_logprobs(self, tokens: list[int], spelling: Spelling, n_top: int) -> Shape:
        """Those of a prompt's own tokens, which the answer's come behind; nothing came before the first."""
        found = self._session.prompt_logprobs(tokens, n_top)
        if tokens[0] != self.token_bos():
            found.insert(0, TokenLogprob(tokens[0], 0.0))
        told = spelling.of(found)
        for name in ("token_logprobs", "top_logprobs"):
            told[name][:1] = [None] * len(told[name][:1])
        return told

    def _echoed(self, prompt: str | Sequence[int]) -> str:
        return prompt if isinstance(prompt, str) else self.detokenize(prompt).decode("utf-8", errors="ignore")

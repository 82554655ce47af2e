"""``llama_cpp.Llama``'s calls on this engine: its argument names, its defaults, its results key by key.

``from aded_local import Llama`` in place of ``from llama_cpp import Llama`` is all that a program changes.
docs/llama-cpp-python.md says what differs.
"""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aded_local import llama_functions as functions_of
from aded_local.api import LocalADED
from aded_local.completions import (
    Heading,
    Shape,
    Spelling,
    by_token,
    chat_chunks,
    chat_completion,
    completion,
    completion_chunks,
    embeddings,
)
from aded_local.embedding import LONGEST_TEXT, TextEmbedder
from aded_local.errors import ADEDError, ContextOverflowError, EmptyPromptError, OptionError
from aded_local.hub import downloaded
from aded_local.llama import SavedCells
from aded_local.llama.context import ContextSettings
from aded_local.llama.embedding import MODELS_OWN, POOLINGS
from aded_local.llama_arguments import RANDOM_SEED, Seeds, answering, opening, response_schema
from aded_local.request import token_ids
from aded_local.result import Piece
from aded_local.shown import visible
from aded_local.speed.pricing import Same

Chunks = Generator[Shape, None, None]

OWN_ARGUMENTS: Final = ("draft", "same", "memory", "store", "chat_template", "on_progress", "on_notice")
"""Arguments of ``Llama`` that ``llama_cpp.Llama`` has not: ``LocalADED``'s."""


@dataclass(frozen=True, slots=True)
class LlamaState:
    """A conversation's cells, to go on from later; the names are those of ``llama_cpp.LlamaState``.

    Attributes:
        input_ids: tokens in the cells, int32 ``(n_tokens,)``.
        scores: none are kept, float32 ``(0, n_vocab)``.
        n_tokens: how many.
        llama_state: llama.cpp's own copy.
        llama_state_size: its bytes.
        seed: what the next answer's seed follows from.
        settings: of the context that it fits.
    """

    input_ids: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]
    n_tokens: int
    llama_state: bytes
    llama_state_size: int
    seed: int
    settings: ContextSettings


class Llama:
    """A GGUF that answers as ``llama_cpp.Llama`` does, with drafting.

    Arguments that change no answer here are passed over with one notice; ``CANNOT`` of ``llama_arguments`` has those
    that are refused. Close it, or use it in a ``with`` block; one that is dropped is closed.

    Args:
        model_path: the GGUF, or a model's name (``smollm2``).
        n_gpu_layers: layers on the GPU; -1 for all.
        seed: what the seeds of the answers follow from.
        n_ctx: tokens of context; 0 is what the model was trained with.
        n_batch: tokens of a text that ``embed`` takes at most.
        n_threads: CPU threads at most; None takes the physical cores.
        flash_attn: None measures which suits; so do ``type_k`` and ``type_v``, which are ``enum ggml_type``.
        pooling_type: of embeddings, ``enum llama_pooling_type``.
        last_n_tokens_size: tokens that penalties look back over.
        chat_format: ``chatml``; None is the model's own template.
        spm_infill: fill in with the suffix before the prefix.
        verbose: llama.cpp's log on standard error.
        draft, same, memory, store, chat_template, on_progress, on_notice: see ``LocalADED``.
        arguments_of_other_versions: passed over, with a notice.

    Raises:
        OptionError: an argument is out of range, or cannot be followed.
        ModelError, DeviceError, StoreError, ForkedError: see ``LocalADED``.
    """

    def __init__(
        self,
        model_path: str | Path,
        *,
        n_gpu_layers: int = 0,
        split_mode: int = 1,
        main_gpu: int = 0,
        tensor_split: list[float] | None = None,
        vocab_only: bool = False,
        use_mmap: bool = True,
        use_mlock: bool = False,
        kv_overrides: Mapping[str, bool | int | float | str] | None = None,
        seed: int = RANDOM_SEED,
        n_ctx: int = 512,
        n_batch: int = LONGEST_TEXT,
        n_ubatch: int = 512,
        n_threads: int | None = None,
        n_threads_batch: int | None = None,
        rope_scaling_type: int | None = -1,
        pooling_type: int = MODELS_OWN,
        attention_type: int = -1,
        rope_freq_base: float = 0.0,
        rope_freq_scale: float = 0.0,
        yarn_ext_factor: float = -1.0,
        yarn_attn_factor: float = 1.0,
        yarn_beta_fast: float = 32.0,
        yarn_beta_slow: float = 1.0,
        yarn_orig_ctx: int = 0,
        logits_all: bool = False,
        embedding: bool = False,
        offload_kqv: bool = True,
        flash_attn: bool | None = None,
        op_offload: bool | None = None,
        swa_full: bool | None = None,
        no_perf: bool = False,
        last_n_tokens_size: int = 64,
        lora_base: str | None = None,
        lora_scale: float = 1.0,
        lora_path: str | None = None,
        numa: bool | int = False,
        chat_format: str | None = None,
        chat_handler: Any = None,
        draft_model: Any = None,
        tokenizer: Any = None,
        type_k: int | None = None,
        type_v: int | None = None,
        spm_infill: bool = False,
        verbose: bool = True,
        draft: str = "auto",
        same: Same | None = None,
        memory: bool = False,
        store: str | Path | None = None,
        chat_template: str | Path | None = None,
        on_progress: Callable[[str], None] | None = None,
        on_notice: Callable[[str], None] | None = None,
        **arguments_of_other_versions: Any,
    ) -> None:
        given = {name: value for name, value in locals().items() if name != "self"}
        others = given.pop("arguments_of_other_versions")
        self._arguments: dict[str, Any] = {**given, **others}
        how = opening(given, others)
        if how.ignored:
            (on_notice or _warn)(f"passed over, since it changes no answer here: {', '.join(how.ignored)}")
        self._poolings = {number: name for name, number in POOLINGS.items()} | {MODELS_OWN: None}
        if pooling_type not in self._poolings:
            raise OptionError(f"pooling_type is {pooling_type!r}; it must be one of {list(self._poolings)}")
        self._local = LocalADED(model_path, **how.options)
        self._engine = self._local._engine
        self._session = self._local.session()
        self._embedder = TextEmbedder(self._engine, longest=n_batch, pooling=self._poolings[pooling_type])
        self._seeds = Seeds(seed)
        self._evaluated: list[int] | None = None
        self.model_path = str(model_path)
        self.verbose = verbose
        self.chat_format = chat_format
        self.n_batch = n_batch
        self.last_n_tokens_size = last_n_tokens_size
        self.spm_infill = spm_infill
        self.metadata: dict[str, str] = self._engine.model.metadata_texts()

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        filename: str | None,
        additional_files: list[str] | None = None,
        local_dir: str | os.PathLike[str] | None = None,
        local_dir_use_symlinks: bool | str = "auto",
        cache_dir: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> Llama:
        """Open a model of the Hugging Face Hub, downloaded if need be; see ``hub.downloaded``.

        Args:
            repo_id: owner and name.
            filename: of the GGUF, or a pattern that fits one file.
            additional_files: other parts of a split model, by name or pattern.
            local_dir, cache_dir: where the files are put.
            local_dir_use_symlinks: passed over, as the hub's client does.
            kwargs: of ``Llama``.
        """
        path = downloaded(repo_id, filename, additional_files or (), local_dir=local_dir, cache_dir=cache_dir)
        return cls(path, **kwargs)

    # --- completions -----------------------------------------------------------------------------

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
            temperature, top_p, min_p, typical_p, stop, frequency_penalty, presence_penalty, repeat_penalty, top_k, seed,
                mirostat_mode, mirostat_tau, mirostat_eta, stopping_criteria, logits_processor, logit_bias: see
                ``request.Options``. A negative temperature draws from the model's own softmax.
            grammar: GBNF text, or a ``llama_cpp.LlamaGrammar``.

        Returns:
            The completion, or with ``stream`` its chunks.

        Raises:
            PromptError, ContextOverflowError, OptionError, BusyError, DeviceError
        """
        options = answering(locals())
        heading = Heading.of_completion(model or self.model_path)
        tokens, is_filled_in = self._prompt_tokens(prompt, suffix)
        if echo and logprobs is not None:
            raise OptionError(
                "echo with logprobs cannot be done: a prompt's own tokens have none; leave one out"
            )
        spelling = None
        if logprobs is not None:
            options["logprobs"] = logprobs
            spelling = Spelling(self._engine.model.piece, len(prompt))
        pieces = self._answer(self._session.stream, tokens, max_tokens, seed, stop, options)
        if stream:
            return self._chunks(pieces, functools.partial(completion_chunks, spelling=spelling), heading)
        return completion(
            pieces,
            heading,
            before=self._echoed(prompt) if echo else "",
            after="" if suffix is None or is_filled_in else suffix,
            spelling=spelling,
        )

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
        heading = Heading.of_chat(model or self.model_path)
        tokens = self._session.chat_tokens(messages)
        pieces = self._answer(self._session.stream_chat, tokens, max_tokens, seed, stop, options)
        if function is None:
            whole, chunked = chat_completion, chat_chunks
            named: dict[str, Any] = {"spelling": spelling}
        else:
            whole, chunked = functions_of.function_completion, functions_of.function_chunks
            named = {"spelling": spelling, "name": function["name"]}
        if stream:
            return self._chunks(pieces, functools.partial(chunked, **named), heading)
        return whole(pieces, heading, **named)

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

    def _answer(
        self,
        stream: Callable[..., Generator[Piece, None, None]],
        tokens: list[int],
        max_tokens: int | None,
        seed: int | None,
        stop: str | Sequence[str] | None,
        options: dict[str, Any],
    ) -> Generator[Piece, None, None]:
        """Ask the session; the length is what ``llama_cpp.Llama`` makes of ``max_tokens``."""
        room = self.n_ctx() - len(tokens)
        if room < 1:
            raise ContextOverflowError(
                f"the prompt has {len(tokens)} tokens and the context holds {self.n_ctx()}; "
                "shorten it or raise n_ctx"
            )
        self._evaluated = None
        return stream(
            tokens,
            max_tokens=room if max_tokens is None or max_tokens <= 0 else min(max_tokens, room),
            seed=self._seeds.next(seed),
            stop=stop,
            repeat_last_n=self.last_n_tokens_size,
            penalize_prompt=False,  # as there
            **options,
        )

    def _chunks(
        self,
        pieces: Generator[Piece, None, None],
        chunked: Callable[[Iterable[Piece], Heading], Iterator[Shape]],
        heading: Heading,
    ) -> Chunks:
        """A chunk for each token, as there. This object stays open until the last one."""
        with contextlib.closing(pieces):
            yield from chunked(by_token(pieces, self._engine.model.piece), heading)

    def _prompt_tokens(self, prompt: str | Sequence[int], suffix: str | None) -> tuple[list[int], bool]:
        """A prompt's token ids; and whether the suffix is in them."""
        model = self._engine.model
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

    def _echoed(self, prompt: str | Sequence[int]) -> str:
        return prompt if isinstance(prompt, str) else self.detokenize(prompt).decode("utf-8", errors="ignore")

    # --- tokens ----------------------------------------------------------------------------------

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        """Token ids of a text.

        Args:
            text: UTF-8.
            add_bos: put around it what the model wants around a text.
            special: read control-token texts as control tokens.
        """
        decoded = text if isinstance(text, str) else bytes(text).decode("utf-8", errors="replace")
        with self._engine.access.reading():
            return self._engine.model.tokenize(decoded, add_special=add_bos, parse_special=special)

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        """The bytes of token ids.

        Args:
            tokens: any ids of the vocabulary.
            prev_tokens: passed over, as there.
            special: write control tokens as their texts, else leave them out.
        """
        model = self._engine.model
        with self._engine.access.reading():
            ids = token_ids(tokens, model.n_vocab)
            raw = b"".join(map(model.spelling if special else model.piece, ids))
        # SentencePiece puts a space before the first word.
        return raw[1:] if ids and ids[0] == model.bos and raw.startswith(b" ") else raw

    def tokenizer(self) -> LlamaTokenizer:
        """The same as an object."""
        return LlamaTokenizer(self)

    def token_bos(self) -> int:
        """Id of the beginning-of-text token, -1 without one."""
        return self._engine.model.bos

    def token_eos(self) -> int:
        """Id of the end-of-text token, -1 without one."""
        return self._engine.model.eos

    def token_nl(self) -> int:
        """Id of the line break's token, -1 without one."""
        return self._engine.model.newline

    def n_ctx(self) -> int:
        """Tokens of context."""
        return self._local.n_ctx

    def n_vocab(self) -> int:
        """Ids of the vocabulary."""
        return self._engine.model.n_vocab

    def n_embd(self) -> int:
        """Numbers of an embedding."""
        return self._engine.model.n_embd

    # --- token by token --------------------------------------------------------------------------

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
        stream = self._answer(self._session.stream, tokens, 1, self._seeds.last, None, options)
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
            pieces = self._answer(self._session.stream, prompt, None, self._seeds.last, None, options)
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

    def set_cache(self, cache: Any) -> None:
        """Passed over with a notice: what a prompt shares with the last one is never decoded again."""
        if cache is not None:
            notice = self._arguments["on_notice"] or _warn
            notice("set_cache is passed over: a session keeps its own cells; save_state keeps others")

    def reset(self) -> None:
        """Forget the conversation.

        Raises:
            BusyError: a generation is running.
        """
        self._session.reset()
        self._evaluated = []

    # --- leaving and coming back -----------------------------------------------------------------

    def save_state(self) -> LlamaState:
        """The conversation's cells, to go on from later.

        Raises:
            BusyError: a generation is running.
        """
        saved = self._session.save()
        raw = saved.state.tobytes()
        return LlamaState(
            np.array(saved.tokens, np.int32),
            np.empty((0, self.n_vocab()), np.float32),
            len(saved.tokens),
            raw,
            len(raw),
            self._seeds.last,
            saved.settings,
        )

    def load_state(self, state: LlamaState) -> None:
        """Go on from what ``save_state`` gave. Where it fits no more, prompts are decoded whole.

        Raises:
            OptionError: it is no such state.
            BusyError: a generation is running.
        """
        if not isinstance(state, LlamaState):
            raise OptionError(f"the state is {type(state).__name__}; give what this class's save_state gave")
        cells = np.frombuffer(state.llama_state, np.uint8)
        self._session.load(SavedCells(state.settings, state.input_ids.tolist(), cells))
        self._seeds = Seeds(state.seed)
        self._evaluated = None

    # --- embeddings ------------------------------------------------------------------------------

    def create_embedding(self, input: str | list[str], model: str | None = None) -> Shape:
        """Embeddings in OpenAI's shape; see ``embed``."""
        texts = [input] if isinstance(input, str) else list(input)
        found, n_tokens = self._embedder.embed(texts)
        return embeddings(found, n_tokens, model or self.model_path)

    def embed(
        self,
        input: str | list[str],
        normalize: bool = False,
        truncate: bool = True,
        return_count: bool = False,
    ) -> Any:
        """Embed a text or several, in a context of its own; conversations stay as they are.

        Args:
            input: a text, or a list.
            normalize: scale each vector to the length 1.
            truncate: leave out what is longer than ``n_batch`` tokens.
            return_count: give the number of tokens too.

        Returns:
            The embedding of the text, or a list; one vector for each token where nothing pools them.

        Raises:
            PromptError, ContextOverflowError, BusyError, DeviceError
        """
        texts = [input] if isinstance(input, str) else list(input)
        found, n_tokens = self._embedder.embed(texts, normalize=normalize, truncate=truncate)
        output = found[0] if isinstance(input, str) else found
        return (output, n_tokens) if return_count else output

    # --- ending ----------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Stop the answers asked for so far; see ``Session.cancel``."""
        self._session.cancel()

    def close(self) -> None:
        """Free the model.

        Raises:
            BusyError: a generation is running.
        """
        self._embedder.close()
        self._local.close()

    def __enter__(self) -> Llama:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._embedder.close()
        self._local.__exit__(kind, value, trace)

    def __del__(self) -> None:
        if hasattr(self, "metadata"):  # it was made
            with contextlib.suppress(ADEDError):
                self.close()

    def __getstate__(self) -> dict[str, Any]:
        return dict(self._arguments)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # as llama_cpp.Llama does: the model is loaded again


class LlamaTokenizer:
    """A ``Llama``'s vocabulary, with the names of ``llama_cpp.LlamaTokenizer``."""

    def __init__(self, llama: Llama) -> None:
        self._llama = llama

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = True) -> list[int]:
        """See ``Llama.tokenize``."""
        return self._llama.tokenize(text, add_bos, special)

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        """See ``Llama.detokenize``."""
        return self._llama.detokenize(tokens, prev_tokens, special)

    def encode(self, text: str, add_bos: bool = True, special: bool = True) -> list[int]:
        """Token ids of a text."""
        return self.tokenize(text.encode("utf-8", errors="ignore"), add_bos, special)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids; what is no UTF-8 is left out."""
        return self.detokenize(tokens).decode("utf-8", errors="ignore")


def _warn(message: str) -> None:
    warnings.warn(visible(message), RuntimeWarning, stacklevel=3)

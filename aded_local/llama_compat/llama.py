"""The class ``Llama``: opened, described, left and come back to, closed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aded_local.api import LocalADED
from aded_local.completions import Shape, embeddings
from aded_local.continuation import common_prefix
from aded_local.embedding import LONGEST_TEXT, TextEmbedder
from aded_local.errors import ADEDError, OptionError
from aded_local.llama import SavedCells
from aded_local.llama.context_settings import ContextSettings
from aded_local.llama.embedding import MODELS_OWN, POOLINGS
from aded_local.llama_compat.answers import LlamaAnswers
from aded_local.llama_compat.arguments import RANDOM_SEED, Seeds, opening
from aded_local.llama_compat.hub import downloaded
from aded_local.shown import warn
from aded_local.speed.pricing import Same

POOLING_NAMES: Final[Mapping[int, str | None]] = {
    MODELS_OWN: None,
    **{number: name for name, number in POOLINGS.items()},
}
"""``enum llama_pooling_type`` by our names; None is what the model asks for."""


@dataclass(frozen=True, slots=True)
class LlamaState:
    """A conversation's cells, to go on from later; the names are those of ``llama_cpp.LlamaState``.

    Attributes:
        input_ids: tokens that the next ``sample`` goes on from, int32 ``(n_tokens,)``.
        scores: none are kept, float32 ``(0, n_vocab)``.
        n_tokens: how many.
        llama_state: llama.cpp's own copy.
        llama_state_size: its bytes.
        seed: what the next answer's seed follows from.
        settings: of the context that it fits.
        n_cells: of the tokens, the first so many are in the cells; what ``eval`` only noted is not.
    """

    input_ids: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]
    n_tokens: int
    llama_state: bytes
    llama_state_size: int
    seed: int
    settings: ContextSettings
    n_cells: int


class Llama(LlamaAnswers):
    """A GGUF that answers as ``llama_cpp.Llama`` does, with drafting.

    Arguments that change no answer here are passed over with one notice; ``CANNOT`` of ``arguments`` has those that are
    refused. Close it, or use it in a ``with`` block; one that is dropped is closed.

    Args:
        model_path: the GGUF, or a model's name (``smollm2``, ``hf:OWNER/NAME``).
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
        draft_model: the path of a smaller GGUF that drafts; objects that draft for ``llama_cpp.Llama`` are passed over.
        verbose: llama.cpp's log on standard error.
        draft, same, memory, store, chat_template, on_progress, on_notice: see ``LocalADED``.
        arguments_of_other_versions: passed over, with a notice that they are not known: they may be misspelt.

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
        how = opening(given)
        if how.ignored:
            (on_notice or warn)(f"passed over, since it changes no answer here: {', '.join(how.ignored)}")
        if others:  # llama_cpp.Llama says nothing of them
            (on_notice or warn)(f"not known, and passed over: {', '.join(others)}; check the spelling")
        if pooling_type not in POOLING_NAMES:
            raise OptionError(f"pooling_type is {pooling_type!r}; it must be one of {list(POOLING_NAMES)}")
        self._local = LocalADED(model_path, **how.options)
        self._engine = self._local._engine
        self._session = self._local.session()
        self._embedder = TextEmbedder(self._engine, longest=n_batch, pooling=POOLING_NAMES[pooling_type])
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

    def set_cache(self, cache: Any) -> None:
        """Passed over with a notice: what a prompt shares with the last one is never decoded again."""
        if cache is not None:
            notice = self._arguments["on_notice"] or warn
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
        saved = self._session.copy_cells()
        raw = saved.state.tobytes()
        said = self.input_ids if self._evaluated is not None else np.array(saved.tokens, np.int32)
        n_cells = common_prefix(said, np.array(saved.tokens, np.int32))
        is_whole = n_cells == len(saved.tokens)  # else the cells hold another text
        return LlamaState(
            said,
            np.empty((0, self.n_vocab()), np.float32),
            len(said),
            raw if is_whole else b"",
            len(raw) if is_whole else 0,
            self._seeds.last,
            saved.settings,
            n_cells if is_whole else 0,
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
        tokens = state.input_ids.tolist()
        self._session.put_cells(SavedCells(state.settings, tokens[: state.n_cells], cells))
        self._seeds = Seeds(state.seed)
        self._evaluated = tokens

    # --- embeddings ------------------------------------------------------------------------------

    def create_embedding(self, input: str | list[str], model: str | None = None) -> Shape:
        """Embeddings in OpenAI's shape; see ``embed``."""
        texts = [input] if isinstance(input, str) else list(input)
        found, n_tokens = self._embedder.embed(texts)
        return embeddings(found, n_tokens, self._name(model))

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

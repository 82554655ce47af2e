"""One way of generating, behind one interface: our engine with a draft preset, `llama_cpp.Llama`, or a server.

All arms of a run share attention, cache type, batch size, threads and context, so that what differs is the
way of generating alone. Prompts are token ids, rendered once.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aded_bench.run.methods import CHEAP, LOOKUP, MODEL_MODES, NO_TOP_K, PEER, preset_of
from aded_local.errors import ADEDError, DeviceError, OptionError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from aded_local import LocalADED
    from aded_local.result import Reply

UNKNOWN_TOKEN = -1  # a token that was generated, but whose id the peer did not tell

PEER_FAILURES = (ADEDError, RuntimeError, ValueError, MemoryError)
"""What a peer may raise: llama-cpp-python has the last three. It is then missing, and the others go on."""

BATCH = 512  # tokens per prefill pass: llama.cpp's default, and the engine's
SAMPLING: dict[str, Any] = {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "repeat_penalty": 1.0}
"""llama.cpp's default sampler chain, given explicitly."""

LOOKUP_TOKENS = 10  # LlamaPromptLookupDecoding's num_pred_tokens, as its documentation sets it
CONTEXT_STEP = 256  # cells: llama.cpp pads a context to that
LOGITS_MEMORY_SHARE = 0.5  # of what is free; the other arms need some too

PassSize = tuple[int, int]
"""Tokens in a pass, and how many of them stayed in the cache."""
ONE_TOKEN: PassSize = (1, 1)


@dataclass(frozen=True)
class Setup:
    """What all arms share.

    Attributes:
        n_threads: for prompts and answers alike.
        ends: tokens that end an answer, by llama.cpp's own rules, of which the file's metadata is but a part.
        n_vocab: token ids are below it.
        draft_model: of the methods that take one.
    """

    model: Path
    n_ctx: int
    n_threads: int
    flash_attention: bool
    cache_type: str
    n_gpu_layers: int = 0
    ends: frozenset[int] = frozenset()
    n_vocab: int = 0
    draft_model: Path | None = None


@dataclass
class Answer:
    """One generation.

    Attributes:
        tokens: ids without the one that ended it.
        ended: whether the model ended it itself.
        generated: tokens chosen, the end token included.
        first_seconds: until the first token.
        decode_seconds: wall time from the first token to the end.
        passes, drafted, accepted: of the target, after prefill; 0 where the arm does not say.
        seconds: ``draft``, ``verify`` (llama_decode, synchronize), ``sample``, ``elsewhere``; {} likewise.
        draft_microseconds: median and 99th percentile of a step's drafting, where the arm says.
        own_tokens_per_second: by the arm's own clock, where it has one and it is another process.
        pass_sizes: of each pass after prefill, where the arm says; () stands for passes over one token each.
        threads: that it ended with, where the arm says; 0 for those it was opened with.
        draft_model: what a draft model of ours did (``ModelDrafting``); {} without one.
    """

    tokens: list[int]
    ended: bool
    generated: int
    first_seconds: float
    decode_seconds: float
    passes: int = 0
    drafted: int = 0
    accepted: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    draft_microseconds: dict[str, float] = field(default_factory=dict)
    own_tokens_per_second: float | None = None
    pass_sizes: tuple[PassSize, ...] = ()
    threads: int = 0
    draft_model: dict[str, Any] = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float:
        """Tokens after the first per second after the first; 0 for an answer of one token."""
        rest = self.generated - 1
        return rest / self.decode_seconds if rest > 0 and self.decode_seconds > 0 else 0.0


class LocalArm:
    """Our engine with one of our own methods.

    Args:
        name: of ``OWN``.
        llm: made with its preset, or, for ``off``, with any.
        owner: closes it.
    """

    def __init__(self, name: str, llm: LocalADED, *, owner: bool = True) -> None:
        self.name, self.preset = name, preset_of(name)
        self.llm, self.owner = llm, owner

    def answer(self, prompt: Sequence[int], max_tokens: int, temperature: float, seed: int) -> Answer:
        """Generate after ``prompt`` in a fresh conversation."""
        self._begin(self.preset)
        started = time.perf_counter()
        reply = self._reply(prompt, max_tokens, temperature, seed)
        wall = time.perf_counter() - started
        self.llm.prepare()  # what is measured again after an answer must not run beside another arm's
        stats = reply.stats
        return Answer(
            tokens=list(reply.tokens),
            ended=reply.finish_reason == "stop",
            generated=stats.generated_tokens,
            first_seconds=stats.time_to_first_token,
            # From outside, so that nothing the engine does between its own clocks is left out.
            decode_seconds=wall - stats.time_to_first_token,
            passes=stats.target_passes,
            drafted=stats.drafted,
            accepted=stats.accepted,
            seconds=dict(stats.seconds),
            draft_microseconds={"median": stats.draft_microseconds, "p99": stats.draft_microseconds_p99},
            pass_sizes=stats.pass_sizes,
            threads=stats.threads,
            draft_model={} if stats.draft_model is None else stats.draft_model.to_dict(),
        )

    def _begin(self, preset: str) -> None:
        self.llm.reset()
        self.llm.use_draft(preset)

    def _reply(self, prompt: Sequence[int], max_tokens: int, temperature: float, seed: int) -> Reply:
        options = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed} | SAMPLING
        return self.llm.generate(prompt, **options)

    def render(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation through the model's own chat template."""
        return list(self.llm.chat_tokens(messages))

    def speak(self, prompt: Sequence[int], max_tokens: int, temperature: float, seed: int) -> str:
        """The text plain decoding answers, for the turns that follow."""
        self._begin("off")
        return self._reply(prompt, max_tokens, temperature, seed).text

    def setup(self, model: Path) -> Setup:
        """What the other arms of the run share with this one."""
        from aded_local.llama.gguf import read_header

        description = self.llm.description()
        layers = description["gpu_layers"]
        return Setup(
            model=model,
            n_ctx=int(description["context"]),
            n_threads=int(description["threads"]),
            flash_attention=bool(description["flash_attention"]),
            cache_type=str(description["cache_type"]),
            n_gpu_layers=-1 if layers == "all" else int(layers),
            ends=self.llm.end_tokens(),
            n_vocab=read_header(model).array_length("tokenizer.ggml.tokens") or 0,
        )

    def foreseen(self, n_prompt: int, max_tokens: int) -> tuple[bool, str, bool, tuple[int, ...] | None]:
        """What the next answer will be computed in: flash attention, cache type, whether drafts are multiplied row by
        row, and the only sizes of passes."""
        return self.llm.foreseen(n_prompt, max_tokens)

    def plain(self) -> LocalArm:
        """Plain decoding on the weights and in the context of this arm, which stays their owner."""
        return LocalArm("off", self.llm, owner=False)

    def forget(self) -> None:
        """Forget all that was learnt from earlier prompts."""
        if self.name != "off":
            self.llm.forget_statistics()

    def close(self) -> None:
        """Free the model, unless another arm owns it."""
        if self.owner:
            self.llm.close()


class LlamaArm:
    """`llama_cpp.Llama`, plain or with its prompt lookup; greedy only, since its seeds mean another thing.

    Args:
        lookup: with `LlamaPromptLookupDecoding` as its documentation sets it up: 2-grams, 10 tokens.
        all_logits: keep the logits of every token, n_ctx × n_vocab × 4 bytes (see ``logits_setup``); lookup does.
    """

    def __init__(self, setup: Setup, *, lookup: bool = False, all_logits: bool = False) -> None:
        import llama_cpp
        from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

        from aded_local.llama import CACHE_TYPES
        from aded_local.llama.interrupts import held_back

        self.name = LOOKUP if lookup else PEER
        self.ends = setup.ends
        self._lookup = LlamaPromptLookupDecoding(num_pred_tokens=LOOKUP_TOKENS) if lookup else None
        self._drafts: list[int] = []  # the length of each draft of this answer
        self.by_row = False  # whether ``replay`` multiplies as drafts were that kept the words
        self._prompt: list[int] = []  # what the cache begins with, after ``replay``
        with held_back():
            self.llm: Any = llama_cpp.Llama(
                str(setup.model),
                n_ctx=setup.n_ctx,
                n_batch=BATCH,
                n_threads=setup.n_threads,
                n_threads_batch=setup.n_threads,
                n_gpu_layers=setup.n_gpu_layers,
                flash_attn=setup.flash_attention,
                type_k=CACHE_TYPES[setup.cache_type],
                type_v=CACHE_TYPES[setup.cache_type],
                logits_all=all_logits or lookup,
                draft_model=self._draft if lookup else None,
                no_perf=True,
                verbose=False,
            )
        weights = self.llm.model
        self._rewinds = not (
            llama_cpp.llama_model_is_recurrent(weights) or llama_cpp.llama_model_is_hybrid(weights)
        )

    def _draft(self, tokens: npt.NDArray[np.intc], /, **options: Any) -> npt.NDArray[np.intc]:
        assert self._lookup is not None
        found: npt.NDArray[np.intc] = self._lookup(tokens, **options)
        self._drafts.append(len(found))
        return found

    def answer(self, prompt: Sequence[int], max_tokens: int, temperature: float, seed: int) -> Answer:
        """Generate greedily after ``prompt`` in a fresh conversation."""
        if temperature:
            raise OptionError(f"{self.name} is compared greedily only")
        self.llm.reset()
        self._prompt = []
        self._drafts.clear()
        tokens: list[int] = []
        clock = time.perf_counter
        started = first = last = clock()
        room = min(max_tokens, self.llm.n_ctx() - len(prompt))
        for token in self.llm.generate(list(prompt), temp=0.0, repeat_penalty=1.0):
            last = clock()
            if not tokens:
                first = last
            tokens.append(token)
            if token in self.ends or len(tokens) >= room:
                break
        ended = bool(tokens) and tokens[-1] in self.ends
        found = Answer(tokens[:-1] if ended else tokens, ended, len(tokens), first - started, last - first)
        # A draft is asked for before every pass but the prompt's; a pass yields one token more than it accepts.
        found.passes = len(self._drafts) if self._lookup else max(0, len(tokens) - 1)
        found.drafted, found.accepted = sum(self._drafts), max(0, len(tokens) - 1 - found.passes)
        return found

    def forget(self) -> None:
        """Nothing is learnt from earlier prompts."""

    def close(self) -> None:
        """Free the model."""
        self.llm.close()

    def text(self, token: int) -> str:
        """The token's text."""
        found: bytes = self.llm.detokenize([token], special=True)
        return found.decode("utf-8", errors="replace")

    def use_threads(self, count: int) -> None:
        """Compute with so many threads from here on; what was computed for ``replay`` is forgotten."""
        import llama_cpp

        llama_cpp.llama_set_n_threads(self.llm.ctx, count, count)
        self._prompt = []

    def replay(
        self, prompt: Sequence[int], answer: Sequence[int], passes: Iterable[PassSize], rows: int
    ) -> npt.NDArray[np.float32]:
        """The logits that chose an answer's tokens, its cells written by passes of given sizes; needs ``all_logits``.

        The prompt is decoded as for any answer. A pass takes the next tokens of the answer; of those that it does not
        keep nothing stays. After the last of ``passes`` every pass has one token.

        Args:
            answer: token ids, at least ``rows - 1`` of them.
            rows: tokens whose logits are wanted, at least 1.

        Returns:
            float32 ``(rows, n_vocab)``: row i is after the prompt and the first i tokens. Passes over one token repeat
            plain decoding to the bit, but for row 0: there the prompt's other logits were computed too.
        """
        import numpy as np

        from aded_local.llama.rows import row_by_row

        llm, answer = self.llm, list(answer)
        if not self._rewinds or self._prompt != list(prompt):
            llm.reset()
            llm.eval(list(prompt))
            self._prompt = list(prompt)
        llm.n_tokens = len(prompt)  # ``eval`` drops the cells behind
        found = np.empty((rows, llm.n_vocab()), np.float32)
        found[0] = llm.scores[len(prompt) - 1]
        done = 0
        for size, kept in itertools.chain(passes, itertools.repeat(ONE_TOKEN)):
            if done >= rows - 1:
                break
            start = llm.n_tokens
            tokens = answer[done : done + (size if self._rewinds else kept)]
            # What a pass did not keep is not known, and no kept token sees it: anything of that length will do.
            with row_by_row(self.by_row):
                llm.eval(tokens + tokens[-1:] * (size - len(tokens) if self._rewinds else 0))
            wanted = min(kept, rows - 1 - done)
            found[done + 1 : done + 1 + wanted] = llm.scores[start : start + wanted]
            llm.n_tokens = start + kept
            done += kept
        return found


def logits_setup(setup: Setup, longest: int) -> Setup:
    """The setup of an arm that keeps the logits of every token: a context no larger than needed.

    Args:
        longest: tokens of the longest prompt and its answer.

    Raises:
        DeviceError: they would take more memory than is free.
    """
    import psutil

    from aded_local.llama.context_settings import LARGEST_PASS

    needed = longest + LARGEST_PASS
    n_ctx = min(setup.n_ctx, -(-needed // CONTEXT_STEP) * CONTEXT_STEP)
    needed_bytes, free = n_ctx * setup.n_vocab * 4, psutil.virtual_memory().available
    if needed_bytes > LOGITS_MEMORY_SHARE * free:
        what = f"logits of {n_ctx} tokens × {setup.n_vocab} need {needed_bytes / 1e9:.1f} GB"
        raise DeviceError(f"{what}; {free / 1e9:.1f} GB are free")
    return replace(setup, n_ctx=n_ctx)


def open_local(
    name: str,
    model: Path,
    *,
    same: Any = CHEAP,
    setup: Setup | None = None,
    draft_model: Path | None = None,
    **options: Any,
) -> LocalArm:
    """Our engine; with ``setup``, in that of another arm, else in what it measures to be best.

    Args:
        same: of ``pricing.SAMES``.
        draft_model: for the methods that take one; without it, that of ``setup``.
    """
    from aded_bench.options import note
    from aded_local import LocalADED

    if setup is not None:
        shared = ("n_ctx", "n_threads", "flash_attention", "cache_type")
        options |= {key: getattr(setup, key) for key in shared}
    if name == NO_TOP_K:
        options["top_k_learning"] = False
    if name in MODEL_MODES:
        draft_model = draft_model or (setup.draft_model if setup is not None else None)
        options |= {"draft_model": draft_model, "draft_mode": MODEL_MODES[name]}
    llm = LocalADED(model, draft=preset_of(name), same=same, on_notice=note, **options)
    llm.prepare()  # what is compared is drafting as it is after the first minute
    return LocalArm(name, llm)

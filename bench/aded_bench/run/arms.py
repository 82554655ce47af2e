"""One way of generating, behind one interface: our engine with a draft preset, `llama_cpp.Llama`, or a server.

All arms of a run share attention, cache type, batch size, threads and context, so that what differs is the
way of generating alone. Prompts are token ids, rendered once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from aded_local.errors import ADEDError, OptionError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from aded_local import LocalADED

PEER = "llama-cpp"
LOOKUP = "llama-cpp-lookup"
SERVER = "server"
PRESETS = ("off", "auto", "paper")
NO_TOP_K = "auto-no-top-k"
OWN = (*PRESETS, NO_TOP_K)
"""Our own methods: presets, and `auto` that learns from what was said alone, not from what the target found likely."""
SERVER_METHODS = (
    SERVER,
    *(f"{SERVER}-ngram-{kind}" for kind in ("simple", "map-k", "map-k4v", "mod", "cache")),
)
METHODS = (*OWN, PEER, LOOKUP, *SERVER_METHODS)
ALL = tuple(method for method in METHODS if method != NO_TOP_K)
"""Without arms that only take a part away from another; they are measured when named."""
LEARNERS = (
    "auto",
    NO_TOP_K,
    "paper",
    *(f"{SERVER}-ngram-{kind}" for kind in ("map-k", "map-k4v", "mod", "cache")),
)
"""Methods whose answer may depend, in its speed, on the prompts before."""

UNKNOWN_TOKEN = -1  # a token that was generated, but whose id the peer did not tell

PEER_FAILURES = (ADEDError, RuntimeError, ValueError, MemoryError)
"""What a peer may raise: llama-cpp-python has the last three. It is then missing, and the others go on."""

BATCH = 512  # tokens per prefill pass: llama.cpp's default, and the engine's
GGML_TYPES = {"f32": 0, "f16": 1, "q8_0": 8, "bf16": 30}  # enum ggml_type in ggml.h, for cache types
TOP_K, TOP_P, MIN_P = 40, 0.95, 0.05  # llama.cpp's default sampler chain, given to every arm explicitly


@dataclass(frozen=True)
class Setup:
    """What all arms share.

    Attributes:
        n_threads: for prompts and answers alike.
        ends: tokens that end an answer, by llama.cpp's own rules, of which the file's metadata is but a part.
    """

    model: Path
    n_ctx: int
    n_threads: int
    flash_attention: bool
    cache_type: str
    n_gpu_layers: int = 0
    ends: frozenset[int] = frozenset()


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

    @property
    def tokens_per_second(self) -> float:
        """Tokens after the first per second after the first; 0 for an answer of one token."""
        rest = self.generated - 1
        return rest / self.decode_seconds if rest > 0 and self.decode_seconds > 0 else 0.0


class Arm(Protocol):
    """A way of generating."""

    name: str

    def answer(self, prompt: Sequence[int], max_tokens: int, temperature: float, seed: int) -> Answer:
        """Generate after ``prompt`` in a fresh conversation."""
        ...

    def forget(self) -> None:
        """Forget all that was learnt from earlier prompts."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


class LocalArm:
    """Our engine with one draft preset.

    Args:
        name: of ``OWN``.
        llm: made with its preset, or, for ``off``, with any.
        owner: closes it.
    """

    def __init__(self, name: str, llm: LocalADED, *, owner: bool = True) -> None:
        self.name = name
        self.preset = preset_of(name)
        self.llm = llm
        self.owner = owner

    def answer(self, prompt: Sequence[int], max_tokens: int, temperature: float, seed: int) -> Answer:
        self.llm.reset()
        self.llm.use_draft(self.preset)
        started = time.perf_counter()
        reply = self.llm.generate(
            prompt,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            top_k=TOP_K,
            top_p=TOP_P,
            min_p=MIN_P,
            repeat_penalty=1.0,
        )
        wall = time.perf_counter() - started
        stats = reply.stats.to_dict()
        drafting = {"median": stats.get("draft_microseconds"), "p99": stats.get("draft_microseconds_p99")}
        return Answer(
            tokens=list(reply.tokens),
            ended=reply.finish_reason == "stop",
            generated=stats["generated_tokens"],
            first_seconds=stats["time_to_first_token"],
            # From outside, so that nothing the engine does between its own clocks is left out.
            decode_seconds=wall - stats["time_to_first_token"],
            passes=stats["target_passes"],
            drafted=stats["drafted"],
            accepted=stats["accepted"],
            seconds=dict(stats["seconds"]),
            draft_microseconds={key: value for key, value in drafting.items() if value is not None},
        )

    def render(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation through the model's own chat template."""
        return list(self.llm.chat_tokens(messages))

    def speak(self, prompt: Sequence[int], max_tokens: int, temperature: float, seed: int) -> str:
        """The text plain decoding answers, for the turns that follow."""
        self.llm.reset()
        self.llm.use_draft("off")
        options = {"top_k": TOP_K, "top_p": TOP_P, "min_p": MIN_P, "repeat_penalty": 1.0}
        return self.llm.generate(
            prompt, max_tokens=max_tokens, temperature=temperature, seed=seed, **options
        ).text

    def forget(self) -> None:
        if self.name != "off":
            self.llm.forget_statistics()

    def close(self) -> None:
        if self.owner:
            self.llm.close()


class LlamaArm:
    """`llama_cpp.Llama`, plain generation; greedy only, since its seeds mean another thing."""

    name = PEER

    def __init__(self, setup: Setup, *, all_logits: bool = False, draft_model: Any = None) -> None:
        import llama_cpp

        from aded_local.llama.interrupts import held_back

        with held_back():
            self.llm: Any = llama_cpp.Llama(
                str(setup.model),
                n_ctx=setup.n_ctx,
                n_batch=BATCH,
                n_threads=setup.n_threads,
                n_threads_batch=setup.n_threads,
                n_gpu_layers=setup.n_gpu_layers,
                flash_attn=setup.flash_attention,
                type_k=GGML_TYPES[setup.cache_type],
                type_v=GGML_TYPES[setup.cache_type],
                logits_all=all_logits,
                draft_model=draft_model,
                no_perf=True,
                verbose=False,
            )
        self.ends = setup.ends

    def answer(self, prompt: Sequence[int], max_tokens: int, temperature: float, seed: int) -> Answer:
        if temperature:
            raise OptionError(f"{self.name} is compared greedily only")
        self.llm.reset()
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
        kept = tokens[:-1] if ended else tokens
        return Answer(kept, ended, len(tokens), first - started, last - first, passes=max(0, len(tokens) - 1))

    def forget(self) -> None:
        """Plain decoding learns nothing."""

    def close(self) -> None:
        self.llm.close()

    def text(self, token: int) -> str:
        """The token's text."""
        found: bytes = self.llm.detokenize([token], special=True)
        return found.decode("utf-8", errors="replace")

    def logits(self, prompt: Sequence[int], answer: Sequence[int], width: int) -> npt.NDArray[np.float32]:
        """Logits after prompt and answer, the answer decoded ``width`` at a time; needs ``all_logits``.

        Returns:
            float32 ``(n_vocab,)``. ``width`` 1 repeats plain decoding to the bit.
        """
        import numpy as np

        self.llm.reset()
        self.llm.eval(list(prompt))
        # The last pass is a full one, so that the logits wanted come from the kernels of that width.
        odd = len(answer) % width
        for start, end in _spans(odd, len(answer), width):
            self.llm.eval(list(answer[start:end]))
        return np.array(self.llm.scores[len(prompt) + len(answer) - 1], np.float32)


class LookupArm(LlamaArm):
    """`llama_cpp.Llama` with its prompt lookup, as its documentation sets it up: 2-grams, 10 tokens.

    It needs the logits of every token: n_ctx × n_vocab × 4 bytes, so its context is no larger than the prompts
    need (``lookup_setup``).
    """

    name = LOOKUP
    drafted_at_most = 10  # LlamaPromptLookupDecoding's num_pred_tokens

    def __init__(self, setup: Setup) -> None:
        from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

        self._lookup = LlamaPromptLookupDecoding(num_pred_tokens=self.drafted_at_most)
        self._drafts: list[int] = []  # the length of each draft of this answer
        super().__init__(setup, all_logits=True, draft_model=self._draft)

    def _draft(self, tokens: npt.NDArray[np.intc], /, **options: Any) -> npt.NDArray[np.intc]:
        found: npt.NDArray[np.intc] = self._lookup(tokens, **options)
        self._drafts.append(len(found))
        return found

    def answer(self, prompt: Sequence[int], max_tokens: int, temperature: float, seed: int) -> Answer:
        self._drafts.clear()
        found = super().answer(prompt, max_tokens, temperature, seed)
        # It is asked for a draft before every pass but the prompt's; a pass yields one token more than it accepts.
        found.passes, found.drafted = len(self._drafts), sum(self._drafts)
        found.accepted = max(0, found.generated - 1 - found.passes)
        return found


LOOKUP_CONTEXT_STEP = 256  # cells: llama.cpp pads a context to that
LOOKUP_MEMORY_SHARE = 0.5  # of what is free; the other arms need some too


def lookup_setup(setup: Setup, longest: int) -> tuple[Setup, str | None]:
    """The setup of an arm that keeps all logits, as ``LookupArm`` does, and why it cannot be had here, or None.

    Args:
        longest: tokens of the longest prompt and its answer.
    """
    import psutil

    from aded_local.llama.gguf import read_header

    needed = longest + LookupArm.drafted_at_most + 1
    n_ctx = min(setup.n_ctx, -(-needed // LOOKUP_CONTEXT_STEP) * LOOKUP_CONTEXT_STEP)
    vocabulary = read_header(setup.model).array_length("tokenizer.ggml.tokens") or 0
    needed_bytes, free = n_ctx * vocabulary * 4, psutil.virtual_memory().available
    reason = None
    if needed_bytes > LOOKUP_MEMORY_SHARE * free:
        what = f"logits of {n_ctx} tokens × {vocabulary} need {needed_bytes / 1e9:.1f} GB"
        reason = f"{what}; {free / 1e9:.1f} GB are free"
    return replace(setup, n_ctx=n_ctx), reason


def _spans(odd: int, end: int, width: int) -> list[tuple[int, int]]:
    first = [(0, odd)] if odd else []
    return first + [(start, start + width) for start in range(odd, end, width)]


def open_local(
    name: str, model: Path, *, exact: bool = False, setup: Setup | None = None, **options: Any
) -> LocalArm:
    """Our engine; with ``setup``, in that of another arm, else in what it measures to be best."""
    from aded_local import LocalADED

    if setup is not None:
        options |= {
            "n_ctx": setup.n_ctx,
            "n_threads": setup.n_threads,
            "flash_attention": setup.flash_attention,
            "cache_type": setup.cache_type,
        }
    if name == NO_TOP_K:
        options["top_k_learning"] = False
    llm = LocalADED(model, draft=preset_of(name), exact=exact, **options)
    llm.prepare()  # what is compared is drafting as it is after the first minute
    return LocalArm(name, llm)


def preset_of(name: str) -> str:
    """The draft preset of one of our own methods."""
    return "auto" if name == NO_TOP_K else name


def plain_beside(lead: Arm) -> LocalArm:
    """Plain decoding on the weights and in the context of ``lead``, one of our own arms."""
    return LocalArm("off", cast(LocalArm, lead).llm, owner=False)


def setup_of(model: Path, lead: LocalArm) -> Setup:
    """The setup of a loaded engine, for the other arms."""
    description = lead.llm.description()
    layers = description["gpu_layers"]
    return Setup(
        model=model,
        n_ctx=int(description["context"]),
        n_threads=int(description["threads"]),
        flash_attention=bool(description["flash_attention"]),
        cache_type=str(description["cache_type"]),
        n_gpu_layers=-1 if layers == "all" else int(layers),
        ends=lead.llm.end_tokens(),
    )


def check_methods(methods: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The methods named, each once.

    Raises:
        OptionError: none, or an unknown one.
    """
    for method in methods:
        if method not in known:
            raise OptionError(f"unknown method {method!r}; choose from {', '.join(known)}")
    if not methods:
        raise OptionError(f"no method named; choose from {', '.join(known)}")
    return tuple(dict.fromkeys(methods))

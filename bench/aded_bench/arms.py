"""One way of generating, behind one interface: our engine with a draft preset, or `llama_cpp.Llama` plain.

All arms of a run share attention, cache type, batch size, threads and context, so that what differs is the
way of generating alone. Prompts are token ids, rendered once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from aded_local.errors import OptionError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from aded_local import LocalADED

PEER = "llama-cpp"
PRESETS = ("off", "auto", "paper")
METHODS = (*PRESETS, PEER)

BATCH = 512  # tokens per prefill pass: llama.cpp's default, and the engine's
GGML_TYPES = {"f32": 0, "f16": 1, "q8_0": 8, "bf16": 30}  # enum ggml_type in ggml.h, for cache types
TOP_K, TOP_P, MIN_P = 40, 0.95, 0.05  # llama.cpp's default sampler chain, given to every arm explicitly


@dataclass(frozen=True)
class Setup:
    """What all arms share. ``n_threads`` is for prompts and answers alike."""

    model: Path
    n_ctx: int
    n_threads: int
    flash_attention: bool
    cache_type: str
    n_gpu_layers: int = 0


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
        name: the preset.
        llm: made with that preset, or, for ``off``, with any.
        owner: closes it.
    """

    def __init__(self, name: str, llm: LocalADED, *, owner: bool = True) -> None:
        self.name = name
        self.llm = llm
        self.owner = owner

    def answer(self, prompt: Sequence[int], max_tokens: int, temperature: float, seed: int) -> Answer:
        self.llm.reset()
        self.llm.use_draft(self.name)
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

    def forget(self) -> None:
        if self.name != "off":
            self.llm.forget_statistics()

    def close(self) -> None:
        if self.owner:
            self.llm.close()


class LlamaArm:
    """`llama_cpp.Llama`, plain generation; greedy only, since its seeds mean another thing."""

    name = PEER

    def __init__(self, setup: Setup, *, all_logits: bool = False) -> None:
        import llama_cpp

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
            no_perf=True,
            verbose=False,
        )
        ends = (f"tokenizer.ggml.{kind}_token_id" for kind in ("eos", "eot", "eom"))
        self.ends = {int(self.llm.metadata[key]) for key in ends if key in self.llm.metadata}

    def answer(self, prompt: Sequence[int], max_tokens: int, temperature: float, seed: int) -> Answer:
        if temperature:
            raise OptionError(f"{PEER} is compared greedily only")
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
        return Answer(kept, ended, len(tokens), first - started, last - first)

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
    return LocalArm(name, LocalADED(model, draft=name, exact=exact, **options))


def plain_beside(lead: Arm) -> LocalArm:
    """Plain decoding on the weights and in the context of ``lead``, one of our own arms."""
    return LocalArm("off", cast(LocalArm, lead).llm, owner=False)


def setup_of(model: Path, description: Mapping[str, Any]) -> Setup:
    """The setup of a loaded engine, for the other arms."""
    layers = description["gpu_layers"]
    return Setup(
        model=model,
        n_ctx=int(description["context"]),
        n_threads=int(description["threads"]),
        flash_attention=bool(description["flash_attention"]),
        cache_type=str(description["cache_type"]),
        n_gpu_layers=-1 if layers == "all" else int(layers),
    )


def render(arm: LocalArm, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of a conversation through the model's own chat template."""
    return list(arm.llm.chat_tokens(messages))

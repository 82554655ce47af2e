"""The options of aded-chat and aded-serve: names as in llama.cpp, and ranges. ``command_line`` checks them together."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from aded_local.shown import brief
from aded_models import NAMES, is_name
from aded_models.references import is_repository

MAX_THREADS = 512  # GGML_MAX_N_THREADS; ggml aborts the process above it
MIN_CONTEXT, MAX_CONTEXT = 256, 2**20  # the engine's; a test compares them
MAX_LAYERS = 10_000  # the engine's; a test compares them
MOST_DRAFTED = 64  # nodes of the largest draft; a test compares it with the engine's
MAX_INT32 = 2**31 - 1  # llama.cpp keeps token counts and top-k in an int32
MAX_SEED = 2**32 - 2  # 2**32 - 1 is llama.cpp's LLAMA_DEFAULT_SEED, which means a random one
CHOSEN_BY_ENGINE = "-1"
"""llama.cpp's value for "not limited" (-n), "all" (-ngl), "random" (--seed) and its own choice (-t): the engine's
default here. Of -c, llama.cpp's value is 0."""

F = TypeVar("F", bound=Callable[..., Any])


def _require_number(
    kind: click.FloatRange | click.IntRange,
    read: Callable[[Any], object],
    value: object,
    what: str,
    param: click.Parameter | None,
    ctx: click.Context | None,
) -> None:
    """Say what was expected in place of what is none; a long text is cut."""
    try:
        read(value)
    except ValueError:
        kind.fail(f"{brief(str(value))!r} is not {what}.", param, ctx)


class FiniteRange(click.FloatRange):
    """A float range that refuses nan and inf, which compare as inside every range or none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The value as a finite float within the range; fails as a usage error otherwise."""
        _require_number(self, float, value, "a number", param, ctx)
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Whole(click.IntRange):
    """An integer from ``min`` up, within llama.cpp's int32 unless ``largest`` says otherwise.

    The upper end is not part of the range that --help shows: nobody needs to read 2147483647 there.
    ``auto`` is the value that leaves the choice to the engine.
    """

    def __init__(self, min: int, *, largest: int = MAX_INT32, auto: str | None = None) -> None:
        super().__init__(min)
        self._least = min
        self._largest = largest
        self._auto = auto

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value as an int; None where the choice is left to the engine."""
        if str(value).strip() == self._auto:
            return None
        _require_number(self, int, value, "a whole number", param, ctx)
        number = int(value)
        if self._auto is not None and number < self._least:
            self.fail(
                f"{number} is neither {self._auto}, the default, nor {self._least} or more.", param, ctx
            )
        number = super().convert(value, param, ctx)
        if number > self._largest:
            self.fail(f"{number} is more than {self._largest}.", param, ctx)
        return number


ENGINE = (
    "models",
    "model_option",
    "hf_model",
    "chat_template",
    "n_ctx",
    "n_threads",
    "n_gpu_layers",
    "draft",
    "draft_model",
    "draft_mode",
    "draft_threads",
    "draft_gpu_layers",
    "draft_max",
    "search",
    "same",
    "exact",
    "store",
    "verbose",
    "version",
)
"""What says which model to open and how, by the names of their parameters."""


def help_for_missing(model: str) -> str:
    """What to add to an error where there is no such file: somebody may have meant a question, or a name."""
    is_file = model.lower().endswith(".gguf") or os.path.lexists(os.path.expanduser(model))
    if is_name(model) or is_file:
        return ""
    if is_repository(model.partition(":")[0]):
        return f"; if it is on the Hugging Face Hub: --hf {shlex.quote(model)}"
    if any(character.isspace() for character in model):
        return "; to ask it, put -p before it"
    if os.path.basename(model) == model:
        names = " and ".join(sorted(NAMES))
        return f"; models have the names {names}, `aded-models list` has more, and -p answers a question"
    return ""


def _show_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    def installed(distribution: str) -> str:
        try:
            return version(distribution)
        except PackageNotFoundError:
            return "not installed"

    program = getattr(ctx.command, "program", ctx.info_name)
    click.echo(f"{program} {installed('aded-local')} (llama-cpp-python {installed('llama-cpp-python')})")
    ctx.exit()


_DECLARATIONS: dict[str, Callable[[Any], Any]] = {
    "models": click.argument("models", nargs=-1, metavar="[MODEL]"),
    "model_option": click.option(
        "-m", "--model", "model_option", metavar="MODEL", help="The same as MODEL alone."
    ),
    "hf_model": click.option(
        "--hf",
        "-hf",
        "--hf-repo",
        "hf_model",
        metavar="OWNER/NAME[:QUANT]",
        help="A model of the Hugging Face Hub, which is downloaded if it is not here (Q4_K_M, if there is one and QUANT"
        " names no other).",
    ),
    "prompt": click.option(
        "-p",
        "--prompt",
        multiple=True,
        metavar="TEXT",
        help="Answer TEXT once and exit. May be repeated: the parts are joined by line ends, and the part '-'"
        " is standard input, which is otherwise not read when -p or -f is given.",
    ),
    "files": click.option(
        "-f",
        "--file",
        "files",
        multiple=True,
        metavar="FILE",
        help="The same with the text of FILE, without the line end that closes it; behind all of -p.",
    ),
    "conversation": click.option(
        "-cnv",
        "--conversation",
        is_flag=True,
        help="Chat at the terminal, as without -p and -f; these give the first message.",
    ),
    "goes_on": click.option(
        "--continue",
        "goes_on",
        is_flag=True,
        help="Go on with the last conversation, which is not read again where it was held with the same model.",
    ),
    "as_json": click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Print one JSON object; with -p, -f or standard input only.",
    ),
    "plain": click.option(
        "--plain", is_flag=True, help="Write answers as they come: Markdown is not rendered at a terminal."
    ),
    "raw": click.option(
        "--raw",
        "-no-cnv",
        "--no-conversation",
        "raw",
        is_flag=True,
        help="Complete the prompt's text itself, to the last byte, without the chat template.",
    ),
    "chat_template": click.option(
        "--chat-template",
        "--chat-template-file",
        "chat_template",
        type=click.Path(),
        metavar="FILE",
        help="Use the Jinja template in FILE instead of the model's own.",
    ),
    "system": click.option(
        "-sys", "--system", "--system-prompt", "system", metavar="TEXT", help="The system prompt."
    ),
    "max_tokens": click.option(
        "-n",
        "--predict",
        "--n-predict",
        "max_tokens",
        type=Whole(1, auto=CHOSEN_BY_ENGINE),
        metavar="N",
        help="Tokens in an answer at most (-1: until it ends).",
    ),
    "n_ctx": click.option(
        "-c",
        "--ctx-size",
        "n_ctx",
        type=Whole(MIN_CONTEXT, largest=MAX_CONTEXT, auto="0"),
        metavar="N",
        help="Context in tokens (0: what the model was trained with and memory allows, at most 8,192, the default).",
    ),
    "n_threads": click.option(
        "-t",
        "--threads",
        "n_threads",
        type=Whole(1, largest=MAX_THREADS, auto=CHOSEN_BY_ENGINE),
        metavar="N",
        help="CPU threads (-1: one per physical core, the default).",
    ),
    "n_gpu_layers": click.option(
        "-ngl",
        "--gpu-layers",
        "--n-gpu-layers",
        "n_gpu_layers",
        type=Whole(0, largest=MAX_LAYERS, auto=CHOSEN_BY_ENGINE),
        metavar="N",
        help="Layers on the GPU (-1: all, the default where the build has one).",
    ),
    "temperature": click.option(
        "--temp", "temperature", type=FiniteRange(0, 100), metavar="T", help="Temperature; 0 is greedy."
    ),
    "top_k": click.option("--top-k", type=Whole(0), metavar="N", help="Keep the N likeliest (0: all)."),
    "top_p": click.option(
        "--top-p", type=FiniteRange(0, 1), metavar="P", help="Keep the likeliest up to a mass of P."
    ),
    "min_p": click.option(
        "--min-p", type=FiniteRange(0, 1), metavar="P", help="Drop what is P times less likely than the best."
    ),
    "repeat_penalty": click.option(
        "--repeat-penalty",
        type=FiniteRange(0, 10, min_open=True),
        metavar="R",
        help="Penalty on repetition (1: none).",
    ),
    "stop": click.option(
        "--stop",
        multiple=True,
        metavar="TEXT",
        help="End an answer before TEXT. May be repeated.",
    ),
    "seed": click.option(
        "-s",
        "--seed",
        type=Whole(0, largest=MAX_SEED, auto=CHOSEN_BY_ENGINE),
        metavar="N",
        help="Seed of the sampler (-1: random). With --same exact or --draft off, the same seed and prompt give the"
        " same answer once this machine is measured. Else how much is drafted follows measured times, wider passes"
        " round differently, and where two tokens are nearly as likely the answer may go on with the other.",
    ),
    "draft": click.option(
        "--draft",
        type=click.Choice(["auto", "paper", "off"]),
        default="auto",
        show_default=True,
        help="Which drafts to verify: measured for this device, the paper's fixed tree, or none.",
    ),
    "draft_model": click.option(
        "-md",
        "--model-draft",
        "--spec-draft-model",
        "draft_model",
        type=click.Path(),
        metavar="FILE",
        help="A smaller GGUF with the same vocabulary, or a model's name: what it predicts joins the drafts.",
    ),
    "draft_mode": click.option(
        "--draft-mode",
        type=click.Choice(["auto", "ngram", "serial", "parallel", "branch"]),
        help="When that model is asked: whatever is fastest here (auto, the default), never, before each pass, beside"
        " passes too, or as SpecBranch does.",
    ),
    "draft_threads": click.option(
        "-td",
        "--threads-draft",
        "draft_threads",
        type=Whole(1, largest=MAX_THREADS, auto=CHOSEN_BY_ENGINE),
        metavar="N",
        help="CPU threads of the draft model (-1: as many as the model's own, the default).",
    ),
    "draft_gpu_layers": click.option(
        "-ngld",
        "--gpu-layers-draft",
        "--n-gpu-layers-draft",
        "draft_gpu_layers",
        type=Whole(0, largest=MAX_LAYERS, auto=CHOSEN_BY_ENGINE),
        metavar="N",
        help="Layers of the draft model on the GPU (-1: all, the default).",
    ),
    "draft_max": click.option(
        "--draft-max",
        "--draft-n",
        "draft_max",
        type=Whole(1, largest=MOST_DRAFTED, auto=CHOSEN_BY_ENGINE),
        metavar="N",
        help="Tokens of a draft at most, whatever they come from (-1: what pays, the default).",
    ),
    "search": click.option(
        "--search",
        type=click.Choice(["best-first", "puct"]),
        help="How --draft auto grows its tree: likeliest first (the default), or by Monte Carlo tree search.",
    ),
    "same": click.option(
        "--same",
        type=click.Choice(["exact", "cheap", "off"]),
        help="The words of plain decoding: always, where they cost at most 5% of the speed (cheap, the default), or as"
        " speed has it. Where they are not kept, two tokens that are nearly as likely may change places.",
    ),
    "exact": click.option("--exact", is_flag=True, help="The same as --same exact."),
    "no_memory": click.option(
        "--no-memory",
        is_flag=True,
        help="Do without earlier conversations, and keep nothing of this one on disk: neither what was said, to go on"
        " with (--continue) and to draft from, nor the history of typed lines. `aded-store` looks after all that;"
        " ADED_NO_MEMORY=1 does without for good.",
    ),
    "store": click.option(
        "--store",
        type=click.Path(),
        metavar="FILE",
        help="Draft from a static store too, made by `aded-store build` for this model's tokenizer.",
    ),
    "verbose": click.option(
        "--verbose", is_flag=True, help="Show llama.cpp's log, and tracebacks of unexpected errors."
    ),
    "version": click.option(
        "--version",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show_version,
        help="Show the version.",
    ),
}


def chat_options(command: F) -> F:
    """Give a click command's function every argument and option of aded-chat, in the order of --help."""
    return _declared(command, _DECLARATIONS)


def engine_options(command: F) -> F:
    """Give a command's function what names a model and says how to open it, as aded-chat has it."""
    return _declared(command, ENGINE)


def _declared(command: F, names: Iterable[str]) -> F:
    for name in reversed([*names]):
        command = _DECLARATIONS[name](command)
    return command

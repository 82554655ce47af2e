"""Options that several commands share."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from aded_cli.display import error, loading
from aded_cli.display import say as say
from aded_local.errors import StoreError
from aded_local.starting import EXIT_INTERRUPTED
from aded_models import PREFIX, find, names_hub, reference

if TYPE_CHECKING:
    from aded_bench.results import ResultFile

PROGRAM = "aded-bench"
EXIT_DIFFERENT = 1
"""What was compared is not the same, and should be."""
PATH = click.Path(path_type=Path)


class ModelFile(click.Path):
    """The path of a GGUF, or a model by its name (see ``aded_models.find``)."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The file. Raises ModelNotFoundError where no model of that name is installed."""
        return _located(value)


GGUF = ModelFile()


def _located(model: Any) -> Path:
    """The file that a path or name means; one of the Hugging Face Hub is downloaded, and a terminal shows how far."""
    with loading(f"looking for {model}", quiet=not names_hub(str(model))) as say:
        return find(model, say).path


def note(message: str) -> None:
    """A line on standard error, beside the results."""
    error(message, program=PROGRAM)


def model_path(given: Path | None) -> Path:
    """The model given, else the one that any program takes; with a line on standard error where that knows little.

    Raises:
        ModelNotFoundError: no model is installed.
    """
    if given is not None:
        return given
    found = find()
    if found.note is not None:
        note(found.note)
    return found.path


def listed(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    """Callback: names separated by commas, at least one."""
    found = tuple(part.strip() for part in value.split(",") if part.strip())
    if not found:
        raise click.BadParameter("the list is empty; name something, or leave the option out")
    return found


def listed_if_given(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Callback: the same; None where not given."""
    return None if value is None else listed(ctx, param, value)


def _temperatures(_: click.Context, __: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 0,0.8") from None
    if not all(0 <= temperature <= 10 for temperature in found):
        raise click.BadParameter("temperatures lie between 0 and 10")
    return tuple(dict.fromkeys(found))


def MODEL(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command's function a ``model`` that is named by the argument MODEL or by --hf; None without either."""

    @functools.wraps(command)
    def with_model(*args: Any, model: Path | None, hf_model: str | None, **others: Any) -> Any:
        if hf_model is not None:
            if model is not None:
                raise click.UsageError(
                    f"--hf {hf_model} names a model, and so does {model}: give one of them"
                )
            model = _located(f"{PREFIX}{reference(hf_model)}")
        return command(*args, model=model, **others)

    hub = click.option("--hf", "-hf", "--hf-repo", "hf_model", metavar="OWNER/NAME[:QUANT]",
                       help="A model of the Hugging Face Hub, downloaded if it is not here.")  # fmt: skip
    return click.argument("model", required=False, type=GGUF, metavar="[MODEL]")(hub(with_model))


N_PREDICT = click.option("-n", "--predict", "max_tokens", default=96, show_default=True, type=click.IntRange(1),
                         help="Tokens per answer.")  # fmt: skip
THREADS = click.option("-t", "--threads", type=click.IntRange(1),
                       help="CPU threads.  [default: physical cores]")  # fmt: skip
CONTEXT = click.option("-c", "--ctx-size", "n_ctx", type=click.IntRange(256), help="Tokens of context.")
SEED = click.option("--seed", type=click.IntRange(0, 2**32 - 2), default=0, show_default=True,
                    help="Of the suite's prompts and of sampling.")  # fmt: skip
SUITE = click.option("--suite", metavar="NAME|FILE",
                     help="chat, shell, spec-bench, or JSONL of prompts or conversations."
                     "  [default: shell for the built-in model, chat for others]")  # fmt: skip
DATA = click.option("--data", type=PATH, metavar="FILE",
                    help="Spec-Bench's question.jsonl, for --suite spec-bench.")  # fmt: skip
TEMPERATURES = click.option("--temps", "temperatures", default="0,0.8", show_default=True,
                            callback=_temperatures, metavar="LIST", help="Temperatures; 0 is greedy.")  # fmt: skip
SAME = click.option("--same", metavar="LIST", callback=listed_if_given,
                    help="How much drafting may change: of exact, cheap, off.")  # fmt: skip
JSON = click.option("--json", "json_path", type=PATH, metavar="OUT", help="Result file.")


def measure(
    name: str,
    bench: ModuleType,
    plan: Any,
    json_path: Path | None,
    print_result: Callable[[dict[str, Any], Any], None],
) -> dict[str, Any]:
    """Run a measurement with a progress bar, keep its result, and print it.

    Args:
        bench: has ``total_steps(plan)`` and ``run(plan, file, step)``.
        json_path: where the result goes; None for nowhere.

    Raises:
        ADEDError: what ``run`` raises, or the result file was not written.
    """
    from aded_bench.progress import steps_progress
    from aded_bench.results import ResultFile
    from aded_bench.tables import console

    file = ResultFile(json_path)
    with steps_progress(name, bench.total_steps(plan)) as step:
        result: dict[str, Any] = bench.run(plan, file, step)
    print_result(result, console())
    finish(result["complete"], file)
    return result


def end_where_broken(lines: list[str]) -> None:
    """End with exit code 1, as a comparison does that finds a difference, where something must not be."""
    if lines:
        note(f"not the same: {lines[0]}" + (f"; and {len(lines) - 1} more" if len(lines) > 1 else ""))
        sys.exit(EXIT_DIFFERENT)


def finish(complete: bool, file: ResultFile) -> None:
    """End a command whose results are printed.

    Args:
        complete: otherwise it was interrupted, and exits as an interrupted program does.
        file: where they were written.

    Raises:
        StoreError: the file was not written.
    """
    if file.failure is not None:
        raise StoreError(f"{file.failure}; the results are printed above")
    if not complete:
        kept = f"; the same command goes on from {file.path}" if file.path is not None else ""
        note(f"stopped; this is what there was{kept}")
        sys.exit(EXIT_INTERRUPTED)

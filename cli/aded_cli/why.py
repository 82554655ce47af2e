"""Which tokens of an answer were foreseen, and what foresaw them."""

from __future__ import annotations

import codecs
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from aded_local.shown import visible

from . import display

if TYPE_CHECKING:
    from .answer import Answer

WORDS: Final = {
    "conversation": "this conversation: what followed the same words in it",
    "memory": "all that was said so far, earlier conversations too",
    "passage": "a longer passage that repeats itself",
    "phrases": "shipped phrases, or your static store",
    "likely": "what the model found likely there before, and did not say",
    "gaps": "what followed similar words",
    "frequent": "words that are frequent anywhere",
    "pairs": "pairs of tokens (the ADED paper)",
    "forced": "the grammar, which allows nothing else",
    "model": "the draft model",
    "unknown": "not recorded",
}
"""Of each source that a draft names, for people."""

NOTHING: Final = ""
"""In place of a source: the model's own token, which nobody foresaw."""


def sources_of(answer: Answer) -> list[str]:
    """What foresaw each token of an answer, ``NOTHING`` where it was not drafted.

    The first token comes with the prompt; then each pass brings the draft tokens that were accepted, and one of the
    model's own.
    """
    stats = answer.stats
    if stats is None:
        return []
    foreseen = iter(stats.sources)
    found = [NOTHING]
    for _, kept in stats.pass_sizes:
        found += [next(foreseen, "unknown") for _ in range(kept - 1)]
        found.append(NOTHING)
    return found[: len(answer.tokens)]


def stretches(answer: Answer, piece: Callable[[int], bytes]) -> Iterator[tuple[str, str]]:
    """An answer's text in stretches of one source each.

    Args:
        answer: that ended.
        piece: the bytes of a token.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text, last = "", NOTHING
    for token, source in zip(answer.tokens, sources_of(answer), strict=False):
        said = decoder.decode(piece(token))
        if source != last and text:
            yield text, last
            text = ""
        text, last = text + said, source
    text += decoder.decode(b"", final=True)
    if text:
        yield text, last


def show_why(answer: Answer, piece: Callable[[int], bytes]) -> None:
    """Print an answer with the tokens that were foreseen in colour, and below it what foresaw them."""
    counts = Counter(source for source in sources_of(answer) if source)
    if not counts:
        display.note("nothing of the last answer was foreseen: every token is a pass of its own")
        return
    if display.is_styled(sys.stdout):
        _show_coloured(stretches(answer, piece))
    else:
        text = "".join(f"[{said}]" if source else said for said, source in stretches(answer, piece))
        display.say(text)
    total, drafted = len(answer.tokens), counts.total()
    display.say(
        f"{drafted} of {total} tokens were foreseen{'' if display.is_styled(sys.stdout) else ' [so]'}, by"
    )
    for source, n in counts.most_common():
        _show_source(source, n)


def _styles() -> dict[str, int]:
    from .rendering import styles

    return {
        "conversation": styles.GREEN,
        "memory": styles.CYAN,
        "passage": styles.GREEN | styles.BOLD,
        "phrases": styles.BLUE,
        "likely": styles.MAGENTA,
        "gaps": styles.YELLOW,
        "frequent": styles.YELLOW | styles.DIM,
        "pairs": styles.CYAN,
        "forced": styles.RED,
        "model": styles.MAGENTA | styles.BOLD,
        "unknown": styles.UNDERLINE,
    }


def _show_coloured(found: Iterable[tuple[str, str]]) -> None:
    from .rendering.prose import Prose

    styles = _styles()
    prose = Prose(sys.stdout)
    for text, source in found:
        prose.write(visible(text), styles[source] if source else 0)
    sys.stdout.write("\n")


def _show_source(source: str, n: int) -> None:
    if display.is_styled(sys.stdout):
        from .rendering.styles import styled

        sys.stdout.write(f"{n:5}  {styled(WORDS[source], _styles()[source])}\n")
    else:
        display.say(f"{n:5}  {WORDS[source]}")

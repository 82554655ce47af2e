"""Where answers' own token ids stand in a rendered conversation, and where an answer that goes on ends."""

from __future__ import annotations

from aded_local.errors import TemplateError


def before_last(end: str, text: str) -> str:
    """The text up to where ``end`` stands last; all of it where ``end`` is empty."""
    if not end:
        return text
    before, found, _ = text.rpartition(end)
    if not found:
        raise TemplateError(
            "the model's chat template leaves out the assistant's last message, so it cannot be continued; "
            "end the conversation with a user message"
        )
    return before


def place(
    whole: str, outline: list[str], answers: list[tuple[str, tuple[int, ...]]]
) -> list[str | tuple[int, ...]]:
    """Put answers' ids where they stand in the rendered text.

    Args:
        whole: the conversation rendered with the answers' texts.
        outline: what stands around the answers, from a rendering with sentinels; ``len(answers) + 1``
            stretches, unless the template dropped or doubled one.
        answers: text and ids, in order.

    Returns:
        ``whole`` in parts, ids in place of the answers whose text is there, all of it otherwise.
    """
    if len(outline) != len(answers) + 1 or not whole.startswith(outline[0]):
        return [whole]
    parts: list[str | tuple[int, ...]] = []
    text = outline[0]
    at = len(outline[0])
    for (answer, tokens), after in zip(answers, outline[1:], strict=True):
        forms = (answer, answer.strip(), answer.rstrip(), answer.lstrip())
        form = next((form for form in forms if whole.startswith(form + after, at)), None)
        if form is not None:
            parts += [text, tokens]
            text = after
            at += len(form) + len(after)
            continue
        found = whole.find(after, at) if after else -1
        if found < 0:
            break
        text += whole[at : found + len(after)]
        at = found + len(after)
    return [*parts, text + whole[at:]]


def without_spaces(parts: list[str | tuple[int, ...]], n: int) -> list[str | tuple[int, ...]]:
    """The parts without ``n`` spaces right before each answer: in the cache there are none."""
    fixed: list[str | tuple[int, ...]] = []
    for part in parts:
        if isinstance(part, tuple) and fixed and isinstance(fixed[-1], str):
            fixed[-1] = fixed[-1].removesuffix(" " * n)
        fixed.append(part)
    return fixed

"""Messages in, token ids out, through the model's own chat template.

What a person types must never become a control token, yet ordinary text must tokenize as if the whole
prompt were one string. So content is marked before it is rendered: characters with which a control
token's text begins or ends are replaced by private-use twins. In the rendered text each twin is turned
back while its place is remembered, and a control token's text with such a character at either end was
written, or completed, by somebody else than the template. Only there the text is cut, and only that
stretch is tokenized as plain text. An ordinary conversation stays one segment.

An answer's own token ids go into the prompt as they are: tokenizing its text again may give others, and
the cache of the turn before would be lost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aded_local.errors import PromptError, TemplateError, TemplateLimitError
from aded_local.rendering import Renderer
from aded_local.sandbox import MAX_SOURCE

CHATML = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
"""For a model that came without a template and whose vocabulary knows ``<|im_start|>``."""

_ROLE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")
_PRIVATE_USE = (range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a prompt.

    Attributes:
        text: what to tokenize; empty where ``tokens`` are given.
        parse_special: read control tokens' texts as control tokens.
        tokens: an answer's own ids, to be taken as they are; empty for text.
        continues: running text stands directly before this, so no tokenizer may put a space in front.
    """

    text: str
    parse_special: bool = True
    tokens: tuple[int, ...] = ()
    continues: bool = False


class Tokenizer(Protocol):
    """What ``to_tokens`` asks of a vocabulary; ``aded_local.target.Model`` is one."""

    @property
    def adds_bos(self) -> bool: ...

    @property
    def bos(self) -> int: ...

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...

    def piece(self, token: int) -> bytes: ...


class ChatTemplate:
    """One model's way to write a conversation.

    Args:
        source: the Jinja template, None when the model has none.
        bos: the beginning-of-text token's text, empty without one.
        eos: the end-of-text token's text, empty without one.
        control_texts: texts of all tokens that ordinary text must not become.
        renderer: of that source, where one has been started already.

    Raises:
        TemplateError: no template and no ChatML vocabulary, or one that does not compile.
    """

    def __init__(
        self,
        source: str | None,
        *,
        bos: str,
        eos: str,
        control_texts: Sequence[str],
        renderer: Renderer | None = None,
    ) -> None:
        # Longest first, as llama.cpp looks for them.
        self._controls = sorted({text for text in control_texts if text}, key=lambda text: (-len(text), text))
        if source is None:
            if "<|im_start|>" not in self._controls:
                raise TemplateError(
                    "the model has no chat template, so it cannot chat; use generate, "
                    "or give a template with --chat-template (chat_template)"
                )
            source = CHATML
        if len(source) > MAX_SOURCE:
            raise TemplateError(
                f"the model's chat template has {len(source)} characters; {MAX_SOURCE} are allowed"
            )
        self._source = source
        self._bos, self._eos = bos, eos
        self._edges = sorted({text[0] for text in self._controls} | {text[-1] for text in self._controls})
        self._any_control = re.compile("|".join(map(re.escape, self._controls)) or r"(?!)")
        self._renderer = renderer or Renderer(source)
        self._renderer.compile()

    def close(self) -> None:
        """End the process that renders, if there is one; rendering starts another."""
        self._renderer.close()

    # --- rendering -------------------------------------------------------------------------------

    def render(
        self,
        messages: Sequence[Mapping[str, str]],
        add_generation_prompt: bool = True,
        *,
        known_answers: Mapping[str, Sequence[int]] | None = None,
    ) -> list[Segment]:
        """The conversation as segments, in order; ``to_tokens`` makes ids of them.

        Without control-token texts in the contents and without known answers this is one segment. The
        text begins with the BOS token's text where the template writes it.

        Args:
            messages: ``role`` and ``content`` of each turn. A model that knows no system role gets the
                system prompt in front of the first user message.
            add_generation_prompt: end where the model is to go on.
            known_answers: token ids of assistant messages, by their text. An id list is used where the
                template writes the answer out whole, save white space at its ends.

        Raises:
            PromptError: a message without role or content.
            TemplateError: the template refused the conversation, failed, or took too much.
        """
        checked = [_checked(message) for message in messages]
        known = known_answers or {}
        marks = _Marks(self._edges, [self._source, *self._controls, *(one["content"] for one in checked)])
        marked = [self._marked(one, marks) for one in checked]
        whole = self._rendered(marked, add_generation_prompt)
        answers: list[tuple[str, tuple[int, ...]]] = []
        with_sentinels: list[dict[str, str]] = []
        for plain, one in zip(checked, marked, strict=True):
            tokens = tuple(known.get(plain["content"], ())) if plain["role"] == "assistant" else ()
            # A blank answer cannot be told from the template's own spaces.
            if tokens and plain["content"].strip():
                answers.append((one["content"], tokens))
                one = {**one, "content": marks.sentinel}
            with_sentinels.append(one)
        if not answers:
            return self._segments([whole], marks)
        outline = self._rendered(with_sentinels, add_generation_prompt).split(marks.sentinel)
        parts = _place(whole, outline, answers)
        if outline[0].endswith(" "):
            parts = _without_spaces(parts, self._added_spaces(outline[0], with_sentinels, marks))
        return self._segments(parts, marks)

    def _added_spaces(self, before: str, messages: list[dict[str, str]], marks: _Marks) -> int:
        """Spaces the template writes before an answer that its generation prompt does not end with.

        Args:
            before: what it writes up to the first answer.
        """
        first = next(i for i, one in enumerate(messages) if one["content"] == marks.sentinel)
        try:
            prompt = self._rendered(messages[:first], True)
        except TemplateError:
            return 0
        spaces = len(before) - len(prompt)
        return spaces if spaces > 0 and before == prompt + " " * spaces else 0

    def _marked(self, message: dict[str, str], marks: _Marks) -> dict[str, str]:
        content = message["content"]
        if message["role"] == "assistant":
            # Templates look for '</think>' and the like here: touch nothing but whole control texts.
            content = self._any_control.sub(lambda found: marks.mark(found[0]), content)
        else:
            content = marks.mark(content)
        return {**message, "content": content}

    def _rendered(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        try:
            return self._run(messages, add_generation_prompt)
        except TemplateLimitError:
            raise  # another try would take as long
        except TemplateError:
            merged = _without_system(messages)
            if merged is None:
                raise
            return self._run(merged, add_generation_prompt)

    def _run(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        variables: dict[str, Any] = {
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self._bos,
            "eos_token": self._eos,
            "tools": None,
            "documents": None,
        }
        return self._renderer.render(variables)

    # --- cutting ---------------------------------------------------------------------------------

    def _segments(self, parts: list[str | tuple[int, ...]], marks: _Marks) -> list[Segment]:
        """Rendered text and answers' ids to segments; ``continues`` by what stands before each."""
        segments: list[Segment] = []
        running = False
        for part in parts:
            if isinstance(part, tuple):
                segments.append(Segment("", False, part, running))
                running = True
                continue
            for text, parse_special in self._cut(part, marks):
                segments.append(Segment(text, parse_special, (), running))
                running = not (parse_special and any(text.endswith(control) for control in self._controls))
        return segments

    def _cut(self, marked: str, marks: _Marks) -> list[tuple[str, bool]]:
        """Stretches of the text and whether control texts in them are the template's own."""
        text, foreign = marks.unmark(marked)
        if not text:
            return []
        literals = self._foreign_controls(text, foreign) if foreign else []
        stretches: list[tuple[str, bool]] = []
        at = 0
        for start, end, parse_special in literals:
            if start > at:
                stretches.append((text[at:start], True))
            stretches.append((text[start:end], parse_special))
            at = end
        if at < len(text):
            stretches.append((text[at:], True))
        return stretches

    def _foreign_controls(self, text: str, foreign: set[int]) -> list[tuple[int, int, bool]]:
        """Where to cut: (start, end, parse_special), in order, without overlap.

        Control texts that begin or end with a foreign character are plain text. A template's own control
        text that overlaps such a one stands alone, so that nothing can be read across its edges.
        """
        taken: list[tuple[int, int, bool]] = []
        crossing: list[tuple[int, int]] = []
        claimed = bytearray(len(text))
        own: list[tuple[int, int]] = []
        for control in self._controls:
            n = len(control)
            at = text.find(control)
            while at >= 0:
                is_foreign = at in foreign or at + n - 1 in foreign
                if any(claimed[at : at + n]):
                    if is_foreign:
                        crossing.append((at, at + n))
                else:
                    claimed[at : at + n] = b"\x01" * n
                    if is_foreign:
                        taken.append((at, at + n, False))
                    else:
                        own.append((at, at + n))
                at = text.find(control, at + 1)
        alone = [one for one in own if any(one[0] < end and start < one[1] for start, end in crossing)]
        taken.extend((start, end, True) for start, end in alone)
        return sorted(taken)

    def to_tokens(self, segments: Sequence[Segment], tokenizer: Tokenizer) -> list[int]:
        """Token ids of a rendered conversation.

        BOS stands first exactly once where the model wants it, whoever wrote it.

        Args:
            segments: from ``render``.
            tokenizer: the model's.
        """
        ids: list[int] = []
        for segment in segments:
            if segment.tokens:
                ids.extend(segment.tokens)
            elif segment.continues:
                ids.extend(_tokenize_running(segment, tokenizer))
            else:
                ids.extend(
                    tokenizer.tokenize(segment.text, add_special=False, parse_special=segment.parse_special)
                )
        if ids and tokenizer.adds_bos and tokenizer.bos >= 0 and ids[0] != tokenizer.bos:
            ids.insert(0, tokenizer.bos)
        return ids


class _Marks:
    """Private-use characters that stand for others while a template runs.

    Args:
        edges: characters that get a twin.
        texts: everything a twin must not be confused with.
    """

    def __init__(self, edges: list[str], texts: list[str]) -> None:
        used = {ord(c) for text in texts for c in text if c >= "\U000f0000"}
        # Conversations that use private-use characters are rare, so the first try nearly always holds.
        free = (code for plane in _PRIVATE_USE for code in plane if code not in used)
        try:
            chosen = [chr(next(free)) for _ in range(len(edges) + 1)]
        except StopIteration as error:
            raise PromptError("the conversation uses all private-use characters; leave some out") from error
        self.sentinel = chosen[0]
        self._to_twin = str.maketrans(dict(zip(edges, chosen[1:], strict=True)))
        self._from_twin = dict(zip(chosen[1:], edges, strict=True))
        self._any_twin = re.compile("[" + "".join(map(re.escape, chosen[1:])) + "]") if edges else None

    def mark(self, text: str) -> str:
        return text.translate(self._to_twin)

    def unmark(self, marked: str) -> tuple[str, set[int]]:
        """The text, and the places of characters that were marked."""
        if self._any_twin is None:
            return marked, set()
        foreign = {found.start() for found in self._any_twin.finditer(marked)}
        return self._any_twin.sub(lambda found: self._from_twin[found[0]], marked), foreign


def _place(
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


def _without_spaces(parts: list[str | tuple[int, ...]], n: int) -> list[str | tuple[int, ...]]:
    """The parts without ``n`` spaces right before each answer: in the cache there are none."""
    fixed: list[str | tuple[int, ...]] = []
    for part in parts:
        if isinstance(part, tuple) and fixed and isinstance(fixed[-1], str):
            fixed[-1] = fixed[-1].removesuffix(" " * n)
        fixed.append(part)
    return fixed


def _tokenize_running(segment: Segment, tokenizer: Tokenizer) -> list[int]:
    """Ids of text in the middle of text, without the space some tokenizers put in front of a text."""
    tokenize = tokenizer.tokenize
    plain = tokenize(segment.text, add_special=False, parse_special=segment.parse_special)
    probe = tokenize("a", add_special=False, parse_special=False)
    if b"".join(map(tokenizer.piece, probe)) != b" a":
        return plain
    # A line break joins with nothing in the vocabularies that do this, so it can be taken off again.
    anchor = tokenize("\n", add_special=False, parse_special=False)
    behind = tokenize("\n" + segment.text, add_special=False, parse_special=segment.parse_special)
    return behind[len(anchor) :] if behind[: len(anchor)] == anchor else plain


def _checked(message: Mapping[str, str]) -> dict[str, str]:
    try:
        role, content = message["role"], message["content"]
    except (KeyError, TypeError) as error:
        raise PromptError("a message needs 'role' and 'content'") from error
    if not isinstance(role, str) or not _ROLE.fullmatch(role):
        raise PromptError(
            f"a message's role is {str(role)[:40]!r}; it must be a name such as user or assistant"
        )
    if not isinstance(content, str):
        raise PromptError(f"a message's content must be text, not {type(content).__name__}")
    # What the tokenizer would do to lone surrogates, done before anything is looked for.
    return {"role": role, "content": content.encode("utf-8", errors="replace").decode("utf-8")}


def _without_system(messages: list[dict[str, str]]) -> list[dict[str, str]] | None:
    """The system prompt in front of the first user message; None where there is none to move."""
    if len(messages) < 2 or messages[0]["role"] != "system" or messages[1]["role"] != "user":
        return None
    first = {**messages[1], "content": messages[0]["content"] + "\n\n" + messages[1]["content"]}
    return [first, *messages[2:]]

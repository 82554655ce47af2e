"""An answer's text to content, reasoning and calls, while the text comes.

Text arrives in arbitrary cuts, and the result does not depend on them: what may still become a marker is held back.
What looks like a call and is none (broken JSON, no name) is content, whole and in its place.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aded_local.chat.call_text import Call, JsonReader, calls_in_json, calls_in_xml
from aded_local.chat.detokenize import overlap
from aded_local.chat.style import AnswerStyle

LONGEST_HEAD: Final = 256
"""Characters of a name, an id and markers between ``[TOOL_CALLS]`` and the arguments."""

_HEAD: Final = re.compile(r"([^\s\[\]{}]+)(?:\[CALL_ID\](\w+))?(?:\[ARGS\])?\s*")
"""What stands between ``[TOOL_CALLS]`` and a call's arguments: ``name``, ``name[ARGS]``, ``name[CALL_ID]id[ARGS]``."""

_XML: Final = "<function="
_XML_END: Final = re.compile(r"</function>\s*</tool_call>")


@dataclass(frozen=True, slots=True)
class CallDelta:
    """What became known of a call. A call comes whole, in one delta, once it is certain that it is one.

    Attributes:
        index: counts the answer's calls from 0.
        id: ``call_…``, or the one that the model wrote.
        name: of the function.
        arguments: JSON text of an object.
    """

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class AnswerDelta:
    """What became certain with a text: to be added to what came before.

    Attributes:
        content: for the reader.
        reasoning: the model's thoughts, without their markers.
        calls: of functions.
    """

    content: str = ""
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a function: ``arguments_json`` is JSON text of an object."""

    id: str
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """A whole answer, taken apart; the attributes are those of ``AnswerDelta``."""

    content: str
    reasoning: str
    calls: tuple[ToolCall, ...]


def parsed(text: str, style: AnswerStyle) -> ParsedAnswer:
    """A whole answer's text, taken apart."""
    parser = AnswerParser(style)
    first, last = parser.feed(text), parser.finish()
    calls = tuple(ToolCall(call.id, call.name, call.arguments) for call in first.calls + last.calls)
    return ParsedAnswer(first.content + last.content, first.reasoning + last.reasoning, calls)


def _new_id() -> str:
    return f"call_{secrets.token_hex(12)}"


class AnswerParser:
    """Takes one answer apart, step by step.

    Thoughts are looked for where an answer begins, as models write them. White space at both ends of thoughts, between
    them and the content, and around calls is dropped; other content is passed on as it came.

    Args:
        style: what to look for; ``template.answer_style`` says it.
        new_id: makes the id of a call that came without one.
    """

    def __init__(self, style: AnswerStyle, new_id: Callable[[], str] = _new_id) -> None:
        self._style = style
        self._new_id = new_id
        self._rest = ""  # not read yet
        self._held = ""  # read, and content if it turns out to be no call
        self._is_last = False
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[CallDelta] = []
        self._n_calls = 0
        self._is_behind_call = False  # nothing but white space came since
        self._has_thought = False
        self._head: tuple[str, str | None] | None = None  # name and id that stand before the arguments
        self._value = JsonReader()
        # What is read now. It is called until it says that it needs more text.
        self._read: Callable[[], bool] = self._beginning

    def feed(self, text: str) -> AnswerDelta:
        """What became certain with ``text``."""
        self._rest += text
        while self._read():
            pass
        delta = AnswerDelta("".join(self._content), "".join(self._reasoning), tuple(self._calls))
        self._content, self._reasoning, self._calls = [], [], []
        return delta

    def finish(self) -> AnswerDelta:
        """The rest, at the end of the answer."""
        self._is_last = True
        return self.feed("")

    # --- thoughts ----------------------------------------------------------------------------------

    def _beginning(self) -> bool:
        if self._style.reasoning is None:
            self._read = self._answer
            return True
        opening = self._style.reasoning[0]
        text = self._rest.lstrip()
        if text.startswith(opening):
            # Where the prompt has opened them already, some models do so again.
            self._rest = text[len(opening) :]
            self._read = self._thoughts
        elif not self._is_last and opening.startswith(text):
            return False
        else:
            self._read = self._thoughts if self._style.reasoning_is_open else self._answer
        return True

    def _thoughts(self) -> bool:
        assert self._style.reasoning is not None
        closing = self._style.reasoning[1]
        if not self._has_thought:
            self._rest = self._rest.lstrip()
        at = self._rest.find(closing)
        is_over = at >= 0 or self._is_last
        if at < 0:
            at = len(self._rest) - (0 if self._is_last else overlap(self._rest, closing))
        thought = self._rest[:at].rstrip()
        if thought:
            self._reasoning.append(thought)
            self._has_thought = True
        if not is_over:
            self._rest = self._rest[len(thought) :]
            return False
        self._rest = self._rest[at + len(closing) :]
        self._read = self._behind_thoughts
        return True

    def _behind_thoughts(self) -> bool:
        self._rest = self._rest.lstrip()
        if not self._rest:
            return False
        self._read = self._answer
        return True

    # --- content -----------------------------------------------------------------------------------

    def _answer(self) -> bool:
        """Where the answer proper begins."""
        syntax = self._style.calls
        self._read = (
            self._plainly if syntax is None else self._bare if syntax.is_bare else self._content_or_call
        )
        return True

    def _plainly(self) -> bool:
        self._say(self._rest)
        self._rest = ""
        return False

    def _say(self, text: str) -> None:
        if text:
            self._content.append(text)
            self._is_behind_call = False

    def _content_or_call(self) -> bool:
        assert self._style.calls is not None
        opening = self._style.calls.opening
        at = self._rest.find(opening)
        if at >= 0:
            said = self._rest[:at].rstrip()
            self._say(said)
            self._held = self._rest[len(said) : at + len(opening)]
            self._rest = self._rest[at + len(opening) :]
            self._read = self._call
            return True
        if self._is_last:
            self._say("" if self._is_behind_call and self._rest.isspace() else self._rest)
            self._rest = ""
            return False
        said = self._rest[: len(self._rest) - overlap(self._rest, opening)].rstrip()
        self._say(said)
        self._rest = self._rest[len(said) :]
        return False

    # --- calls -------------------------------------------------------------------------------------

    def _bare(self) -> bool:
        """Where an answer, or what follows a call, may be a call without a marker."""
        between = " \t\r\n;," if self._is_behind_call else None
        text = self._rest.lstrip(between)
        if not text and not self._is_last:
            return False
        if not text and self._is_behind_call:
            self._rest = ""
        self._read = self._content_or_call
        if text.startswith("{"):
            self._hold(len(self._rest) - len(text))
            self._begin_value()
        return True

    def _call(self) -> bool:
        """Behind the marker that announces a call."""
        assert self._style.calls is not None
        self._hold(len(self._rest) - len(self._rest.lstrip()))
        if not self._rest and not self._is_last:
            return False
        family = self._style.calls.family
        if self._rest[:1] in ("{", "["):
            self._begin_value()
        elif family in ("mistral", "mistral-new"):
            return self._named_call()
        elif family in ("hermes", "qwen3-coder"):
            if self._rest.startswith(_XML):
                self._read = self._xml
            elif not self._is_last and _XML.startswith(self._rest):
                return False
            else:
                self._break()
        else:
            self._break()
        return True

    def _named_call(self) -> bool:
        before, brace, _ = self._rest[:LONGEST_HEAD].partition("{")
        if not brace and not self._is_last and len(self._rest) < LONGEST_HEAD:
            return False
        found = _HEAD.fullmatch(before) if brace else None
        if found is None:
            self._break()
            return True
        self._hold(len(before))
        self._begin_value((found[1], found[2]))
        return True

    def _begin_value(self, head: tuple[str, str | None] | None = None) -> None:
        self._head = head
        self._value = JsonReader()
        self._read = self._json

    def _json(self) -> bool:
        value = self._value
        value.read(self._rest)
        self._rest = value.behind
        if value.is_open and not self._is_last:
            return False
        calls = None if value.is_open or value.is_broken else self._calls_in(value.text)
        if not calls:
            self._held += value.text
            self._break()
            return True
        self._add(calls)
        return True

    def _calls_in(self, text: str) -> tuple[Call, ...] | None:
        style = self._style
        assert style.calls is not None
        if self._head is not None:
            return calls_in_json(text, named=self._head)
        # Nothing else tells an answer in JSON from a call.
        return calls_in_json(text, only=style.names if style.calls.is_bare else None)

    def _xml(self) -> bool:
        found = _XML_END.search(self._rest)
        if found is None and not self._is_last:
            return False
        end = len(self._rest) if found is None else found.end()
        calls = calls_in_xml(self._rest[:end].removesuffix("</tool_call>"), self._style.texts)
        if not calls:
            self._hold(end)
            self._break()
            return True
        self._rest = self._rest[end:]
        self._add(calls)
        self._read = self._content_or_call
        return True

    def _add(self, calls: tuple[Call, ...]) -> None:
        assert self._style.calls is not None
        for name, arguments, given in calls:
            self._calls.append(CallDelta(self._n_calls, given or self._new_id(), name, arguments))
            self._n_calls += 1
        self._held = ""
        self._is_behind_call = True
        if self._style.calls.is_bare:
            self._read = self._bare
        else:
            self._read = self._closing if self._style.calls.closing else self._content_or_call

    def _closing(self) -> bool:
        """Behind a call's JSON, where its closing marker belongs, or another call."""
        assert self._style.calls is not None
        closing = self._style.calls.closing
        text = self._rest.lstrip()
        if not self._is_last and text != closing and closing.startswith(text):
            return False
        self._read = self._content_or_call
        if text.startswith(closing):
            self._rest = text[len(closing) :]
        elif text.startswith("{"):
            self._hold(len(self._rest) - len(text))
            self._begin_value()
        return True

    def _hold(self, n: int) -> None:
        self._held += self._rest[:n]
        self._rest = self._rest[n:]

    def _break(self) -> None:
        """It was no call: what was held is content."""
        self._say(self._held)
        self._held = ""
        self._read = self._content_or_call

"""Messages in, the segments of a prompt out, through the model's own chat template.

What a person types must never become a control token. Yet the template must see it unchanged: it looks for ``</think>``
in answers and for ``<tool_response>`` in questions. So each conversation is rendered twice:

1. with the contents as they are: this is the text of the prompt;
2. with a twin (``marks``) in place of each character of a content that occurs in a control text. What the template
   looks for is replaced in the same way (``looking``), so that it finds the same places. Wherever the template moves a
   character of a content, its twin goes too.

If the second rendering, with the twins turned back, equals the first, it shows for each character of the prompt whether
the template wrote it. A control text stays a control text if the template wrote all of it. Every other one is cut in
two (``controls``).

Where the two renderings differ (a template looks at an answer in lower case, or for words like ``'ping'``), only the
characters that control texts begin and end with get twins. That is enough unless a template writes its own brackets
around what a person said. If this does not help either, the rendering with all twins is used: the template may not have
found what it looked for, but nothing typed becomes a control token.

Some templates sort the keys of a schema, and twins sort behind all letters. There, a rendering with the fewest twins is
taken if it has the control texts of the template's own that the one with all twins has.

A template may put a role in brackets, ``<|user|>``. Well-known roles, and those that the template compares with, count
as the template's own words; other roles get twins as contents do. The same holds for everything in tools and calls,
keys and values: names of JSON schemas, and words that stand in the template, stay as they are, so that it finds what it
looks up. A word that control texts are made of (``im_end``) is never one of these.

An answer's own token ids go into the prompt unchanged. Its text, tokenized again, may give other ids, and what the
cache holds of the turn before would be lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from aded_local.chat.habits import CALLED, Habits, habits_of
from aded_local.chat.looking import Looking, analysed
from aded_local.chat.marks import KNOWN_WORDS, Marks, Twins
from aded_local.chat.messages import (
    Message,
    Plain,
    checked_messages,
    checked_tools,
    texts_of,
    without_system,
)
from aded_local.chat.placing import before_last, place, without_spaces
from aded_local.chat.rendering import Renderer
from aded_local.chat.sandbox import MAX_SOURCE
from aded_local.chat.segments import Segment, Tokenizer, segment_tokens
from aded_local.chat.style import AnswerStyle, CallSyntax, declared_texts, reasoning_of, syntax_of
from aded_local.errors import PromptError, TemplateError, TemplateLimitError
from aded_local.llama.controls import Controls, used_as_marker

CHATML = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
"""For a model that came without a template and whose vocabulary knows ``<|im_start|>``."""

KNOWN_ROLES: Final = frozenset(
    ["assistant", "developer", "function", "observation", "system", "tool", "user"]
)
"""Roles that programs which talk to chat models agree upon."""

Parameters = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation as the model reads it.

    Attributes:
        segments: in order; ``ChatTemplate.to_tokens`` makes ids of them.
        style: what to look for in the answer.
    """

    segments: list[Segment]
    style: AnswerStyle


@dataclass(frozen=True, slots=True)
class _Conversation:
    """What is rendered."""

    messages: list[Plain]
    tools: list[Plain] | None


class ChatTemplate:
    """One model's way to write a conversation.

    Args:
        source: the Jinja template, analysed or not; None when the model has none.
        bos: the beginning-of-text token's text, empty without one.
        eos: the end-of-text token's text, empty without one.
        control_texts: texts of all tokens that steer.
        defined_texts: texts of USER_DEFINED tokens, which steer where the template uses them as markers.
        renderer: of the analysed source, where one has been started already.

    Raises:
        TemplateError: no template and no ChatML vocabulary, or one that does not compile.
    """

    def __init__(
        self,
        source: str | Looking | None,
        *,
        bos: str,
        eos: str,
        control_texts: Sequence[str],
        defined_texts: Sequence[str] = (),
        renderer: Renderer | None = None,
    ) -> None:
        if source is None:
            if "<|im_start|>" not in control_texts:
                raise TemplateError(
                    "the model has no chat template, so it cannot chat; use generate, "
                    "or give a template with --chat-template (chat_template)"
                )
            source = CHATML
        given = {"bos_token": bos, "eos_token": eos}
        self._looking = source if isinstance(source, Looking) else analysed(source, given)
        self._source = self._looking.original
        if len(self._source) > MAX_SOURCE:
            raise TemplateError(
                f"the model's chat template has {len(self._source)} characters; {MAX_SOURCE} are allowed"
            )
        self._given = given
        markers = [text for text in defined_texts if used_as_marker(text, self._source)]
        self._controls = Controls([*control_texts, *markers])
        self._roles = KNOWN_ROLES | self._looking.names
        self._words = (KNOWN_WORDS | self._looking.words) - self._controls.words
        self._reasoning = reasoning_of(self._source, (*control_texts, *defined_texts))
        self._renderer = renderer or Renderer(self._looking.source, self._source)
        self._renderer.compile()

    def close(self) -> None:
        """End the process that renders, if there is one; rendering starts another."""
        self._renderer.close()

    # --- rendering -------------------------------------------------------------------------------

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        known_answers: Mapping[str, Sequence[int]] | None = None,
    ) -> list[Segment]:
        """The segments of ``prompt``."""
        return self.prompt(messages, add_generation_prompt, tools=tools, known_answers=known_answers).segments

    def answer_style(
        self, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> AnswerStyle:
        """What to look for in the answer to a conversation; arguments and errors as for ``prompt``."""
        return self.prompt(messages, tools=tools).style

    def prompt(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        known_answers: Mapping[str, Sequence[int]] | None = None,
    ) -> Prompt:
        """A conversation as the model reads it, and how it will answer.

        Without control texts in the contents and without known answers this is one segment. The text begins with the
        BOS token's text where the template writes it.

        Args:
            messages: see ``messages.Message``. A model that knows no system role gets the system prompt in front of
                the first user message; the role ``developer`` is the system's, unless the template knows it.
            add_generation_prompt: end where the model is to go on: where the answer begins, or, if the last message is
                the assistant's, right behind its content.
            tools: functions that may be called, in OpenAI's shape.
            known_answers: token ids of assistant messages, by their text. An id list is used where the
                template writes the answer out whole, save white space at its ends.

        Raises:
            PromptError: a message without role or content, or with content that is no text; calls without results.
            OptionError: tools that are none.
            TemplateError: the template refused the conversation, failed, took too much, or leaves out tools, calls,
                results, or the message that is to be continued.
        """
        said = self._wanted(checked_messages(messages), checked_tools(tools))
        plain, offered = said.messages, said.tools
        known = [self._known(message, known_answers or {}) for message in plain]
        texts = texts_of([*plain, *(offered or [])])
        marks = Marks(self._controls, [self._source, *texts], self._words)
        goes_on = add_generation_prompt and bool(plain) and plain[-1]["role"] == "assistant"
        if goes_on and "tool_calls" in plain[-1]:
            raise PromptError("the conversation ends with tool calls; add their results, with the role tool")
        after_last = marks.end if goes_on else ""
        begun = plain[-1]["content"] if goes_on else ""
        if goes_on:
            plain[-1] = {**plain[-1], "content": begun + after_last}
            add_generation_prompt = False
        twins, parameters, whole = self._marked_rendering(said, marks, add_generation_prompt)
        whole = before_last(after_last, whole)
        style = self._style(whole, begun, offered)
        if not any(known):
            return Prompt(self._segments([whole], marks), style)
        marked = self._marked(said, twins)
        with_sentinels = [
            {**message, "content": marks.answer + after_last * (message is marked.messages[-1])}
            if tokens
            else message
            for message, tokens in zip(marked.messages, known, strict=True)
        ]
        outlined = _Conversation(with_sentinels, marked.tools)
        rendered = self._rendered(outlined, add_generation_prompt, parameters)
        outline = before_last(after_last, rendered).split(marks.answer)
        answers = [
            (message["content"].removesuffix(after_last), tokens)
            for message, tokens in zip(marked.messages, known, strict=True)
            if tokens
        ]
        parts = place(whole, outline, answers)
        if outline[0].endswith(" "):
            first = next(i for i, tokens in enumerate(known) if tokens)
            before = _Conversation(marked.messages[:first], marked.tools)
            parts = without_spaces(parts, self._added_spaces(outline[0], before, parameters))
        return Prompt(self._segments(parts, marks), style)

    def _wanted(self, messages: list[Plain], tools: list[Plain] | None) -> _Conversation:
        """The conversation as this template wants it."""
        if "developer" not in self._source:
            messages = [
                {**message, "role": "system"} if message["role"] == "developer" else message
                for message in messages
            ]
        if tools or any("tool_calls" in message or message["role"] == "tool" for message in messages):
            messages = self._habits.applied(messages, tools)
        return _Conversation(messages, tools)

    @cached_property
    def _habits(self) -> Habits:
        """What the template does with tools and calls, found when it first matters."""
        return habits_of(
            lambda messages, tools: self._run(_Conversation(messages, tools), True, self._looking.parameters)
        )

    @cached_property
    def _syntax(self) -> CallSyntax | None:
        return syntax_of(self._source, self._habits.example, CALLED)

    def _style(self, prompt: str, begun: str, tools: list[Plain] | None) -> AnswerStyle:
        """What to look for in an answer.

        Args:
            prompt: as marked, so that nothing typed looks like the template's own.
            begun: the beginning of the answer, where it is given.
            tools: that may be called.
        """
        is_open = False
        if self._reasoning is not None:
            opening, closing = self._reasoning
            is_open = prompt.rstrip().endswith(opening) or begun.rfind(opening) > begun.rfind(closing)
        if not tools:
            return AnswerStyle(self._reasoning, is_open)
        names = frozenset(tool["function"]["name"] for tool in tools)
        return AnswerStyle(self._reasoning, is_open, self._syntax, names, declared_texts(tools))

    @staticmethod
    def _known(message: Plain, answers: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
        # A blank answer cannot be told from the template's own spaces.
        if message["role"] != "assistant" or not (message["content"] or "").strip():
            return ()
        return tuple(answers.get(message["content"], ()))

    def _marked_rendering(
        self, said: _Conversation, marks: Marks, add_generation_prompt: bool
    ) -> tuple[Twins, Parameters, str]:
        """The conversation with twins in place of foreign characters, and with which it was rendered.

        Raises:
            TemplateError: the template refuses the conversation.
        """
        plain = safest = refusal = None
        try:
            plain = self._rendered(said, add_generation_prompt, self._looking.parameters)
        except TemplateLimitError:
            raise  # another try would take as long
        except TemplateError as error:
            refusal = error  # it may have found in a content what it does not find among twins
        for twins, parameters in self._ways(marks):
            marked = self._marked(said, twins)
            try:
                text = marks.unescaped(self._rendered(marked, add_generation_prompt, parameters))
            except TemplateLimitError:
                raise
            except TemplateError as error:
                refusal = refusal or error
                continue
            is_faithful = plain is None or marks.unmark(text) == plain
            if twins is marks.fewest:
                # It may take words within brackets of the template's for the template's own.
                is_faithful = (
                    is_faithful
                    and safest is not None
                    and self._owns(text, marks) == self._owns(safest[2], marks)
                )
            if is_faithful:
                return twins, parameters, text
            safest = safest or (twins, parameters, text)
        if safest is None:
            assert refusal is not None
            raise refusal
        return safest

    def _owns(self, marked: str, marks: Marks) -> Counter[str]:
        """Control texts that the template wrote, by a rendering with twins."""
        return self._controls.own(marks.unmark(marked), marked)

    def _ways(self, marks: Marks) -> Iterator[tuple[Twins, Parameters]]:
        """Which characters get twins, and what the template looks for; the safest first."""
        wanted = self._looking.parameters
        for twins in (marks.full, marks.edges, marks.fewest):
            yield twins, {name: twins.of_text(text) for name, text in wanted.items()}
            yield twins, wanted

    def _marked(self, said: _Conversation, twins: Twins) -> _Conversation:
        messages = [twins.of_message(message, self._roles) for message in said.messages]
        tools = None if said.tools is None else [twins.of_function(tool) for tool in said.tools]
        return _Conversation(messages, tools)

    def _added_spaces(self, before: str, said: _Conversation, parameters: Parameters) -> int:
        """Spaces the template writes before an answer that its generation prompt does not end with.

        Args:
            before: what it writes up to the first answer.
            said: the conversation before that answer.
            parameters: what the template looks for.
        """
        try:
            prompt = self._rendered(said, True, parameters)
        except TemplateError:
            return 0
        spaces = len(before) - len(prompt)
        return spaces if spaces > 0 and before == prompt + " " * spaces else 0

    def _rendered(self, said: _Conversation, add_generation_prompt: bool, parameters: Parameters) -> str:
        try:
            return self._run(said, add_generation_prompt, parameters)
        except TemplateLimitError:
            raise  # another try would take as long
        except TemplateError:
            merged = without_system(said.messages)
            if merged is None:
                raise
            return self._run(_Conversation(merged, said.tools), add_generation_prompt, parameters)

    def _run(self, said: _Conversation, add_generation_prompt: bool, parameters: Parameters) -> str:
        variables: dict[str, Any] = {
            "messages": said.messages,
            "add_generation_prompt": add_generation_prompt,
            "tools": said.tools,
            "documents": None,
            **self._given,
            **parameters,
        }
        return self._renderer.render(variables)

    # --- cutting ---------------------------------------------------------------------------------

    def _segments(self, parts: list[str | tuple[int, ...]], marks: Marks) -> list[Segment]:
        """Rendered text and answers' ids to segments; ``continues`` by what stands before each."""
        segments: list[Segment] = []
        running = False
        for part in parts:
            if isinstance(part, tuple):
                segments.append(Segment("", part, running))
                running = True
                continue
            for text, ends_in_control in self._controls.pieces(marks.unmark(part), part):
                segments.append(Segment(text, (), running))
                running = not ends_in_control
        return segments

    def to_tokens(self, segments: Sequence[Segment], tokenizer: Tokenizer) -> list[int]:
        """Token ids of what ``render`` gave; see ``segment_tokens``."""
        return segment_tokens(segments, tokenizer)

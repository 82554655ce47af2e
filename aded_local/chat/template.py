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

A template may put a role in brackets, ``<|user|>``. Well-known roles, and those that the template compares with, count
as the template's own words; other roles get twins as contents do.

An answer's own token ids go into the prompt unchanged. Its text, tokenized again, may give other ids, and what the
cache holds of the turn before would be lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from aded_local.chat.looking import NAME, Looking, analysed
from aded_local.chat.marks import Marks, Twins
from aded_local.chat.rendering import Renderer
from aded_local.chat.sandbox import MAX_SOURCE
from aded_local.chat.segments import Segment, Tokenizer, segment_tokens
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

Message = Mapping[str, Any]
"""``role``, and ``content``: text, or a list of OpenAI's text parts."""

Parameters = Mapping[str, str]


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
        known_answers: Mapping[str, Sequence[int]] | None = None,
    ) -> list[Segment]:
        """The conversation as segments, in order; ``to_tokens`` makes ids of them.

        Without control texts in the contents and without known answers this is one segment. The text begins with the
        BOS token's text where the template writes it.

        Args:
            messages: ``role`` and ``content`` of each turn. A model that knows no system role gets the
                system prompt in front of the first user message.
            add_generation_prompt: end where the model is to go on: where the answer begins, or, if the last message is
                the assistant's, right behind its content.
            known_answers: token ids of assistant messages, by their text. An id list is used where the
                template writes the answer out whole, save white space at its ends.

        Raises:
            PromptError: a message without role or content, or with content that is no text.
            TemplateError: the template refused the conversation, failed, took too much, or leaves out the message that
                is to be continued.
        """
        if isinstance(messages, (str, Mapping)) or not isinstance(messages, Iterable):
            kind = type(messages).__name__
            raise PromptError(
                f"a conversation is a list of messages, not {kind}; put one message into a list"
            )
        plain = [_checked(message) for message in messages]
        known = [self._known(message, known_answers or {}) for message in plain]
        marks = Marks(self._controls, [self._source, *(text for one in plain for text in one.values())])
        is_continued = add_generation_prompt and bool(plain) and plain[-1]["role"] == "assistant"
        after_last = marks.end if is_continued else ""
        if is_continued:
            plain[-1] = {**plain[-1], "content": plain[-1]["content"] + after_last}
            add_generation_prompt = False
        twins, parameters, whole = self._marked_rendering(plain, marks, add_generation_prompt)
        whole = _before_last(after_last, whole)
        if not any(known):
            return self._segments([whole], marks)
        marked = [self._marked(message, twins) for message in plain]
        with_sentinels = [
            {**message, "content": marks.answer + after_last * (message is marked[-1])} if tokens else message
            for message, tokens in zip(marked, known, strict=True)
        ]
        rendered = self._rendered(with_sentinels, add_generation_prompt, parameters)
        outline = _before_last(after_last, rendered).split(marks.answer)
        answers = [
            (message["content"].removesuffix(after_last), tokens)
            for message, tokens in zip(marked, known, strict=True)
            if tokens
        ]
        parts = _place(whole, outline, answers)
        if outline[0].endswith(" "):
            first = next(i for i, tokens in enumerate(known) if tokens)
            parts = _without_spaces(parts, self._added_spaces(outline[0], marked[:first], parameters))
        return self._segments(parts, marks)

    @staticmethod
    def _known(message: dict[str, str], answers: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
        # A blank answer cannot be told from the template's own spaces.
        if message["role"] != "assistant" or not message["content"].strip():
            return ()
        return tuple(answers.get(message["content"], ()))

    def _marked_rendering(
        self, messages: list[dict[str, str]], marks: Marks, add_generation_prompt: bool
    ) -> tuple[Twins, Parameters, str]:
        """The conversation with twins in place of foreign characters, and with which it was rendered.

        Raises:
            TemplateError: the template refuses the conversation.
        """
        plain = safest = refusal = None
        try:
            plain = self._rendered(messages, add_generation_prompt, self._looking.parameters)
        except TemplateLimitError:
            raise  # another try would take as long
        except TemplateError as error:
            refusal = error  # it may have found in a content what it does not find among twins
        for twins, parameters in self._ways(messages, marks):
            marked = [self._marked(message, twins) for message in messages]
            try:
                text = marks.unescaped(self._rendered(marked, add_generation_prompt, parameters))
            except TemplateLimitError:
                raise
            except TemplateError as error:
                refusal = refusal or error
                continue
            if plain is None or marks.unmark(text) == plain:
                return twins, parameters, text
            safest = safest or (twins, parameters, text)
        if safest is None:
            assert refusal is not None
            raise refusal
        return safest

    def _ways(self, messages: list[dict[str, str]], marks: Marks) -> Iterator[tuple[Twins, Parameters]]:
        """Which characters get twins, and what the template looks for; the safest first."""
        wanted = self._looking.parameters
        for twins in (marks.full, marks.edges):
            yield twins, {name: text.translate(twins) for name, text in wanted.items()}
            yield twins, wanted
            if any(message["role"] not in self._roles for message in messages):
                return  # such a role has its twins in the middle of a control text

    def _marked(self, message: dict[str, str], twins: Twins) -> dict[str, str]:
        role = message["role"]
        return {
            "role": role if role in self._roles else role.translate(twins),
            "content": message["content"].translate(twins),
        }

    def _added_spaces(self, before: str, messages: list[dict[str, str]], parameters: Parameters) -> int:
        """Spaces the template writes before an answer that its generation prompt does not end with.

        Args:
            before: what it writes up to the first answer.
            messages: those before that answer.
            parameters: what the template looks for.
        """
        try:
            prompt = self._rendered(messages, True, parameters)
        except TemplateError:
            return 0
        spaces = len(before) - len(prompt)
        return spaces if spaces > 0 and before == prompt + " " * spaces else 0

    def _rendered(
        self, messages: list[dict[str, str]], add_generation_prompt: bool, parameters: Parameters
    ) -> str:
        try:
            return self._run(messages, add_generation_prompt, parameters)
        except TemplateLimitError:
            raise  # another try would take as long
        except TemplateError:
            merged = _without_system(messages)
            if merged is None:
                raise
            return self._run(merged, add_generation_prompt, parameters)

    def _run(
        self, messages: list[dict[str, str]], add_generation_prompt: bool, parameters: Parameters
    ) -> str:
        variables: dict[str, Any] = {
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            "tools": None,
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


def _before_last(end: str, text: str) -> str:
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


def _checked(message: Message) -> dict[str, str]:
    try:
        role, content = message["role"], message["content"]
        calls = message.get("tool_calls")
    except (KeyError, TypeError, AttributeError) as error:
        raise PromptError("a message needs 'role' and 'content'") from error
    if not isinstance(role, str) or not NAME.fullmatch(role):
        raise PromptError(
            f"a message's role is {str(role)[:40]!r}; it must be a name such as user or assistant"
        )
    if calls:
        raise PromptError(
            "a message has tool_calls, which are not passed on; write the call into its content"
        )
    if isinstance(content, (list, tuple)):
        content = "\n".join(map(_part_text, content))
    if content is None:
        raise PromptError("a message's content is None; give its text, '' for none")
    if not isinstance(content, str):
        raise PromptError(f"a message's content must be text, not {type(content).__name__}")
    # What the tokenizer would do to lone surrogates, done before anything is looked for.
    return {"role": role, "content": content.encode("utf-8", errors="replace").decode("utf-8")}


def _part_text(part: Any) -> str:
    """The text of one of OpenAI's content parts."""
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if kind != "text":
        raise PromptError(f"a message has a part of type {str(kind)[:40]!r}; only text parts can be read")
    if not isinstance(part.get("text"), str):
        raise PromptError("a text part of a message has no text")
    text: str = part["text"]
    return text


def _without_system(messages: list[dict[str, str]]) -> list[dict[str, str]] | None:
    """The system prompt in front of the first user message; None where there is none to move."""
    if len(messages) < 2 or messages[0]["role"] != "system" or messages[1]["role"] != "user":
        return None
    first = {**messages[1], "content": messages[0]["content"] + "\n\n" + messages[1]["content"]}
    return [first, *messages[2:]]

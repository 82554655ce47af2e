"""How a model's family writes what is no content: its thoughts, and its calls of functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

Family = Literal["hermes", "llama3", "mistral", "mistral-new", "qwen3-coder"]


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """How a family writes calls.

    Attributes:
        family: whose format it is.
        opening: the text that announces a call.
        closing: the text behind a call; empty where nothing closes it.
        arguments: the key of a call's arguments in JSON.
        markers: further texts inside a call that may be control tokens.
        is_bare: an answer that begins with a brace is a call, too.
    """

    family: Family
    opening: str
    closing: str = ""
    arguments: str = "arguments"
    markers: tuple[str, ...] = ()
    is_bare: bool = False


HERMES: Final = CallSyntax("hermes", "<tool_call>", "</tool_call>")
"""``<tool_call>{"name": …, "arguments": {…}}</tool_call>``: Hermes, Qwen2.5, Qwen3 and other ChatML models."""

QWEN3_CODER: Final = CallSyntax("qwen3-coder", "<tool_call>", "</tool_call>")
"""``<tool_call><function=name><parameter=key>value</parameter></function></tool_call>``."""

LLAMA3: Final = CallSyntax("llama3", "<|python_tag|>", arguments="parameters", is_bare=True)
"""``{"name": …, "parameters": {…}}`` as the whole answer, with or without ``<|python_tag|>``: Llama 3.1 to 3.3."""

MISTRAL: Final = CallSyntax("mistral", "[TOOL_CALLS]", markers=("[CALL_ID]", "[ARGS]"))
"""``[TOOL_CALLS][{"name": …, "arguments": {…}}]``. Either kind of Mistral's is understood where the other is usual."""

MISTRAL_NEW: Final = CallSyntax("mistral-new", "[TOOL_CALLS]", markers=("[CALL_ID]", "[ARGS]"))
"""``[TOOL_CALLS]name[ARGS]{…}``: since 2025."""

REASONING: Final = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
"""What stands around thoughts: nearly everywhere, and in Mistral's reasoning models."""


@dataclass(frozen=True, slots=True)
class AnswerStyle:
    """What to look for in an answer; ``parsing.AnswerParser`` does.

    Attributes:
        reasoning: what stands around thoughts; None where the model has no such texts.
        reasoning_is_open: the prompt ends within thoughts, so that the answer begins with them.
        calls: how calls are written; None where no tools were given, or the family's format is not known.
        names: of the functions that may be called.
        texts: function and parameter, of parameters that the schema declares as text. Where values are written without
            quotes, this says that ``12`` is a text.
    """

    reasoning: tuple[str, str] | None = None
    reasoning_is_open: bool = False
    calls: CallSyntax | None = None
    names: frozenset[str] = frozenset()
    texts: frozenset[tuple[str, str]] = frozenset()

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts that the answer must show where the vocabulary has them as control tokens, which are hidden else."""
        found: tuple[str, ...] = self.reasoning or ()
        if self.calls is not None:
            found += tuple(filter(None, (self.calls.opening, self.calls.closing, *self.calls.markers)))
        return found


PLAIN: Final = AnswerStyle()
"""Everything is content."""


def reasoning_of(source: str, texts: Iterable[str]) -> tuple[str, str] | None:
    """What stands around thoughts, by a template and the texts of the vocabulary's special tokens."""
    known = frozenset(texts)
    for pair in REASONING:
        if pair[1] in source or known.issuperset(pair):
            return pair
    return None


_WRITTEN: Final = (
    (MISTRAL, r"\[TOOL_CALLS\]\s*\[\s*\{{[^{{}}]*{0}"),
    (MISTRAL_NEW, r"\[TOOL_CALLS\]{0}"),
    (QWEN3_CODER, r"<tool_call>\s*<function={0}"),
    (HERMES, r"<tool_call>\s*\{{\s*\"name\":\s*\"{0}"),
    (LLAMA3, r"\{{\s*\"name\":\s*\"{0}\",\s*\"parameters\""),
)
"""How a template of each family writes a call of the function {0}."""


def syntax_of(source: str, example: str, name: str) -> CallSyntax | None:
    """How a template's family writes calls; None where the format is none of the known ones.

    Args:
        source: the template.
        example: what it wrote for a call of ``name``; empty where it writes no calls, as one does that only tells the
            model how to call.
    """
    if example:
        return next((one for one, form in _WRITTEN if re.search(form.format(name), example)), None)
    if HERMES.opening in source and '"arguments"' in source:
        return HERMES
    if MISTRAL.opening not in source:
        return None
    return MISTRAL_NEW if "[ARGS]" in source else MISTRAL


def declared_texts(tools: Sequence[Mapping[str, Any]]) -> frozenset[tuple[str, str]]:
    """Function and parameter, of parameters declared as text; ``tools`` as ``tools.checked`` gives them."""
    return frozenset(
        (tool["function"]["name"], key)
        for tool in tools
        for key, schema in _properties(tool["function"].get("parameters")).items()
        if isinstance(schema, Mapping) and schema.get("type") == "string"
    )


def _properties(schema: Any) -> Mapping[str, Any]:
    found = schema.get("properties") if isinstance(schema, Mapping) else None
    return found if isinstance(found, Mapping) else {}

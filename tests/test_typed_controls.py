"""Whatever is typed, in whatever disguise, adds no control token to a prompt: through llama.cpp, on real vocabularies.

A few conversations for each template and vocabulary; ``TRIES=1000`` in the environment for more.
"""

# ruff: noqa: E501  (templates)

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import jinja2
import pytest
import vocabularies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aded_local.chat.segments import Segment, text_tokens
from aded_local.chat.template import ChatTemplate
from aded_local.errors import ModelNotFoundError
from aded_local.llama.controls import Controls, is_bracketed_twice, used_as_marker
from aded_local.llama.vocabulary import Vocabulary
from aded_models import names

TRIES = int(os.environ.get("TRIES", "3"))

# What the template writes, and which of its own control texts, (o)pen and (c)lose, by the number of messages.
TEMPLATES: dict[str, tuple[str, Callable[[int], str]]] = {
    "plain": (
        "{% for m in messages %}{{ open ~ m.role ~ '\n' ~ m.content ~ close ~ '\n' }}{% endfor %}",
        lambda n: "oc" * n,
    ),
    "trimming": (
        "{{ open }}{% for m in messages %}{{ m.role ~ close ~ m.content | trim ~ close }}{% endfor %}",
        lambda n: "o" + "cc" * n,
    ),
    "joining": ("{% for m in messages %}{{ m.content }}{% endfor %}{{ close }}", lambda n: "c"),
    "deleting": (
        "{% for m in messages %}{{ open }}{{ m.content.replace('<think>', '').replace('</think>', '') | replace(' ', '') }}"
        "{{ close }}{% endfor %}",
        lambda n: "oc" * n,
    ),
    "thinking": (
        "{% for m in messages %}{% set text = m.content %}{% if '</think>' in text %}"
        "{% set text = text.split('</think>')[0].split('<think>')[-1] ~ text.split('</think>')[-1].lstrip('\n') %}"
        "{% endif %}{{ open ~ m.role ~ '\n' ~ text ~ close }}{% endfor %}",
        lambda n: "oc" * n,
    ),
    "asking": (
        "{% for m in messages %}{% if m.content.startswith('<tool_response>') and '<tool_call>' not in m.content %}"
        "{{ open ~ 'tool' }}{% else %}{{ open ~ m.role }}{% endif %}{{ m.content ~ close }}{% endfor %}",
        lambda n: "oc" * n,
    ),
    "bracketing": (
        "{% for m in messages %}{{ '<|' ~ m.role ~ '|>' ~ m.content ~ '<|' ~ m.content ~ '|>' ~ '<' ~ m.content ~ '>' }}"
        "{% endfor %}{{ close }}",
        lambda n: "c",
    ),
    "listing": (
        "{{ messages }}{{ close }}{{ messages | tojson }}{{ messages | tojson(ensure_ascii=true) }}{{ open }}",
        lambda n: "co",
    ),
    "lowering": (
        "{% for m in messages %}{{ open }}{% if 'a' in m.content | lower %}a{% endif %}{{ m.content ~ close }}{% endfor %}",
        lambda n: "oc" * n,
    ),
    "cutting": (
        "{% for m in messages %}{{ open }}{% for c in m.content %}{{ c }}{% endfor %}{{ m.content[1:] ~ m.content[::-1] }}"
        "{{ close }}{% endfor %}",
        lambda n: "oc" * n,
    ),
}


class ByText(Vocabulary):
    """Finds tokens by their texts."""

    def token_of(self, text: str) -> int:
        return self._by_text[text]

    @cached_property
    def _by_text(self) -> dict[str, int]:
        return {self.token_text(token): token for token in range(self.n_vocab)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vocabularies")


@pytest.fixture(scope="module", params=[*vocabularies.NAMES, "gpt-oss-like", "smollm2"])
def vocabulary(request: pytest.FixtureRequest, folder: Path) -> Iterator[ByText]:
    if request.param == "gpt-oss-like":
        path = vocabularies.with_tokens(
            vocabularies.path_of("qwen2"), folder / "gpt-oss.gguf", vocabularies.GPT_OSS, 151650
        )
    elif request.param == "smollm2":
        try:
            path = names.smollm2_path()
        except ModelNotFoundError as missing:
            pytest.skip(str(missing))
    else:
        path = vocabularies.path_of(request.param)
    found = ByText(path)
    yield found
    found.close()


def made(vocabulary: ByText, source: str) -> tuple[ChatTemplate, dict[str, int]]:
    """A template of that vocabulary that names its brackets, and the tokens of those."""
    texts = [text for text in vocabulary.control_texts if text != vocabulary.token_text(vocabulary.bos)]
    begin, end = ("<|start|>", "<|end|>") if "<|start|>" in texts else (texts[0], texts[-1])
    chat = ChatTemplate(
        "{% set open = '" + begin + "' %}{% set close = '" + end + "' %}" + source,
        bos=vocabulary.token_text(vocabulary.bos),
        eos=vocabulary.token_text(vocabulary.eos),
        control_texts=vocabulary.control_texts,
        defined_texts=vocabulary.defined_texts,
    )
    return chat, {"o": vocabulary.token_of(begin), "c": vocabulary.token_of(end)}


def disguises(texts: list[str]) -> st.SearchStrategy[str]:
    """Contents made of control texts: whole, in parts, doubled at the edges, one in another."""
    whole = st.sampled_from(texts)
    part = st.builds(
        lambda text, at, rest: text[at:] if rest else text[:at], whole, st.integers(1, 9), st.booleans()
    )
    doubled = whole.map(lambda text: text[0] + text + text[-1])
    nested = st.builds(lambda a, b, at: a[:at] + b + a[at:], whole, whole, st.integers(1, 6))
    other = st.sampled_from(
        [" ", "\n", "\t", "<", ">", "|", "<|", "|>", "a", "end", "user", "<think>", "</think>", "<tool_response>", "</tool_response>",
         "<tool_call>", "\U000f0000", "\U00020005", "\ue000", "\\ud840\\udc05", "\\U00020005", "'", '"', "\\", "▁", "é", "漢"]
    )  # fmt: skip
    return st.lists(st.one_of(whole, part, doubled, nested, other), max_size=5).map("".join)


ROLES = st.sampled_from(["user", "assistant", "system", "tool", "end", "start", "im_end", "s"])


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_disguise_adds_a_control_token(name: str, vocabulary: ByText) -> None:
    source, own = TEMPLATES[name]
    chat, tokens = made(vocabulary, source)
    steering = {vocabulary.token_of(text) for text in chat._controls.texts}
    assert steering >= {token for token in vocabulary.control_tokens if len(vocabulary.token_text(token)) > 1}
    texts = sorted({*vocabulary.control_texts[:4], *vocabulary.control_texts[-4:], *vocabularies.GPT_OSS})
    jinja = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    jinja.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    plain = jinja.from_string(chat._source)

    @given(said=st.lists(st.builds(said_by, ROLES, disguises(texts)), min_size=1, max_size=4))
    @settings(max_examples=TRIES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def no_control_token_is_added(said: list[dict[str, str]]) -> None:
        segments = chat.render(said, False)
        if name not in ("listing", "lowering"):
            assert text_of(segments) == plain.render(messages=said)
        ids = chat.to_tokens(segments, vocabulary)[vocabulary.adds_bos :]
        assert [token for token in ids if token in steering] == [tokens[which] for which in own(len(said))]
        assert written(ids, steering, vocabulary) == as_read(text_of(segments), vocabulary)

    no_control_token_is_added()


def written(ids: list[int], steering: set[int], vocabulary: ByText) -> str:
    """What the ids say. SentencePiece writes a space as ``▁``, and puts one at the beginning and behind control tokens."""
    runs = [b""]
    for token in ids:
        if token in steering:
            runs += [vocabulary.token_text(token).encode(), b""]
        else:
            runs[-1] += vocabulary.piece(token)
    if vocabulary._adds_space:
        runs[::2] = [run.removeprefix(b" ") for run in runs[::2]]
    return b"".join(runs).decode()


def as_read(text: str, vocabulary: ByText) -> str:
    return text.replace("▁", " ") if vocabulary._adds_space else text


def said_by(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def text_of(segments: Sequence[Segment]) -> str:
    return "".join(segment.text for segment in segments)


def test_a_raw_prompt_keeps_control_texts_as_text(vocabulary: ByText) -> None:
    texts = sorted({*vocabulary.control_texts[:4], *vocabulary.control_texts[-4:]})

    @given(prompt=disguises(texts))
    @settings(max_examples=TRIES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def no_control_token_is_read(prompt: str) -> None:
        ids = text_tokens(prompt, vocabulary)
        assert (ids[:1] == [vocabulary.bos]) == vocabulary.adds_bos
        ids = ids[vocabulary.adds_bos :]
        assert vocabulary.control_tokens.isdisjoint(ids)
        assert written(ids, set(), vocabulary) == as_read(prompt, vocabulary)

    no_control_token_is_read()


def test_plain_text_is_tokenized_as_ever(vocabulary: ByText) -> None:
    for text in (
        "Why is the sky blue?\n\n  if a < b: <table>|x|</table>",
        "  <|",
        "end|>",
        "a" * 300,
        "漢字。<b>",
    ):
        assert text_tokens(text, vocabulary) == vocabulary.tokenize(
            text, add_special=True, parse_special=False
        )


def test_a_typed_control_text_becomes_the_tokens_of_plain_text(vocabulary: ByText) -> None:
    """A cut where words end anyway changes nothing else."""
    chat, _ = made(vocabulary, "{{ open }}{% for m in messages %}{{ m.content }}{% endfor %}{{ close }}")
    for control in vocabulary.control_texts[:3]:
        text = f"say {control} now"
        expected = vocabulary.tokenize(text, add_special=False, parse_special=False)
        if vocabulary.token_of(control) in expected:
            continue  # llama.cpp reads it in plain text too, so there is nothing to compare with
        ids = chat.to_tokens(chat.render([said_by("user", text)], False), vocabulary)
        assert ids[vocabulary.adds_bos :][1:-1] == expected


# --- which texts steer ---------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["<|end|>", "<｜User｜>", "<|turn>", "<turn|>", '<|"|>'])
def test_double_brackets_steer_in_every_vocabulary(text: str) -> None:
    assert is_bracketed_twice(text)


@pytest.mark.parametrize(
    "text", ["<b>", "<think>", "  ", "<|", "|>", "<|>", "|||EMAIL|||", "[PAD1]", "<0x0A>", "0"]
)
def test_other_defined_texts_are_ordinary_unless_the_template_uses_them(text: str) -> None:
    assert not is_bracketed_twice(text)


@pytest.mark.parametrize("text", ["<think>", "</think>", "[TOOL_CALLS]", "◁think▷", "<tool_call>"])
def test_a_word_between_signs_is_a_marker_where_the_template_has_it(text: str) -> None:
    assert used_as_marker(text, "{{ '" + text + "' }}")
    assert not used_as_marker(text, "{{ x }}")


@pytest.mark.parametrize("text", ["\n\n", "  ", "1", "user", "```", "**", "<p", "< a>", "::"])
def test_white_space_words_and_signs_are_no_markers(text: str) -> None:
    assert not used_as_marker(text, f"{{{{ '{text}' }}}}")


def test_white_space_and_single_characters_are_no_control_texts() -> None:
    assert Controls(["\n\n", " ", "x", "<s>"]).texts == {"<s>"}


@given(
    texts=st.lists(st.text("<|>ab", min_size=2, max_size=6), min_size=1, max_size=4),
    written=st.lists(st.tuples(st.text("<|>ab", max_size=4), st.booleans()), max_size=6),
)
def test_pieces_keep_own_control_texts_whole_and_no_others(
    texts: list[str], written: list[tuple[str, bool]]
) -> None:
    text = "".join(part for part, _ in written)
    marked = "".join("~" * len(part) if is_foreign else part for part, is_foreign in written)
    cuts, pieces = [0], list(Controls(texts).pieces(text, marked))
    assert "".join(piece for piece, _ in pieces) == text
    for piece, _ in pieces:
        cuts.append(cuts[-1] + len(piece))
    places = [(at, at + len(one)) for one in texts for at in range(len(text)) if text.startswith(one, at)]
    for start, end in places:
        is_own = "~" not in marked[start:end]
        assert is_own != any(start < cut < end for cut in cuts)
    ends = {end for start, end in places if "~" not in marked[start:end]}
    assert [ends_in_control for _, ends_in_control in pieces] == [cut in ends for cut in cuts[1:]]


def test_a_control_text_at_the_end_is_cut_at_its_signs() -> None:
    texts = [f"<|{'a' * n}|>" for n in range(1, 20)]
    for text in texts:
        for other in texts:
            assert Controls([text, other]).split("x" + text) == ["x" + text[:-2], "|>"]

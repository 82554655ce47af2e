"""Token ids of texts with long runs are llama.cpp's own for the whole text; control tokens stay whole."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aded_local.errors import DeviceError, ModelNotFoundError
from aded_local.llama import tokenizing
from aded_local.llama.vocabulary import Vocabulary
from aded_models import builtin_path, find

SHARED = Path(__file__).parents[2] / "shared" / "vocab"

VOCABULARIES = ["builtin", "smollm2", "deepseek-coder", "llama-bpe", "llama-spm", "qwen2"]

RUNS = [
    "A",
    "abcdefgh",
    "aB3+/",
    "1234567890",
    "中文字符沒有空格",
    "!?",
    "\n",
    " ",
    "\t",
    "é",
    "👍🏽",
    "-=",
    "\u0651a",
]
"""What text without breaks is made of: letters, base64, digits, Chinese, rules, white space."""


def path_of(name: str) -> Path:
    if name == "builtin":
        return builtin_path()
    if name == "smollm2":
        try:
            return find(name).path
        except ModelNotFoundError as error:
            pytest.skip(str(error))
    path = SHARED / f"ggml-vocab-{name}.gguf"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


@pytest.fixture(scope="module", params=VOCABULARIES)
def vocabulary(request: pytest.FixtureRequest) -> Iterator[Vocabulary]:
    found = Vocabulary(path_of(request.param))
    yield found
    found.close()


def whole(vocabulary: Vocabulary, text: str, *, parse_special: bool) -> list[int]:
    """What llama.cpp makes of a text that is given to it in one call."""
    return tokenizing._whole(vocabulary._vocab, text, False, parse_special).tolist()


LENGTHS = st.one_of(
    st.integers(0, 60),
    st.integers(-40, 40).map(lambda off: tokenizing.SHORT_RUN + off),
    st.integers(-40, 40).map(lambda off: 4096 + off),
    st.integers(-40, 40).map(lambda off: 8192 + off),
)


@settings(
    max_examples=int(os.environ.get("ADED_TEST_EXAMPLES", "10")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    stretches=st.lists(st.tuples(st.sampled_from(RUNS), LENGTHS), min_size=1, max_size=3),
    control=st.integers(0, 3),
    parse_special=st.booleans(),
)
def test_ids_are_those_of_the_whole_text(
    vocabulary: Vocabulary, stretches: list[tuple[str, int]], control: int, parse_special: bool
) -> None:
    marks = [*vocabulary.control_texts[:3], ""]
    mark = marks[min(control, len(marks) - 1)]
    text = mark + mark.join((run * (n // len(run) + 1))[:n] for run, n in stretches) + mark
    ids = vocabulary.tokenize(text, add_special=False, parse_special=parse_special)
    assert ids == whole(vocabulary, text, parse_special=parse_special)


@pytest.mark.parametrize("n", [4086, 4087, 4095, 4096, 8185, 8190])
def test_no_length_loses_an_end_of_turn(vocabulary: Vocabulary, n: int) -> None:
    end = next((text for text in vocabulary.control_texts if len(text) > 3), "")
    if not end:
        pytest.skip("the vocabulary has no control token of some length")
    (token,) = vocabulary.tokenize(end, add_special=False, parse_special=True)
    ids = vocabulary.tokenize("A" * n + end + "\n" + end, add_special=False, parse_special=True)
    assert ids.count(token) == 2


def test_sentencepiece_puts_one_space_before_a_long_run() -> None:
    vocabulary = Vocabulary(path_of("llama-spm"))
    ids = vocabulary.tokenize("Z" * 20_000, add_special=False, parse_special=False)
    assert b"".join(map(vocabulary.piece, ids)) == b" " + b"Z" * 20_000
    vocabulary.close()


def test_what_ended_the_process_is_tokenized() -> None:
    vocabulary = Vocabulary(path_of("deepseek-coder"))
    ids = vocabulary.tokenize("abcdefgh" * 8_000, add_special=False, parse_special=False)
    assert b"".join(map(vocabulary.piece, ids)) == b"abcdefgh" * 8_000
    vocabulary.close()


# --- runs longer than the deep stack bears: cut where a token ends ---


@pytest.fixture
def short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizing, "LONGEST_RUN", 2048)
    monkeypatch.setattr(tokenizing, "SETTLED", 256)


@pytest.mark.usefixtures("short_limit")
@pytest.mark.parametrize("run", ["abcdefgh", "中文字符沒有空格", "\n", "👍🏽"])
def test_a_cut_run_says_the_same_text_and_keeps_control_tokens(vocabulary: Vocabulary, run: str) -> None:
    end = next((text for text in vocabulary.control_texts if len(text) > 3), "")
    for n in (2040, 2045, 2050):
        text = (run * 4500)[:n] + end + (run * 4500)[: 4500 - n] + end
        ids = vocabulary.tokenize(text, add_special=False, parse_special=True)
        expected = whole(vocabulary, text, parse_special=True)
        steering = {token for token in expected if vocabulary._steers(token)}
        assert [ids.count(token) for token in steering] == [expected.count(token) for token in steering]
        assert b"".join(map(vocabulary.piece, ids)) == b"".join(map(vocabulary.piece, expected))


@pytest.mark.usefixtures("short_limit")
def test_a_cut_run_of_ordinary_letters_has_the_ids_of_the_whole(vocabulary: Vocabulary) -> None:
    rng = random.Random(11)
    for alphabet in ("abcdefghijklmnopqrstuvwxyz", "ABCDEFabcdef0123456789+/", "天地玄黄宇宙洪荒日月盈昃"):
        text = "".join(rng.choices(alphabet, k=6_000))
        ids = vocabulary.tokenize(text, add_special=False, parse_special=False)
        assert ids == whole(vocabulary, text, parse_special=False)


@pytest.mark.usefixtures("short_limit")
def test_what_a_vocabulary_wants_around_a_text_stands_around_a_cut_one(vocabulary: Vocabulary) -> None:
    text = "abc" * 3000
    around = tokenizing._whole(vocabulary._vocab, text, True, False).tolist()
    assert vocabulary.tokenize(text, add_special=True, parse_special=False) == around


def test_without_memory_for_the_stack_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    vocabulary = Vocabulary(builtin_path())
    before = threading.stack_size()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(DeviceError, match="break the text into lines"):
        vocabulary.tokenize("A" * 5000, add_special=False, parse_special=False)
    assert threading.stack_size() == before
    vocabulary.close()


def test_corpora_are_encoded_as_prompts_are(vocabulary: Vocabulary) -> None:
    text = "some words, then " + "x" * 9000 + "\n" * 5000 + "end"
    parts = list(vocabulary.encode(text))
    assert np.concatenate(parts).tolist() == vocabulary.tokenize(text, add_special=False, parse_special=False)

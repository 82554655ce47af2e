"""Shipped phrases: how they are counted, kept in a file, and made into a table of a model's tokens."""

from __future__ import annotations

import gzip
import json
import lzma
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from aded_bench.replay.traces import Tokenizer
from aded_local.ngrams import table as statistics
from aded_local.ngrams.phrases import phrase_table, word_tokens
from aded_models import builtin_path
from aded_models.phrases import (
    PHRASE_ORDERS,
    Phrases,
    PhrasesError,
    phrases_path,
    read_phrases,
    write_phrases,
)
from aded_models.phrases_count import HELD_BACK, WORD, Text, count_phrases, read_answers

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
TRACES = sorted((SHARED / "traces").glob("alpaca_eval-*.jsonl.gz"))
VOCABS = sorted((SHARED / "vocab").glob("ggml-vocab-*.gguf"))


def said(*answers: str) -> list[Text]:
    return [Text(str(i), False, answer) for i, answer in enumerate(answers)]


def texts_of(phrases: Phrases) -> dict[str, float]:
    return {
        "".join(phrases.words[word] for word in row): count
        for grams, counts in zip(phrases.grams, phrases.counts, strict=True)
        for row, count in zip(grams.tolist(), counts.tolist(), strict=True)
    }


@pytest.fixture(scope="module")
def shipped() -> Phrases:
    return read_phrases()


# --- counting ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't say it.", ["Don't", " say", " it", "."]),
        ("in 1984, 12345", ["in", " 198", "4", ",", " 123", "45"]),
        ("1. **Bold**: x\n\n2", ["1", ".", " **", "Bold", "**:", " x", "\n\n", "2"]),
        ("    return self.a_b\n", ["   ", " return", " self", ".a", "_b", "\n"]),
    ],
)
def test_words_are_what_pre_tokenizers_leave_whole(text: str, words: list[str]) -> None:
    assert WORD.findall(text) == words


@pytest.mark.parametrize("text", ["", "naïve “café” 漢字 ½ \t\r\n x__y ", "\0a\x0b b\u2028"])
def test_no_character_of_a_text_is_lost(text: str) -> None:
    assert "".join(WORD.findall(text)) == text


def test_phrases_that_two_answers_share_are_kept_and_others_are_not() -> None:
    answers = said("As a result, my secret", "As a result, it ends", "my name", "my hat")
    found = texts_of(count_phrases(answers))

    assert found["As a"] == 2
    assert found[" a result"] == 2
    assert not any("secret" in text for text in found)
    assert " ends" not in found


def test_what_only_one_prompt_has_is_left_out_however_often_it_was_answered() -> None:
    one_prompt = [Text("7", False, "Ada Lovelace wrote Ada Lovelace") for _ in range(4)]

    assert "Ada Lovelace" not in texts_of(count_phrases(one_prompt + said("all the same", "all the same")))


def test_a_phrase_is_not_counted_across_two_answers() -> None:
    found = texts_of(count_phrases(said("one two", "three four", "one two", "three four")))

    assert "one two" in found
    assert " twothree" not in found


def test_phrases_begin_with_phrases_and_have_five_words_at_most() -> None:
    text = "".join(np.random.default_rng(0).choice([" a", " b", " c"], 200).tolist())
    phrases = count_phrases(said(text, text))
    rows = [{tuple(row) for row in grams.tolist()} for grams in phrases.grams]

    assert [grams.shape[1] for grams in phrases.grams] == list(range(1, PHRASE_ORDERS + 1))
    assert all(rows)
    for shorter, longer in pairwise(rows):
        assert {row[:-1] for row in longer} <= shorter


def test_fewer_phrases_are_kept_if_asked_and_the_most_useful_ones() -> None:
    texts = said(*[" very often" for _ in range(9)], *[" once more" for _ in range(2)])
    found = texts_of(count_phrases(texts, kept=1))

    assert " very often" in found
    assert " once more" not in found


def test_code_is_weighed_down_to_its_share() -> None:
    answers = said("so it goes", "so it goes")
    modules = [Text(f"{i}.py", True, " import os" * 50) for i in range(4)]
    found = texts_of(count_phrases(answers + modules, python_share=0.3))

    assert " import os" in found
    assert found[" import os"] < 10


# --- the split ---------------------------------------------------------------------------------


def write_trace(path: Path, model: str, ids: list[int]) -> Path:
    rows = [
        {"id": f"p/{i}", "model": model, "prompt": f"{model} asks {i}", "output": f"{model} says {i}"}
        for i in ids
    ]
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def test_the_first_prompts_are_refused_whoever_answers_them(tmp_path: Path) -> None:
    ids = list(range(HELD_BACK + 3))
    one = write_trace(tmp_path / "a.jsonl.gz", "one", ids)
    two = write_trace(tmp_path / "b.jsonl.gz", "two", [*ids, 5])  # once more, further down

    kept = read_answers([one, two])

    assert sorted(text.text for text in kept) == sorted(
        f"{model} says {i}" for model in ("one", "two") for i in range(HELD_BACK, HELD_BACK + 3)
    )


def test_traces_that_begin_with_other_prompts_are_refused(tmp_path: Path) -> None:
    one = write_trace(tmp_path / "a.jsonl.gz", "one", list(range(200)))
    two = write_trace(tmp_path / "b.jsonl.gz", "two", list(range(1, 201)))

    with pytest.raises(ValueError, match="does not begin with the same prompts"):
        read_answers([one, two])


def test_a_model_can_be_left_out_if_there_is_one(tmp_path: Path) -> None:
    traces = [write_trace(tmp_path / f"{m}.jsonl.gz", m, list(range(160))) for m in ("one", "two")]

    assert all(text.text.startswith("two") for text in read_answers(traces, ["one"]))
    with pytest.raises(ValueError, match="no trace is of the model three"):
        read_answers(traces, ["three"])


@pytest.mark.skipif(not TRACES, reason="needs ../shared/traces")
def test_no_answer_that_is_measured_on_is_counted() -> None:
    measured: set[str] = set()
    for path in TRACES:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            measured |= {json.loads(line)["output"] for _, line in zip(range(HELD_BACK), file, strict=False)}

    counted = {text.text for text in read_answers(TRACES)}

    assert len(counted) > 2000
    assert not counted & measured


# --- the file ----------------------------------------------------------------------------------


def test_a_file_reads_as_it_was_written(tmp_path: Path) -> None:
    sentence = " to be or not to be\n\n“that”"
    phrases = count_phrases(said(sentence, sentence, *[" to go" for _ in range(300)]))
    write_phrases(phrases, tmp_path / "some.xz")
    read = read_phrases(tmp_path / "some.xz")

    assert read.words == phrases.words
    for mine, theirs in zip(read.grams, phrases.grams, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for mine, theirs in zip(read.counts, phrases.counts, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0.1)


def test_more_than_255_phrases_may_begin_alike(tmp_path: Path) -> None:
    text = "".join(f" a {chr(97 + i)}{chr(97 + j)}" for i in range(26) for j in range(12))
    phrases = count_phrases(said(text, text))
    write_phrases(phrases, tmp_path / "some.xz")

    np.testing.assert_array_equal(read_phrases(tmp_path / "some.xz").grams[1], phrases.grams[1])


def test_a_damaged_file_is_told_to_be_one(tmp_path: Path) -> None:
    good = phrases_path().read_bytes()
    raw = lzma.decompress(good)
    for name, data in {
        "nothing": b"",
        "text": b"no phrases at all",
        "half": good[: len(good) // 2],
        "other": lzma.compress(b"something else"),
        "short": lzma.compress(raw[: len(raw) // 2]),
        "levels": lzma.compress(raw[:200_000]),
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(PhrasesError, match=f"{name} holds no phrases"):
            read_phrases(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_phrases(tmp_path / "absent.xz")


def test_the_shipped_file_holds_english_and_python(shipped: Phrases) -> None:
    found = texts_of(shipped)

    assert shipped.total > 100_000
    assert phrases_path().stat().st_size < 600_000
    assert {" as a result of", " it's important to", ".\n\n2. **", "        return self"} <= found.keys()
    assert max(len(word) for word in shipped.words) <= 40


# --- tokens ------------------------------------------------------------------------------------


def share_in_place(path: Path, phrases: Phrases, n: int = 500) -> float:
    """How many phrases have, in the middle of a text, the tokens of their words."""
    tokenizer = Tokenizer(path)

    def tokenize(text: str) -> list[int]:
        return [int(token) for token in tokenizer.tokenize(text, is_prompt=False)]

    tokens, starts = word_tokens(tokenize, phrases.words)
    rng = np.random.default_rng(0)
    right = 0
    for grams in phrases.grams:
        for row in grams[rng.choice(len(grams), n, replace=False)].tolist():
            text = "".join(phrases.words[word] for word in row)
            stem = "a" if text[0] in "\r\n" else "\n"
            mine = [token for word in row for token in tokens[starts[word] : starts[word + 1]].tolist()]
            right += tokenize(stem) + mine == tokenize(stem + text)
    return right / (n * len(phrases.grams))


def test_words_have_the_tokens_of_their_place_in_the_built_in_model(shipped: Phrases) -> None:
    assert share_in_place(builtin_path(), shipped) > 0.98


@pytest.mark.skipif(not VOCABS, reason="needs ../shared/vocab")
@pytest.mark.parametrize("vocab", VOCABS, ids=lambda path: path.stem)
def test_words_have_the_tokens_of_their_place(vocab: Path, shipped: Phrases) -> None:
    assert share_in_place(vocab, shipped) > 0.98


def letters(text: str) -> list[int]:
    """A tokenizer of one token a character, that puts a space before every text, as SentencePiece does."""
    return [32, *map(ord, text)] if text else []


def whole_words(text: str) -> list[int]:
    """A tokenizer of one token a word."""
    known = {"\n": 1, " as": 10, " a": 11, " result": 12, " rule": 13}
    return [known.get(word, 99) for word in WORD.findall(text)]


def successors(table: statistics.Table, context: list[int]) -> dict[int, tuple[float, bool]]:
    """Whole counts and marks of what follows ``context``."""
    key = statistics.SEED_KEY
    for token in reversed(context):
        key = np.uint64(statistics.extend_hash(key, token))  # compiled code hands back a plain int
    wide = len(context) <= statistics.WIDE_ORDERS
    first = statistics.first_entry(table, key, wide)
    return {
        int(entry) & statistics.TOKEN_MASK: (
            ((int(entry) >> statistics.COUNT_SHIFT) & statistics.COUNT_MASK) / statistics.UNIT,
            bool(int(entry) & statistics.LAST),
        )
        for entry in table[first : first + statistics.BUCKET * (1 + wide)]
        if entry
        and (int(entry) >> statistics.CHECK_SHIFT) & statistics.CHECK_MASK == statistics.check_of(key)
    }


def made(words: list[str], grams: list[tuple[list[list[int]], list[float]]]) -> Phrases:
    while len(grams) < PHRASE_ORDERS:
        grams.append(([], []))
    return Phrases(
        words,
        tuple(np.array(rows, np.int32).reshape(-1, k + 1) for k, (rows, _) in enumerate(grams)),
        tuple(np.array(counts, np.float32) for _, counts in grams),
    )


AS_A = made(
    [" as", " a", " result", " rule"],
    [
        ([[0], [1], [2], [3]], [4, 8, 3, 2]),
        ([[0, 1], [1, 2], [1, 3]], [4, 3, 2]),
        ([[0, 1, 2]], [3]),
    ],
)


def test_a_phrase_counts_its_last_word_after_the_others() -> None:
    table = phrase_table(whole_words, AS_A, bits=10)

    assert successors(table, [10, 11]) == {12: (3, True)}
    assert successors(table, [10]) == {11: (4, True)}
    assert successors(table, [12]) == {}
    assert successors(table, []) == {10: (4, False), 11: (8, False), 12: (3, False), 13: (2, False)}


def test_shorter_contexts_have_the_counts_of_shorter_phrases() -> None:
    table = phrase_table(whole_words, AS_A, bits=10)

    # 3 of " a result", not 6 with those of " as a result"; 3 of 8 occurrences are not more than half.
    assert successors(table, [11]) == {12: (3, False), 13: (2, False)}


def test_tokens_within_a_word_follow_contexts_that_reach_the_first_word() -> None:
    phrases = made([" as", " a"], [([[0], [1]], [2, 2]), ([[0, 1]], [2])])
    table = phrase_table(letters, phrases, bits=12)

    def after(context: str) -> dict[str, float]:
        return {chr(token): count for token, (count, _) in successors(table, list(map(ord, context))).items()}

    assert after(" as") == {" ": 2}
    assert after("s ") == {"a": 2}
    assert after(" as ") == {"a": 2}
    # " as" and " a" both begin so: from the words themselves, not from the phrase.
    assert after(" ") == {"a": 4}


def test_large_counts_keep_their_proportions() -> None:
    phrases = made(
        [" as", " a", " rule"], [([[0], [1], [2]], [80000, 9, 9]), ([[0, 1], [0, 2]], [60000, 15000])]
    )

    found = successors(phrase_table(whole_words, phrases, bits=10), [10])

    assert found[11][0] / found[13][0] == pytest.approx(4, rel=0.02)
    assert found[11][0] < statistics.MOST_COUNT / statistics.UNIT


def test_keys_are_those_of_counted_texts() -> None:
    table = phrase_table(whole_words, AS_A, bits=10)
    counted = statistics.new_table(10)
    statistics.count_text(counted, np.array([10, 11, 12], np.int32), 0)

    for context in ([10], [11], [10, 11]):
        assert successors(counted, context).keys() <= successors(table, context).keys() != set()


def test_a_table_too_small_keeps_the_most_frequent(shipped: Phrases) -> None:
    tokenizer = Tokenizer(builtin_path())

    def tokenize(text: str) -> list[int]:
        return [int(token) for token in tokenizer.tokenize(text, is_prompt=False)]

    small = phrase_table(tokenize, shipped, bits=8)
    roomy = phrase_table(tokenize, shipped, bits=20)
    comma, space_the = tokenize("a,")[-1], tokenize("a the")[-1]

    assert np.count_nonzero(small) > 250
    assert 0.1 < np.count_nonzero(roomy) / len(roomy) < 0.5
    assert {comma, space_the} <= successors(small, []).keys()


def test_words_a_tokenizer_merges_with_everything_are_left_out() -> None:
    def whole_texts(text: str) -> list[int]:
        return [len(text)]

    tokens, starts = word_tokens(whole_texts, [" as", " a"])

    assert len(tokens) == 0
    assert starts.tolist() == [0, 0, 0]
    assert not phrase_table(whole_texts, AS_A, bits=8).any()

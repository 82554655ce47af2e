"""What was said when something like this was asked before comes back; nothing else does, and the ring may wrap."""

from __future__ import annotations

import numpy as np
import pytest
from drafters import assert_is_a_tree, auto, begin, chances, ids, observe, record

from aded_local.drafters.ngram.candidates import RELATED, RELATED_ORDERS
from aded_local.drafters.ngram.drafter import NgramDrafter
from aded_local.drafters.ngram.similar_conversations import (
    ASKED,
    COMPARED_TOKENS,
    CONVERSATIONS,
    END,
    LIKENESS_CLASSES,
    MOST_CONVERSATIONS,
    START,
    Conversations,
    compare,
    likeness_class,
    likest,
    note,
)
from aded_local.tree import IntArray

MARK = 5
"""A word of every answer; what follows depends on what was asked."""
TOPICS = [list(range(100 + 20 * topic, 120 + 20 * topic)) for topic in range(12)]


def prompt(topic: int, seed: int) -> IntArray:
    """Twelve of the topic's twenty words in any order."""
    return np.random.default_rng(seed).choice(TOPICS[topic], 12, replace=False).astype(np.int32)


def answer(topic: int, seed: int) -> IntArray:
    """A word of no topic, the mark, and the topic's own word."""
    return ids(500 + seed % 400, MARK, 900 + topic)


def related_words(drafter: NgramDrafter) -> set[int]:
    """What related conversations propose next."""
    drafter.predict()
    evidence = drafter.model.evidence
    n = evidence.n_entries
    mine = (evidence.source[:n] >= RELATED) & (evidence.source[:n] < RELATED + RELATED_ORDERS)
    return set(evidence.tokens[evidence.candidate[:n][mine]].tolist())


def taught(*without: str, rounds: int = 8) -> NgramDrafter:
    drafter = auto(without=without)
    for seed in range(rounds * len(TOPICS)):
        topic = seed % len(TOPICS)
        begin(drafter, prompt(topic, seed))
        drafter.draft(4)
        observe(drafter, answer(topic, seed))
    return drafter


def test_the_same_question_brings_the_earlier_answers_words() -> None:
    drafter, without = taught(), taught("related")
    for topic in (0, 5):
        heard = []
        for one in (drafter, without):
            begin(one, prompt(topic, 10_000 + topic))
            observe(one, ids(950, MARK))
            heard.append(chances(one).get(900 + topic, 0.0))
        assert related_words(drafter) == {900 + topic}
        assert related_words(without) == set()
        assert heard[0] > 0.4 > heard[1]  # the memory knows twelve answers, the topic one


def test_an_unrelated_question_brings_nothing() -> None:
    drafter = taught(rounds=2)
    begin(drafter, ids(*range(600, 612)))
    assert likeness_class(drafter.model.conversations) == 0
    observe(drafter, ids(950, MARK))
    assert related_words(drafter) == set()


def test_the_same_question_is_as_like_as_can_be() -> None:
    drafter = taught(rounds=2)
    begin(drafter, prompt(3, 15))
    assert drafter.model.conversations.best == pytest.approx(1000, abs=1)
    assert likeness_class(drafter.model.conversations) == LIKENESS_CLASSES - 1
    begin(drafter, ids())
    assert likeness_class(drafter.model.conversations) == 0


def test_rare_words_count_for_more_than_those_of_every_prompt() -> None:
    drafter = auto()
    for topic in range(40):
        begin(drafter, ids(1, 2, 3, 4, 500 + topic))
        observe(drafter, ids(9))
    begin(drafter, ids(1, 2, 3, 4, 507))
    same = int(drafter.model.conversations.best)
    begin(drafter, ids())
    begin(drafter, ids(1, 2, 3, 4, 700))
    assert same > 900 > 200 > int(drafter.model.conversations.best)


def test_recalled_conversations_are_related_too() -> None:
    drafter = auto()
    drafter.recall([(prompt(topic, topic), answer(topic, topic), False) for topic in range(12)])
    begin(drafter, prompt(4, 99))
    observe(drafter, ids(950, MARK))
    assert 904 in related_words(drafter)


def test_more_conversations_than_are_remembered_push_out_the_oldest() -> None:
    drafter = auto(20_000)
    drafter.recall([(ids(i + 10, i + 11, i + 12), ids(1), False) for i in range(MOST_CONVERSATIONS + 50)])
    conversations = drafter.model.conversations
    assert conversations.noted == MOST_CONVERSATIONS + 50
    begin(drafter, ids(10, 11, 12))
    assert conversations.best == 0
    begin(drafter, ids(MOST_CONVERSATIONS + 50, MOST_CONVERSATIONS + 51, MOST_CONVERSATIONS + 52))
    assert conversations.best > 800
    assert_is_a_tree(drafter.draft(16), 16, 20_000)


def test_a_conversation_that_was_overwritten_is_not_compared() -> None:
    drafter = auto()
    ring = len(drafter.model.history)
    begin(drafter, prompt(0, 0))
    observe(drafter, answer(0, 0))
    begin(drafter, ids())
    state = drafter.model.state
    state.head = state.start = state.asked = ring - 20  # as if so many tokens had come since
    begin(drafter, prompt(0, 0))  # still there
    assert drafter.model.conversations.best > 900
    begin(drafter, ids(*range(500, 540)))
    begin(drafter, ids(*range(600, 640)))
    begin(drafter, ids())
    drafter.model.conversations.places[:, 1:] = -1  # only the first is asked for
    begin(drafter, prompt(0, 0))
    assert drafter.model.conversations.best == 0


def test_only_the_end_of_a_long_prompt_is_compared() -> None:
    """Before it stand system prompts and documents."""
    drafter = auto()
    system = np.random.default_rng(0).integers(600, 900, 5 * COMPARED_TOKENS).astype(np.int32)
    for topic in range(6):
        begin(drafter, np.concatenate((system, np.tile(TOPICS[topic], COMPARED_TOKENS // 20 + 1))))
        observe(drafter, ids(9))
    begin(
        drafter, np.concatenate((system, ids(*range(10, 90)), np.tile(TOPICS[9], COMPARED_TOKENS // 20 + 1)))
    )
    assert drafter.model.conversations.best == 0


def test_likeness_is_the_cosine_of_rarities() -> None:
    """Three prompts of two words; "1 2" shares 2 with the second, and nothing with the third."""
    conversations: Conversations = record(CONVERSATIONS)
    history = np.zeros(64, np.int32)
    history[:6] = [1, 2, 2, 3, 4, 5]
    for start in (0, 2, 4):
        note(conversations, history, start, start + 2, start + 2)
    compare(conversations, history, 6, ids(1, 2))
    once, twice = np.log(4 / 1.5) ** 2, np.log(4 / 2.5) ** 2
    assert conversations.likeness[0] == pytest.approx(1.0)
    assert conversations.likeness[1] == pytest.approx(twice / (once + twice))
    assert conversations.likeness[2] == 0.0
    assert likest(conversations) == 0


def test_where_a_conversation_lies_is_noted_when_it_ends() -> None:
    drafter = auto()
    begin(drafter, ids(1, 2, 3))
    observe(drafter, ids(4, 5))
    begin(drafter, ids(6), past=ids(1, 2, 3, 4, 5))  # goes on
    assert drafter.model.conversations.noted == 0
    begin(drafter, ids(11, 12))
    begin(drafter, ids())
    begin(drafter, ids())  # nothing new to note
    places = drafter.model.conversations.places
    assert drafter.model.conversations.noted == 2
    assert places[:3, 0].tolist() == [0, 3, 6]
    assert places[:3, 1].tolist() == [6, 8, 8]
    assert drafter.model.state.head == 8


def test_an_edited_first_prompt_is_noted_as_it_ended() -> None:
    drafter = auto()
    begin(drafter, ids(*range(100)))
    begin(drafter, ids(), past=ids(*range(80)), undone=20)
    begin(drafter, ids())
    places = drafter.model.conversations.places[:, 0]
    assert places[START] <= places[ASKED] <= places[END] == 80

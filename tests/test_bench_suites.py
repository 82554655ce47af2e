"""The suites that come with `aded-bench`: ordinary chat, shell questions, and which of them a model is asked."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from aded_bench.main import main
from aded_bench.run import suites
from aded_local.errors import ModelNotFoundError, OptionError
from aded_models import builtin_path, draft_path

ANY = Path("absent.gguf")  # a model that is not looked at where a suite is named
CHAT, SHELL = (suites.find(name, None, ANY) for name in (suites.CHAT, suites.SHELL))


@pytest.fixture(scope="module")
def chat() -> list[suites.Conversation]:
    return suites.load(CHAT, None, 0, 0)[0]


def test_chat_has_eight_categories_of_five_conversations(chat: list[suites.Conversation]) -> None:
    counts = Counter(conversation.category for conversation in chat)
    assert (len(counts), set(counts.values())) == (8, {5})
    for conversation in chat:
        category, _, number = conversation.id.rpartition("-")
        assert category == conversation.category and 1 <= int(number) <= 5


def test_every_conversation_has_a_second_turn_and_nothing_is_said_twice(
    chat: list[suites.Conversation],
) -> None:
    said = [turn for conversation in chat for turn in conversation.turns]
    assert len(said) == len(set(said)) == 80
    assert all(len(conversation.turns) == 2 and not conversation.opening for conversation in chat)
    assert all(turn == turn.strip() for turn in said)


def test_a_few_are_one_or_more_of_each_category(chat: list[suites.Conversation]) -> None:
    few = suites.load(CHAT, 8, 0, 0)[0]
    assert len({conversation.category for conversation in few}) == 8
    assert suites.load(CHAT, 8, 0, 0)[0] == few
    with pytest.raises(OptionError, match="40 are there"):
        suites.load(CHAT, 41, 0, 0)


def test_warm_ones_are_others_and_all_are_used(chat: list[suites.Conversation]) -> None:
    measured, warming = suites.load(CHAT, None, 16, 0)
    assert (len(measured), len(warming)) == (24, 16)
    assert {c.id for c in measured} | {c.id for c in warming} == {c.id for c in chat}
    for part, each in ((measured, 3), (warming, 2)):
        assert set(Counter(conversation.category for conversation in part).values()) == {each}


def test_another_suite_to_learn_from_holds_nothing_that_is_measured() -> None:
    measured, same = suites.load(CHAT, 30, None, 0, CHAT)
    asked = {conversation.turns for conversation in measured}
    assert len(same) == 10 and not asked & {conversation.turns for conversation in same}
    assert len(suites.load(CHAT, 30, None, 0, SHELL)[1]) == suites.SHELL_PROMPTS


def test_models_that_know_the_shell_only_are_asked_about_it_and_others_chat(tiny: dict[str, Path]) -> None:
    for shell_only in (builtin_path(), draft_path()):
        assert suites.find(None, None, shell_only) == SHELL
    assert suites.find(None, None, tiny["llama"]) == CHAT
    with pytest.raises(ModelNotFoundError):
        suites.find(None, None, ANY)


def test_a_body_is_asked_what_its_source_is_asked(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from aded_bench.body.build import build

    out = tmp_path / "body.gguf"
    build(draft_path(), out, None, "same", "q8_0")
    assert suites.find(None, None, out) == SHELL


def test_what_is_named_is_taken_whatever_the_model(tmp_path: Path) -> None:
    assert suites.find("builtin", None, ANY) == SHELL
    file = suites.find("./chat", None, ANY)
    assert (file.path, file.name, file.mixed) == (Path("chat"), "chat", False)
    assert suites.find("folder/chat.jsonl", None, ANY).name == "chat.jsonl"
    assert suites.find(suites.SPEC_BENCH, tmp_path, ANY).path == tmp_path
    assert CHAT.path.is_file() and SHELL.path.is_file()


@pytest.mark.usefixtures("measured_once")
def test_the_bench_asks_the_suite_that_is_named(tiny: dict[str, Path], tmp_path: Path) -> None:
    run, lossless = tmp_path / "run.json", tmp_path / "lossless.json"
    sizes = ["--prompts", "1", "-n", "4", "-t", "1", "-c", "1024"]
    model = str(tiny["llama"])
    for arguments in (
        ["run", model, "--suite", "chat", "--methods", "off", "--repeat", "1", "--json", str(run)],
        ["lossless", model, "--suite", "chat", "--no-peer", "--draft", "auto", "--json", str(lossless)],
    ):
        done = CliRunner().invoke(main, [*arguments, *sizes])
        assert done.exit_code == 0, done.output
    for path in (run, lossless):
        found = json.loads(path.read_text())
        assert found["suite"] == "chat" and len(found["histories"]) == 1
        assert [file["file"] for file in found["provenance"]["inputs"]] == ["chat.jsonl"]
    ids = {record["prompt"] for record in json.loads(run.read_text())["runs"]}
    assert {name.rpartition("/")[2] for name in ids} == {"1", "2"}


@pytest.mark.parametrize("command", ["run", "lossless"])
def test_spec_benchs_file_is_no_use_to_another_suite(command: str) -> None:
    done = CliRunner().invoke(main, [command, "builtin", "--suite", "chat", "--data", "question.jsonl"])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "spec-bench" in done.stderr


# --- the suite `shell` -------------------------------------------------------------------------------

SHARES = {"task": 0.60, "about": 0.14, "follow-up": 0.08, "long": 0.07}
"""What most of the suite is, and how much of it."""


def shell(count: int, warm: int = 0, seed: int = 0) -> tuple[list[suites.Conversation], ...]:
    return suites.load(SHELL, count, warm, seed)


def test_the_suite_is_the_same_for_a_seed_and_grows_at_its_end() -> None:
    for seed in (0, 4):
        assert shell(60, seed=seed)[0] == shell(240, seed=seed)[0][:60]
    assert shell(60, seed=4) != shell(60, seed=5)


def test_no_question_occurs_twice_so_slices_are_disjoint() -> None:
    every = suites.read(SHELL.path)
    assert len({(c.opening and c.opening[0]["content"], c.turns) for c in every}) == len(every) > 480
    for seed in (0, 4):
        measured, warming = shell(40, 200, seed)
        assert (len(measured), len(warming)) == (40, 200)
        assert not {c.id for c in measured} & {c.id for c in warming}


def test_every_slice_holds_every_kind() -> None:
    for seed in (0, 4):
        for part in (shell(40, seed=seed)[0], shell(200, seed=seed)[0]):
            counts = Counter(conversation.category for conversation in part)
            assert set(counts) == {*SHARES, "off-topic", "non-ascii", "control"}
            for kind, share in SHARES.items():
                assert counts[kind] == pytest.approx(share * len(part), abs=2)


def test_only_follow_ups_have_something_before_them() -> None:
    for conversation in shell(240)[0]:
        roles = [message["role"] for message in conversation.opening]
        assert roles == (["user", "assistant"] if conversation.category == "follow-up" else [])


def test_more_prompts_than_there_are_is_an_error() -> None:
    with pytest.raises(OptionError, match="prompts asked for"):
        shell(10_000)
    with pytest.raises(OptionError, match="prompts asked for"):
        shell(400, 400)

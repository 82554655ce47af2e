"""What the built-in model is trained on: cleaned pages, deterministic chat turns, nothing held out."""

from __future__ import annotations

import itertools
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from aded_models.train import offtopic, phrasing, turns
from aded_models.train.corpus import (
    Item,
    Page,
    build_items,
    clean_command,
    clean_task,
    everyday_items,
    first_sentence,
    is_held_out,
    load_pages,
)
from aded_models.train.everyday import EVERYDAY
from aded_models.train.turns import LONG_TOKENS, NO_LOSS, OTHER, SampleMaker, about_answer, answer, quoted

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus" / "tldr-en.jsonl.gz"
needs_corpus = pytest.mark.skipif(not CORPUS.exists(), reason=f"needs the tldr corpus, absent at {CORPUS}")


class Bytes:
    """Stands in for the tokenizer: one id per byte, controls above them."""

    system, user, assistant, end = 256, 257, 258, 259

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


def small_maker(seed: int) -> SampleMaker:
    pages = [
        Page(
            f"tool{n}",
            "common",
            f"Do thing {n}.",
            ((f"Do thing {n}", f"tool{n} -x"), ("Display help", f"tool{n} -h")),
        )
        for n in range(20)
    ]
    return SampleMaker(build_items(pages), everyday_items(pages), pages, Bytes(), seed)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("E[x]tract a (compressed) archive", "Extract a (compressed) archive"),
        ("[L]ist files", "List files"),
        ("Print `[a]` of [d]evice", "Print `[a]` of device"),
    ],
)
def test_mnemonic_brackets_go_but_code_spans_stay(raw: str, clean: str) -> None:
    assert clean_task(raw) == clean


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("tar {{[-x|--extract]}} {{path/to/file.tar}}", "tar -x path/to/file.tar"),
        ("cat {{path/to/file1 path/to/file2 ...}}", "cat path/to/file1 path/to/file2"),
        ("x --level {{low|high}}", "x --level low"),
        ("seq {{1..10}}", "seq 1"),
        ("echo ${{{array[@]}}}", "echo ${array[@]}"),
        (r"docker --format \{\{.Id\}\}", "docker --format {{.Id}}"),
    ],
)
def test_placeholders_become_something_runnable(raw: str, clean: str) -> None:
    assert clean_command(raw) == clean


def test_explanations_are_one_short_sentence() -> None:
    assert first_sentence("Archiving utility. Often combined with gzip.") == "Archiving utility."
    assert len(first_sentence("word " * 60)) < 80


def test_commands_holding_backticks_are_fenced() -> None:
    assert quoted("ls") == "`ls`"
    assert quoted("echo `date`") == "```sh\necho `date`\n```"


def test_the_same_seed_gives_the_same_samples() -> None:
    first, second, other = small_maker(1), small_maker(1), small_maker(2)
    drawn = [first.next().ids for _ in range(200)]
    assert drawn == [second.next().ids for _ in range(200)]
    assert drawn != [other.next().ids for _ in range(200)]


def test_loss_falls_on_answers_only() -> None:
    maker, coder = small_maker(3), Bytes()
    for _ in range(200):
        sample = maker.next()
        assert len(sample.ids) == len(sample.owners) <= LONG_TOKENS
        reading = True
        for token, owner in zip(sample.ids, sample.owners, strict=True):
            assert (owner == NO_LOSS) == reading
            assert owner in (NO_LOSS, OTHER) or maker.items[owner].command
            reading = {coder.assistant: False, coder.end: True}.get(token, reading)


def test_tasks_of_several_pages_name_their_program() -> None:
    maker = small_maker(4)
    shared = [i for i in maker.items if i.task == "Display help"]
    assert shared and not any(i.unique for i in shared)
    assert all(maker._named(i) for i in shared)


def test_unknown_items_are_visited_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "DRAW", 30)
    maker = small_maker(5)
    maker.loss[: len(maker.loss) // 2] = 0.0
    known = set(range(len(maker.loss) // 2))
    maker.everyday[:] = 1.0
    first = [maker._next_item() for _ in range(30)]
    assert sum(i in known for i in first) < 10


def test_evaluation_phrasing_is_never_trained() -> None:
    assert len(phrasing.PLAIN_FORMS) + len(phrasing.NAMED) >= 25
    assert len(phrasing.HELD_OUT_PLAIN) >= 8
    for trained, held_out in (
        (phrasing.PLAIN_FORMS, phrasing.HELD_OUT_PLAIN),
        (phrasing.NAMED, phrasing.HELD_OUT_NAMED),
        (phrasing.SYNONYMS, phrasing.HELD_OUT_SYNONYMS),
        (offtopic.TEMPLATES, offtopic.HELD_OUT_TEMPLATES),
    ):
        assert not set(trained) & set(held_out)


def test_every_template_takes_a_task() -> None:
    rng, item = random.Random(0), Item("tar", "List files", "tar tf x", "tar: Archive.", True, True)
    for _ in range(300):
        for named in (False, True):
            for question in (phrasing.ask(rng, item, named), phrasing.ask_unseen(rng, item, named)):
                assert "{" not in question and question.strip()
    assert "{" not in offtopic.unseen_off_topic(rng) + offtopic.small_talk(rng)[0]


def test_everyday_wordings_are_unambiguous() -> None:
    wordings = [w for _, group in EVERYDAY for w in group]
    assert len(wordings) == len(set(wordings)) > 400
    commands = [command for command, _ in EVERYDAY]
    assert len(commands) == len(set(commands))


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_everyday_commands_parse() -> None:
    script = "\n".join(command for command, _ in EVERYDAY)
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


@needs_corpus
def test_held_out_pages_are_never_in_training_turns() -> None:
    pages = load_pages(CORPUS)
    kept = [p for p in pages if not is_held_out(p.name)]
    held_out = {p.name for p in pages} - {p.name for p in kept}
    assert 0.01 < len(held_out) / len(pages) < 0.03
    items = build_items(kept) + everyday_items(kept)
    assert not held_out & {i.page for i in items}
    assert not {normal for p in pages if p.name in held_out for normal in [about_answer(p)]} & {
        about_answer(p) for p in kept
    }
    assert len(items) > 28_000
    assert not [
        i for i in itertools.islice(items, 5000) if "{{[" in i.command or "\n" in answer(i).split("\n", 1)[1]
    ]

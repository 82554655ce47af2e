"""A file that would end the process ends a child, once; after that there is one line to read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf_files import BOOL, FLOAT32, File, parse

from aded_local import LocalADED
from aded_local.errors import ModelError, ModelFormatError, ModelKindError
from aded_local.files import cache_folder
from aded_local.llama import Model
from aded_local.llama.gguf import ARRAY, STRING, UINT32
from aded_local.llama.soundness import check
from aded_local.llama.vocabulary import Vocabulary
from aded_local.trials import trial, vetting
from aded_local.trials.trial import Ending, Outcome
from aded_models.builtin import draft_path

FINE = Outcome(Ending.FINE, "closing it", "", 0.1)
DEAD = Outcome(
    Ending.DIED,
    "loading it",
    "SIGABRT",
    0.1,
    complained=("/home/somebody/my builds/ggml/src/ggml.c:12: GGML_ASSERT(\x1b[31mx\u202e) failed",),
)


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As if nothing had been asked, in this process or an earlier one."""
    monkeypatch.setattr(vetting, "_passed", set())
    monkeypatch.setenv("ADED_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> list[Outcome]:
    """What the next trials come to; those begun are taken away."""
    waiting: list[Outcome] = []
    monkeypatch.setattr(trial, "run", lambda *_, **__: waiting.pop(0))
    # Whether the build works is asked first; that is another test's matter.
    monkeypatch.setattr("aded_local.llama.backend.require_sound_build", lambda _progress=None: None)
    return waiting


@pytest.fixture(scope="module")
def draft() -> bytes:
    return draft_path().read_bytes()


@pytest.fixture
def edited(draft: bytes, tmp_path: Path) -> Callable[[Callable[[File], Any]], Path]:
    """Writes the built-in draft model with an edit."""

    def write(edit: Callable[[File], Any]) -> Path:
        file = parse(draft)
        edit(file)
        path = tmp_path / "edited.gguf"
        path.write_bytes(file.dump())
        return path

    return write


def refused(path: Path, *words: str) -> str:
    with pytest.raises(ModelError) as caught:
        Model(path)
    message = str(caught.value)
    assert message.isprintable()
    for word in words:
        assert word in message
    return message


# Files that ended the process: one edit each


def tokens_with(file: File, **texts: bytes) -> File:
    element, values = file.keys["tokenizer.ggml.tokens"][1]
    values = list(values)
    for number, text in texts.items():
        values[int(number[1:])] = text
    return file.put("tokenizer.ggml.tokens", (element, values))


RULES: dict[str, tuple[Callable[[File], Any], str]] = {
    **{
        f"alignment {n}": (lambda f, n=n: f.put("general.alignment", n, UINT32), "general.alignment")
        for n in (1, 2, 4)
    },
    "a norm as F16": (lambda f: f.recast("blk.0.attn_norm.weight", 1), "blk.0.attn_norm.weight"),
    "a norm as Q8_0": (lambda f: f.recast("output_norm.weight", 8), "output_norm.weight"),
    **{
        f"{name} as {kind}": (lambda f, name=name, number=number: f.recast(name, number), f"stored as {kind}")
        for name in ("token_embd.weight", "blk.0.attn_q.weight")
        for number, kind in ((9, "Q8_1"), (24, "I8"), (25, "I16"), (27, "I64"), (28, "F64"))
    },
    "the embedding as I32": (lambda f: f.recast("token_embd.weight", 26), "stored as I32"),
    "groups of no experts": (lambda f: f.put("llama.expert_group_count", 1, UINT32), "experts"),
    "more next tokens than layers": (
        lambda f: f.put("llama.nextn_predict_layers", 99, UINT32),
        "nextn_predict_layers",
    ),
    "an unknown rope": (lambda f: f.put("llama.rope.scaling.type", b"rubber", STRING), "'rubber'"),
    "an empty rope": (lambda f: f.put("llama.rope.scaling.type", b"", STRING), "rope.scaling.type"),
    "a name like an empty token's": (lambda f: tokens_with(f, _4095=b"", _1000=b"[EMPTY_4095]"), "twice"),
    "no vocabulary": (lambda f: f.put("tokenizer.ggml.model", b"none"), "without a vocabulary"),
    "no_vocab": (lambda f: f.put("tokenizer.ggml.model", b"no_vocab"), "without a vocabulary"),
    "rwkv": (lambda f: f.put("tokenizer.ggml.model", b"rwkv"), "cannot spell the byte"),
}

CHILD: dict[str, Callable[[File], Any]] = {
    "a matrix as I32": lambda f: f.recast("blk.0.attn_q.weight", 26),
    "bert with byte tokens": lambda f: f.put("tokenizer.ggml.model", b"bert"),
    "gpt2 that splits at white space": lambda f: (
        f.put("tokenizer.ggml.model", b"gpt2")
        .put("tokenizer.ggml.pre", b"whitespace", STRING)
        .put("tokenizer.ggml.merges", (STRING, [b"t h"]), ARRAY)
    ),
    "a beginning that is no token": lambda f: (
        f.put("tokenizer.ggml.model", b"t5")
        .drop("tokenizer.ggml.bos_token_id")
        .put("tokenizer.ggml.add_bos_token", True, BOOL)
    ),
    "smallthinker without experts": lambda f: f.renamed("smallthinker"),
    "paddleocr without rope sections": lambda f: f.renamed("paddleocr"),
}


@pytest.mark.parametrize("case", RULES)
def test_what_is_known_to_end_the_process_is_named(
    edited: Callable[[Callable[[File], Any]], Path], case: str
) -> None:
    edit, word = RULES[case]
    assert "child process" not in refused(edited(edit), word)


@pytest.mark.parametrize("case", CHILD)
def test_what_else_would_end_the_process_ends_a_child(
    edited: Callable[[Callable[[File], Any]], Path], case: str
) -> None:
    refused(edited(CHILD[case]), "tried in a child process, llama.cpp died of SIG", "download or convert")


def test_what_the_child_died_of_is_told_without_folders_and_escape_sequences(
    edited: Callable[[Callable[[File], Any]], Path], outcomes: list[Outcome], draft: bytes
) -> None:
    outcomes.append(DEAD)
    message = refused(edited(lambda file: file))
    assert "died of SIGABRT (abort) while loading it: ggml.c:12: GGML_ASSERT([31mx) failed; " in message


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux binds a child's memory")
def test_memory_that_no_header_needs_is_refused_in_time(
    edited: Callable[[Callable[[File], Any]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A vocabulary that splits into ever more tokens took 4 GB in 20 s; the rule that names it is put aside.
    monkeypatch.setattr("aded_local.llama.soundness._unescaped", lambda text: b"")
    monkeypatch.setattr(vetting, "VETTING_MEMORY", 128 << 20)
    refused(edited(lambda file: file.put("tokenizer.ggml.model", b"rwkv")), "died of SIGABRT", "bad_alloc")


def test_a_sparse_file_that_claims_millions_of_texts_is_refused_at_once(draft: bytes, tmp_path: Path) -> None:
    path = tmp_path / "sparse.gguf"
    key = b"tokenizer.ggml.merges"
    with path.open("wb") as file:
        file.write(
            b"GGUF" + (3).to_bytes(4, "little") + (0).to_bytes(8, "little") + (1).to_bytes(8, "little")
        )
        file.write(len(key).to_bytes(8, "little") + key + (ARRAY).to_bytes(4, "little"))
        file.write(STRING.to_bytes(4, "little") + (2**31).to_bytes(8, "little"))
        file.truncate(2**31 * 8 + 4096)
    started = time.thread_time()
    with pytest.raises(ModelFormatError, match="claims 2147483648 texts"):
        check(path)
    assert time.thread_time() - started < 1  # at once


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -3.0])
def test_a_suggestion_that_makes_no_sense_is_ignored_with_a_notice(
    edited: Callable[[Callable[[File], Any]], Path], value: float
) -> None:
    path = edited(lambda file: file.put("general.sampling.top_k", value, FLOAT32))
    notices: list[str] = []
    with LocalADED(path, draft="off", n_ctx=256, on_notice=notices.append) as llm:
        assert llm.generate("list files", max_tokens=2, seed=1).tokens
    assert sum("suggestion is ignored: top_k" in line for line in notices) == 1


def test_suggestions_of_any_sampler_are_followed(
    edited: Callable[[Callable[[File], Any]], Path],
) -> None:
    path = edited(lambda file: file.put("general.sampling.penalty_last_n", 7.0, FLOAT32))
    with LocalADED(path, draft="off", n_ctx=256) as llm:
        assert llm._model.suggested_sampling()["repeat_last_n"] == 7
        said = [
            llm.generate("list files", max_tokens=20, seed=1, repeat_penalty=1.5, repeat_last_n=n).tokens
            for n in (None, 7)
        ]
    assert said[0] == said[1]


# Once for each file


def test_a_file_is_tried_once_for_its_header(
    draft: bytes, outcomes: list[Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(draft)
    outcomes.append(FINE)
    Model(path).close()
    monkeypatch.setattr(vetting, "_passed", set())  # as in another process
    Model(path).close()
    path.rename(tmp_path / "renamed.gguf")
    Model(tmp_path / "renamed.gguf").close()
    assert outcomes == []
    # Weights are not part of it, a number in the header is.
    (tmp_path / "weights.gguf").write_bytes(draft[:-1] + bytes([draft[-1] ^ 1]))
    Model(tmp_path / "weights.gguf").close()
    (tmp_path / "header.gguf").write_bytes(parse(draft).put("general.name", b"another", STRING).dump())
    outcomes.append(DEAD)
    refused(tmp_path / "header.gguf", "died of SIGABRT")
    refused(tmp_path / "header.gguf", "died of SIGABRT")
    assert outcomes == []


def test_a_vocabulary_is_tried_by_itself(draft: bytes, outcomes: list[Outcome], tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(draft)
    outcomes.append(FINE)
    Vocabulary(path).close()
    outcomes.append(DEAD)
    refused(path, "died of SIGABRT")
    Vocabulary(path).close()


def test_a_vocabulary_that_ends_the_process_ends_a_child(
    edited: Callable[[Callable[[File], Any]], Path],
) -> None:
    path = edited(CHILD["bert with byte tokens"])
    with pytest.raises(ModelFormatError, match=r"tried in a child process, llama\.cpp died"):
        Vocabulary(path)
    with pytest.raises(ModelKindError, match="without a vocabulary"):
        Vocabulary(edited(RULES["no vocabulary"][0]))


@pytest.mark.parametrize("cause", ["SIGKILL", "SIGTERM"])
def test_a_child_that_somebody_killed_is_no_obstacle(outcomes: list[Outcome], cause: str) -> None:
    for _ in range(2):
        outcomes.append(Outcome(Ending.DIED, "loading it", cause, 0.1))
        Model(draft_path()).close()
    assert outcomes == []


def test_without_a_child_a_file_is_loaded_as_it_is(outcomes: list[Outcome]) -> None:
    outcomes.append(Outcome(Ending.FAILED, "", "no child process could be started", 0.1))
    Model(draft_path()).close()
    assert outcomes == []


@pytest.mark.parametrize(
    "outcome",
    [Outcome(Ending.HUNG, "loading it", "", 15.0), Outcome(Ending.DIED, "loading it", "SIGBUS", 0.1)],
)
def test_what_may_be_the_machines_fault_is_told_and_tried_again(
    outcomes: list[Outcome], outcome: Outcome
) -> None:
    outcomes.append(outcome)
    refused(draft_path(), "while loading it")
    outcomes.append(FINE)
    Model(draft_path()).close()
    assert outcomes == []


def test_the_child_of_a_trial_tries_nothing(outcomes: list[Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(trial.INSIDE, "1")
    Model(draft_path()).close()


def test_a_cache_that_cannot_be_written_costs_only_the_repetition(
    outcomes: list[Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("no folder")
    outcomes.append(FINE)
    for _ in range(2):
        Model(draft_path()).close()
    assert outcomes == []


def test_the_user_is_told_of_the_trial_of_a_large_file_only(
    outcomes: list[Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    outcomes += [FINE, FINE]
    Model(draft_path(), progress=said.append).close()
    assert said == []
    monkeypatch.setattr(vetting, "LARGE", 1000)
    vetting._passed.clear()
    shutil.rmtree(cache_folder())
    Model(draft_path(), progress=said.append).close()
    assert said == ["trying the model in a child process (once per file)"]


def test_a_large_file_may_take_longer(outcomes: list[Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []

    def run(*_: Any, limit: float, memory: int) -> Outcome:
        limits.append(limit)
        return Outcome(Ending.HUNG, "decoding 1 token", "", limit)

    monkeypatch.setattr(trial, "run", run)
    with pytest.raises(ModelFormatError, match=r"hung for 115 s while decoding 1 token"):
        vetting.require_harmless(Path("a.gguf"), "a", int(100 * vetting.SLOWEST_DISK))
    with pytest.raises(ModelFormatError, match="hung for 15 s"):
        vetting.require_harmless(Path("b.gguf"), "b", 1000)


# A file that changes


def test_a_file_that_changes_while_it_is_loaded_is_told_from_a_broken_one(
    draft: bytes, outcomes: list[Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.gguf"

    def meanwhile(outcome: Outcome, change: Callable[[], Any]) -> None:
        path.write_bytes(draft)

        def run(*_: Any, **__: Any) -> Outcome:
            change()
            return outcome

        monkeypatch.setattr(trial, "run", run)
        vetting._passed.clear()
        shutil.rmtree(cache_folder(), ignore_errors=True)
        refused(path, "changed while it was loaded; start again when it has been written whole")

    bus = Outcome(Ending.DIED, "loading it", "SIGBUS", 0.1)
    meanwhile(bus, lambda: path.write_bytes(draft[:1000]))  # a download that begins again
    meanwhile(bus, lambda: path.write_bytes(b""))
    meanwhile(bus, path.unlink)
    meanwhile(FINE, lambda: os.utime(path))
    other = tmp_path / "other.gguf"
    other.write_bytes(parse(draft).put("general.name", b"another", STRING).dump())
    meanwhile(FINE, lambda: other.replace(path))


# What it costs


def test_the_child_imports_nothing_but_the_bindings() -> None:
    program = (
        "import runpy, sys\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print([name for name in ('numpy', 'numba', 'jinja2', 'aded_local.llama') if name in sys.modules])"
    )
    arguments = [str(vetting.VETTING_FILE), str(draft_path()), "vocabulary"]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv[:] = {arguments!r}\n{program}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "[]", done

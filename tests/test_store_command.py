"""aded-store as its users meet it: corpora of all kinds, wrong input, an impatient finger on Ctrl-C."""

from __future__ import annotations

import gzip
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from click.testing import CliRunner, Result
from patience import PATIENCE, until

from aded_cli import store
from aded_cli.store_commands.corpus import PIECE, Corpus
from aded_local.errors import StoreError
from aded_local.llama.gguf import read_header
from aded_local.llama.identity import identity_of
from aded_local.llama.vocabulary import Vocabulary
from aded_local.memory import ConversationMemory
from aded_local.memory.conversations import memory_folder
from aded_local.ngrams.static import open_static
from aded_models import builtin_path

PROGRAM = [sys.executable, "-m", "aded_cli.store"]
TEXT = "how to list files\n\ncopy the files, then close: äöü 漢字 🙂\n"


def run(*args: str | Path, stdin: str | bytes = b"") -> Result:
    return CliRunner().invoke(store.main, [str(arg) for arg in args], input=stdin)


def done(*args: str | Path, stdin: str | bytes = b"") -> Result:
    result = run(*args, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result


def refused(*args: str | Path, words: str, stdin: str | bytes = b"") -> None:
    """One line on standard error that holds ``words``, nothing on standard output, exit code 2."""
    result = run(*args, stdin=stdin)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("aded-store: ")
    assert result.stderr.count("\n") == 1
    assert words in result.stderr


@pytest.fixture
def model(not_writing: dict[str, Path]) -> Path:
    """A GGUF of nothing but a vocabulary."""
    return not_writing["vocabulary"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT * 3, "utf-8")
    return path


@pytest.fixture
def built(tmp_path: Path, model: Path, corpus: Path) -> Path:
    out = tmp_path / "a.store"
    done("build", model, corpus, "-o", out)
    return out


def exported(path: Path, model: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done("export", path, "-m", model).stdout.splitlines()]


def texts(path: Path, model: Path) -> list[str]:
    return [line["text"] for line in exported(path, model)]


# What a corpus can be


def test_export_gives_the_text_back(built: Path, model: Path, corpus: Path) -> None:
    assert texts(built, model) == [corpus.read_text("utf-8")]


def test_the_built_in_models_vocabulary_goes_by_a_name(tmp_path: Path, corpus: Path) -> None:
    done("build", "builtin", corpus, "-o", tmp_path / "s")
    assert texts(tmp_path / "s", builtin_path()) == [corpus.read_text("utf-8")]


def test_folders_packed_files_and_jsonl_are_read_and_what_is_no_text_is_left_out(
    tmp_path: Path, model: Path
) -> None:
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "secret.txt").write_text("secret")
    (folder / "b.md").write_bytes(b"\xef\xbb\xbfread me")
    (folder / "below" / "code.py.gz").write_bytes(gzip.compress(b"print('one')"))
    (folder / "latin1.txt").write_bytes("naïve".encode("latin-1"))
    (folder / "picture").write_bytes(b"\x89PNG\0\0\0")
    (folder / "empty.txt").touch()
    lines = [
        {"text": "a text"},
        {"prompt": "asked", "output": "an output"},
        {"prompt": "asked", "answer": "an answer"},
        {
            "messages": [
                {"role": "user", "content": "hello"},
                {"role": "assistant", "content": [{"text": "you"}]},
            ]
        },
        "a string",
        {"number": 5},
        17,
    ]
    packed = gzip.compress("\n\n".join(json.dumps(line) for line in lines).encode())
    (folder / "z.jsonl.gz").write_bytes(packed)
    result = done("build", model, folder, "-o", tmp_path / "s")
    assert sorted(texts(tmp_path / "s", model)) == sorted(
        [
            "read me",
            "print('one')",
            "na\ufffdve",
            "a text",
            "an output",
            "an answer",
            "hello",
            "you",
            "a string",
        ]
    )
    assert "1 file left out: no text" in result.stderr
    assert "1 file with bytes that are not UTF-8" in result.stderr
    assert "2 lines of JSONL left out" in result.stderr


def test_a_field_can_be_named_and_standard_input_be_jsonl(tmp_path: Path, model: Path) -> None:
    line = json.dumps({"text": "not this", "body": ["this", "and this"]})
    done("build", model, "-", "--jsonl", "--field", "body", "-o", tmp_path / "s", stdin=line)
    assert texts(tmp_path / "s", model) == ["this", "and this"]
    done("build", model, "-", "-o", tmp_path / "t", stdin=TEXT)
    assert texts(tmp_path / "t", model) == [TEXT]


@pytest.mark.parametrize("unit", ["a line of text 漢字\n", "漢字"])
def test_long_texts_are_kept_in_pieces_that_make_the_whole(tmp_path: Path, unit: str) -> None:
    whole = unit * (5 * PIECE // 2 // len(unit.encode()))
    (tmp_path / "long.txt").write_text(whole, "utf-8")
    pieces = list(Corpus.at([str(tmp_path / "long.txt")]).texts())
    assert "".join(pieces) == whole
    assert 3 <= len(pieces) <= 4
    assert all(len(piece.encode()) <= PIECE for piece in pieces)
    (tmp_path / "long.jsonl").write_text(json.dumps({"text": whole}), "utf-8")
    assert "".join(Corpus.at([str(tmp_path / "long.jsonl")]).texts()) == whole


def test_text_without_breaks_is_encoded_whole(model: Path) -> None:
    vocabulary = Vocabulary(model)
    for text in ("a" * 12_000, "x " + "\n" * 8000 + "y"):
        (tokens,) = vocabulary.encode(text)
        assert vocabulary.decode(tokens) == text
    assert list(vocabulary.encode("")) == []
    vocabulary.close()


def test_control_tokens_in_a_text_stay_text(tmp_path: Path, model: Path) -> None:
    done("build", model, "-", "-o", tmp_path / "s", stdin="<|end|></s>")
    assert texts(tmp_path / "s", model) == ["<|end|></s>"]
    assert tiny_models.END not in np.concatenate(list(open_static(tmp_path / "s").texts()))


def test_little_memory_is_enough(tmp_path: Path, model: Path, corpus: Path) -> None:
    done("build", model, corpus, "--memory", "1", "-o", tmp_path / "s")
    open_static(tmp_path / "s").check()


def test_any_gguf_with_the_tokenizer_will_do(built: Path, tiny: dict[str, Path]) -> None:
    key = identity_of(read_header(tiny["llama"])).tokenizer
    assert open_static(built, key).facts.tokenizer_key == key


# Merging, pruning, looking


def test_merged_texts_follow_each_other(tmp_path: Path, model: Path, built: Path) -> None:
    done("build", model, "-", "-o", tmp_path / "b", stdin="more")
    done("merge", built, tmp_path / "b", "-o", tmp_path / "c")
    assert texts(tmp_path / "c", model) == [TEXT * 3, "more"]
    done("prune", tmp_path / "c", "--tokens", "20")
    assert texts(tmp_path / "c", model) == ["more"]
    facts = json.loads(done("inspect", tmp_path / "c", "--json", "--check").stdout)[0]
    assert (facts["texts"], facts["pruned_texts"], facts["checked"]) == (1, 1, True)
    assert [source["name"] for source in facts["sources"]] == ["corpus.txt", "standard input"]


def test_stores_of_different_tokenizers_are_kept_apart(tmp_path: Path, built: Path, corpus: Path) -> None:
    done("build", "builtin", corpus, "-o", tmp_path / "b")
    refused("merge", built, tmp_path / "b", "-o", tmp_path / "c", words="different tokenizers")
    refused("export", built, "-m", "builtin", words="another tokenizer")


def test_inspect_shows_what_a_store_holds(built: Path) -> None:
    shown = done("inspect", built, "--check").stdout
    assert "corpus.txt" in shown
    assert "every checksum is right" in shown
    damaged = bytearray(built.read_bytes())
    damaged[4096 + 20] ^= 1
    built.write_bytes(bytes(damaged))
    done("inspect", built)
    refused("inspect", built, "--check", words="damaged")


def memory_of(model: Path) -> ConversationMemory:
    memory = ConversationMemory(identity_of(read_header(model)))
    vocabulary = Vocabulary(model)
    (prompt,), (answer,) = vocabulary.encode("list the files"), vocabulary.encode("find one")
    vocabulary.close()
    user, end = [tiny_models.USER], [tiny_models.END]
    for number, (asked, said) in enumerate(((prompt, answer), (answer, prompt))):
        memory.remember(user + asked.tolist(), said.tolist() + end, known=0, conversation=number, turn=0)
    memory.close()
    return memory


def test_memories_are_listed_shown_exported_and_pruned(model: Path) -> None:
    assert "nothing is stored" in done("inspect").stdout
    path = memory_of(model).path
    listed = done("inspect").stdout
    assert str(path) in listed
    assert "conversation memory" in listed
    assert json.loads(done("inspect", "--json").stdout)[0]["exchanges"] == 2
    first, second = exported(path, model)
    assert first["prompt"] == "<|user|>list the files"
    assert (first["answer"], second["answer"]) == ("find one", "list the files")
    done("prune", path, "--tokens", str(ConversationMemory.at(path).inspect().tokens // 2))
    assert json.loads(done("inspect", path, "--json").stdout)[0]["exchanges"] == 1


def test_a_damaged_memory_hides_no_other(model: Path) -> None:
    path = memory_of(model).path
    other = path.with_name("other-0123456789ab.sqlite")
    other.write_bytes(path.read_bytes())  # it says itself that it is another's
    other.with_name("odd.sqlite").write_bytes(b"nonsense")
    torn = path.with_name("torn-0123456789ab.sqlite")
    torn.write_bytes(b"?" + path.read_bytes()[1:])
    (path.parent / "gone-0123456789ab.sqlite.damaged-1").write_bytes(b"what was set aside")
    (path.parent / "old-0123456789ab.memory").write_bytes(b"aded-memory 1")
    listed = done("inspect").stdout
    assert str(path) in listed
    [line] = [each for each in listed.splitlines() if each.startswith(str(torn))]
    assert "conversation memory (damaged)" in line
    assert "gone-0123456789ab.sqlite.damaged-1  set aside" in listed
    assert "old-0123456789ab.memory" in listed and "earlier version" in listed
    assert "odd.sqlite is not a memory" in listed
    assert run("inspect", "--check").exit_code == 2


def test_a_memory_of_an_earlier_version_can_only_be_erased(model: Path) -> None:
    old = memory_folder() / "old-0123456789ab.memory"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"aded-memory 1 {}")
    for args in (["inspect"], ["prune", "--tokens", "5"], ["export", "-m", str(model)]):
        refused(*args, old, words="earlier version")
    assert done("erase", old, "--yes").stdout == f"erased {old}\n"
    assert list(memory_folder().iterdir()) == []


def test_what_was_set_aside_can_be_erased_by_its_name_and_a_live_log_is_not(model: Path) -> None:
    memory = memory_of(model)
    aside = memory.path.with_name(f"{memory.path.name}.damaged-1")
    aside.write_bytes(b"damaged")
    assert done("erase", aside, "--yes").stdout == f"erased {aside}\n"
    memory.remember([1], [2], known=0, conversation=5, turn=0)  # it is in use
    log = memory.path.with_name(f"{memory.path.name}-wal")
    refused("erase", log, "--yes", words="neither")
    assert str(log) not in done("erase", "--all", "--yes").stdout
    assert log.exists() and memory.exchanges() == []
    memory.close()
    done("erase", "--all", "--yes")
    assert list(memory_folder().iterdir()) == []


# Erasing


def test_erasing_is_confirmed_where_it_can_be(built: Path) -> None:
    refused("erase", built, words="--yes")
    assert built.exists()
    assert f"erased {built}" in done("erase", built, "--yes").stdout
    assert not built.exists()


def test_erasing_all_leaves_nothing_a_person_wrote(model: Path, built: Path, tmp_path: Path) -> None:
    memory_of(model)
    inside = memory_folder() / "x.store"
    inside.write_bytes(built.read_bytes())
    left = memory_folder() / "gone-0123456789ab.sqlite.damaged-1"
    left.write_text("of a memory that is gone")
    (memory_folder() / "strange.sqlite").write_text("no memory")
    (memory_folder() / "old-0123456789ab.memory").write_text("aded-memory 1")
    (memory_folder() / "link.sqlite").symlink_to(built)
    typed = memory_folder().parent / "history"
    typed.write_text("\n# 2025-01-01\n+how do I list files\n")
    [line] = [each for each in done("inspect").stdout.splitlines() if str(typed) in each]
    assert "typed lines" in line
    told = done("erase", "--all", "--yes").stdout
    assert list(memory_folder().iterdir()) == [] and not typed.exists()
    assert f"erased {typed}\n" in told
    assert built.exists()
    assert f"removed the link {memory_folder() / 'link.sqlite'}; what it led to stays: {built}\n" in told
    assert "nothing was erased" in done("erase", "--all", "--yes").stdout


@pytest.mark.parametrize("obstacle", ["text", "link", "pipe"])
def test_what_is_no_history_is_not_erased_for_its_name(tmp_path: Path, obstacle: str) -> None:
    """$ADED_DATA_DIR may name a folder that serves other purposes too."""
    path = memory_folder().parent / "history"
    path.parent.mkdir()
    (tmp_path / "typed").write_text("+typed\n")
    if obstacle == "text":
        path.write_text("what happened in 1848\n")
    elif obstacle == "link":
        path.symlink_to(tmp_path / "typed")
    else:
        os.mkfifo(path)
    assert "nothing is stored" in done("inspect").stdout
    assert "nothing was erased" in done("erase", "--all", "--yes").stdout
    assert os.path.lexists(path) and (tmp_path / "typed").exists()


def test_typed_lines_can_be_shown_and_erased_by_their_path() -> None:
    path = memory_folder().parent / "history"
    path.parent.mkdir()
    path.write_text("\n# 2025-01-01\n+typed\n")
    assert "typed lines" in done("inspect", path).stdout
    assert done("erase", path, "--yes").stdout == f"erased {path}\n"
    assert not path.exists()


def test_a_link_is_not_erased_and_nor_is_what_it_leads_to(tmp_path: Path, built: Path, model: Path) -> None:
    for target in (built, memory_of(model).path, tmp_path / "nothing"):
        link = tmp_path / "link"
        link.symlink_to(target)
        refused("erase", link, "--yes", words=f"is a link to {target}")
        assert link.is_symlink() and (target.name == "nothing" or target.exists())
        if target != built:  # a static store may be read through a link
            refused("inspect", link, words=f"is a link to {target}")
        link.unlink()


def test_without_a_data_folder_it_says_which_variable_names_one(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADED_DATA_DIR", "~nosuchuser/x")
    refused("inspect", words="ADED_DATA_DIR")
    refused("erase", "--all", "--yes", words="no such user")
    done("inspect", built)
    done("erase", built, "--yes")


def test_nothing_else_is_ever_erased(tmp_path: Path, corpus: Path, model: Path) -> None:
    refused("erase", corpus, model, "--yes", words="neither")
    refused("erase", tmp_path, "--yes", words="folder")
    refused("erase", tmp_path / "missing", "--yes", words="there is no")
    refused("erase", "--yes", words="--all")
    refused("erase", corpus, "--all", words="--all")
    assert corpus.exists()
    assert model.exists()


def test_a_damaged_store_can_be_erased(built: Path) -> None:
    built.write_bytes(built.read_bytes()[:5000])
    refused("inspect", built, words="damaged")
    done("erase", built, "--yes")
    assert not built.exists()


# Wrong input


def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, model: Path, corpus: Path, built: Path
) -> None:
    out = tmp_path / "out"
    cases: list[tuple[list[str | Path], str]] = [
        ([model, tmp_path / "missing"], "there is no file"),
        ([tmp_path / "missing.gguf", corpus], "there is no file"),
        ([corpus, corpus], "not a GGUF"),
        ([tmp_path, corpus], "is a folder"),
        ([model, "/dev/null"], "neither a file nor a folder"),
        ([model, "-", "-"], "only once"),
        ([model, "-"], "the files are empty"),
        ([model, corpus, "--memory", "0"], "--memory"),
    ]
    for args, words in cases:
        refused("build", *args, "-o", out, words=words)
    for bad, words in ((tmp_path, "folder"), (built, "--force"), (tmp_path / "no" / "x", "no folder")):
        refused("build", model, corpus, "-o", bad, words=words)
    refused("build", model, corpus, words="-o")
    refused("build", model, "-o", out, words="CORPUS")
    files = {
        "broken.jsonl": (b'{"text": "a"}\n{"text":', "line 2 is no JSON"),
        "deep.jsonl": (b"[" * 100_000, "line 1 is no JSON"),
        "none.jsonl": (b'{"name": "a"}\n', "--field"),
        "broken.gz": (gzip.compress(b"text " * 500)[:40], "is damaged"),
        "bits.gz": (b"\x1f\x8b\x08\0" + b"x" * 50, "is damaged"),
        "binary": (b"\0\1\2", "1 file left out"),
        "empty": (b"", "are empty"),
        "blank": (b" \n\n", "holds no text"),
    }
    for name, (data, words) in files.items():
        (tmp_path / name).write_bytes(data)
        refused("build", model, tmp_path / name, "-o", out, words=words)
    for args in (["inspect"], ["prune", "--tokens", "5"], ["export", "-m", str(model)]):
        refused(*args, corpus, words="neither a static store nor a conversation memory")
        refused(*args, tmp_path / "missing", words="there is no")
    refused("merge", corpus, "-o", out, words="no static store")
    refused("merge", built, built, "-o", out, words="same file")
    refused("prune", built, "--tokens", "1", words="erase the store")
    refused("export", built, "-m", model, "-o", built, words="--force")
    refused("nonsense", words="nonsense")
    assert not out.exists()
    assert not [path for path in tmp_path.iterdir() if ".new-" in path.name]


def test_an_unreadable_file_in_a_folder_is_left_out(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import builtins

    (tmp_path / "locked.txt").write_text("locked")
    really = builtins.open

    def locked(name: Any, *args: Any, **kwargs: Any) -> Any:
        if str(name).endswith("locked.txt"):
            raise PermissionError(13, "Permission denied", str(name))
        return really(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", locked)
    files = Corpus.at([str(tmp_path)])
    assert "".join(files.texts()) == corpus.read_text("utf-8")
    assert files.unreadable == 1
    with pytest.raises(StoreError, match="Permission denied"):
        list(Corpus.at([str(tmp_path / "locked.txt")]).texts())


def test_force_replaces_and_the_new_file_is_private(built: Path, model: Path) -> None:
    built.chmod(0o644)
    done("build", model, "-", "-o", built, "--force", stdin="other")
    assert texts(built, model) == ["other"]
    assert stat.S_IMODE(built.stat().st_mode) == 0o600
    out = built.with_name("out.jsonl")
    done("export", built, "-m", model, "-o", out)
    assert json.loads(out.read_text("utf-8")) == {"text": "other"}
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


# As a program


def test_help_is_quick() -> None:
    for args in (["--help"], ["build", "--help"]):
        shown = subprocess.run([*PROGRAM, *args], capture_output=True, timeout=30, check=True)
        assert b"Usage" in shown.stdout
    heavy = "import sys, aded_cli.store; print({'numba', 'numpy', 'llama_cpp', 'rich'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, check=True).stdout == b"set()\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_build_leaves_nothing(tmp_path: Path, model: Path, number: int, code: int) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    command = [*PROGRAM, "build", str(model), "-", "-o", str(folder / "s")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        until(lambda: list(folder.iterdir()))
        process.send_signal(number)
        process.stdin.close()
        assert process.wait(PATIENCE) == code
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    assert list(folder.iterdir()) == []


def test_a_reader_that_leaves_is_no_error(tmp_path: Path, model: Path) -> None:
    lines = "\n".join(json.dumps({"text": "one word " * 200}) for _ in range(200))
    done("build", model, "-", "--jsonl", "-o", tmp_path / "s", stdin=lines)
    command = [*PROGRAM, "export", str(tmp_path / "s"), "-m", str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(PATIENCE) == 141
        assert process.stderr.read() == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_one_line(built: Path, model: Path) -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [*PROGRAM, "export", str(built), "-m", str(model)], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert ended.returncode == 2
    assert ended.stderr.startswith("aded-store: cannot write standard output: No space left")
    assert ended.stderr.count("\n") == 1


def test_names_reach_the_terminal_without_control_characters(tmp_path: Path, model: Path) -> None:
    odd = tmp_path / "odd\x1b[31m.txt"
    odd.write_text(TEXT)
    out = tmp_path / "out\x1b[31m"
    assert "\x1b" not in done("build", model, odd, "-o", out).output
    assert "\x1b" not in done("inspect", out).output

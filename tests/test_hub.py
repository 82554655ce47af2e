"""Models of the Hugging Face Hub: which of a repository's files is meant, and how it comes from a local server."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_hub import TOKEN, FakeHub, Repository, serving
from hypothesis import given
from hypothesis import strategies as st

from aded_local import Llama
from aded_local.errors import ModelNotFoundError, OptionError, StoreError
from aded_models import CATALOGUE, Reference, find, hub, installed, reference
from aded_models.catalogue import CONTEXT_TOKENS
from aded_models.installed import hub_cache, repositories, repository_folder
from aded_models.references import choose, quantizations

pytest.importorskip("huggingface_hub")

STEP = hub.WRITTEN_AT_ONCE
CONTENT = bytes(range(256)) * (3 * STEP // 256) + b"the end"
"""Of a file that takes four steps to download."""


@pytest.fixture
def repository() -> Repository:
    small = b"GGUF of another kind"
    return Repository(
        {"README.md": b"#", "m-Q8_0.gguf": small, "m-Q4_K_M.gguf": CONTENT, "m-F16.gguf": small}
    )


@pytest.fixture
def fake(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with one repository, ``someone/tiny``, and a cache that is empty."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(
        "huggingface_hub.file_download.time.sleep", lambda _seconds: None
    )  # between its tries
    with serving({"someone/tiny": repository}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server


def unfinished(name: bytes = CONTENT) -> Path:
    """Where what came so far lies."""
    blobs = repository_folder("someone/tiny") / "blobs"
    return blobs / f"{hashlib.sha256(name).hexdigest()}.incomplete"


# --- which file is meant --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("Qwen/Qwen3-4B-GGUF", Reference("Qwen/Qwen3-4B-GGUF")),
        ("hf:Qwen/Qwen3-4B-GGUF:q8_0", Reference("Qwen/Qwen3-4B-GGUF", "q8_0")),
        ("https://huggingface.co/a/b.c-d_e/", Reference("a/b.c-d_e")),
        ("hf.co/a/b:Q4_0", Reference("a/b", "Q4_0")),
        ("a/b:sub/m.gguf", Reference("a/b", "sub/m.gguf")),
        ("https://huggingface.co/a/b/blob/main/m-Q4_0.gguf", Reference("a/b", "m-Q4_0.gguf")),
        ("https://huggingface.co/a/b/resolve/main/sub/m.gguf?download=true", Reference("a/b", "sub/m.gguf")),
        ("https://huggingface.co/a/b/blob/main/my%20model.gguf#top", Reference("a/b", "my model.gguf")),
        ("https://huggingface.co/a/b/tree/main", Reference("a/b")),
        ("https://www.huggingface.co/a/b?library=gguf", Reference("a/b")),
        ("hf:https://hf.co/a/b", Reference("a/b")),
    ],
)
def test_a_repository_is_read_as_people_write_it(text: str, meant: Reference) -> None:
    assert reference(text) == meant
    assert reference(str(meant)) == meant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a/",
        "/b",
        "a/b:",
        "a/b/c",
        "a b/c",
        "../x/y",
        "a/b\x1b[2J",
        "a/b:m\n.gguf",
        "a/b/blob/main/m.gguf",
        "https://huggingface.co/a",
        "https://huggingface.co/a/b/discussions/1",
        "https://example.com/a/b",
        "https://huggingface.co/a/b/blob/main/m%0a.gguf",
    ],
)
def test_what_is_no_repository_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(OptionError, match=r"OWNER/NAME:QUANT"):
        reference(text)


def test_an_address_of_another_branch_is_refused_since_another_file_would_come() -> None:
    with pytest.raises(OptionError, match="'dev'; only those of main"):
        reference("https://huggingface.co/a/b/blob/dev/m.gguf")


@pytest.mark.parametrize(
    ("quantization", "file"),
    [
        (None, "m-Q4_K_M.gguf"),
        ("q4_k_m", "m-Q4_K_M.gguf"),
        ("Q4_K", None),  # a part of a name is another quantization
        ("Q4_0", "m-Q4_0.gguf"),
        ("IQ4_NL", "m.IQ4_NL.gguf"),
        ("F16", "sub/m-F16-00001-of-00002.gguf"),
        ("UD-Q2_K_XL", "m-UD-Q2_K_XL.gguf"),
        ("m-Q4_0.gguf", "m-Q4_0.gguf"),
        ("sub/m-F16.gguf", "sub/m-F16-00001-of-00002.gguf"),
        ("m-F16.gguf", "sub/m-F16-00001-of-00002.gguf"),
        ("m-F16-00001-of-00002.gguf", "sub/m-F16-00001-of-00002.gguf"),
        ("Q9", None),
    ],
)
def test_a_quantization_means_one_file(quantization: str | None, file: str | None) -> None:
    files = [
        "README.md",
        "m-Q4_0.gguf",
        "m-Q4_K_M.gguf",
        "m.IQ4_NL.gguf",
        "m-UD-Q2_K_XL.gguf",
        "mmproj-F16.gguf",
    ]
    files += ["sub/m-F16-00002-of-00002.gguf", "sub/m-F16-00001-of-00002.gguf", "imatrix-Q4_0.gguf"]
    wanted = Reference("a/b", quantization)
    if file is None:
        with pytest.raises(ModelNotFoundError, match=r"there is Q4_0, Q4_K_M, UD-Q2_K_XL, IQ4_NL, F16"):
            choose(files, wanted)
    else:
        assert choose(files, wanted)[0] == file


def test_without_a_name_q4_k_m_is_taken_then_q8_0_then_the_first() -> None:
    files = ["a-Q2_K.gguf", "a-Q8_0.gguf", "a-Q4_K_M.gguf"]
    chosen = []
    while files:
        chosen += choose(files, Reference("a/b"))
        files.remove(chosen[-1])
    assert chosen == ["a-Q4_K_M.gguf", "a-Q8_0.gguf", "a-Q2_K.gguf"]


def test_a_whole_file_is_taken_before_parts_of_the_same_model() -> None:
    files = ["m-q4_k_m-00001-of-00002.gguf", "m-q4_k_m-00002-of-00002.gguf", "m-q4_k_m.gguf"]
    assert choose(files, Reference("a/b", "Q4_K_M")) == ("m-q4_k_m.gguf",)


@pytest.mark.parametrize(
    "name", ["m\n.gguf", "m.gguf\n/x.gguf", "\x1b[2Jm.gguf", "m\u202e.gguf", "m\ud800.gguf"]
)
def test_a_name_with_control_characters_is_no_model_s(name: str) -> None:
    assert choose([name, "n.gguf"], Reference("a/b")) == ("n.gguf",)
    with pytest.raises(ModelNotFoundError, match="control characters") as refused:
        choose([name], Reference("a/b"))
    assert name not in str(refused.value)


def test_a_repository_without_a_model_or_without_a_part_says_so() -> None:
    with pytest.raises(ModelNotFoundError, match="has no GGUF"):
        choose(["README.md", "mmproj.gguf", "model.safetensors"], Reference("a/b"))
    with pytest.raises(ModelNotFoundError, match=r"2 of the 3 parts of m-00001-of-00003\.gguf"):
        choose(["m-00001-of-00003.gguf", "m-00003-of-00003.gguf"], Reference("a/b"))


names = st.sampled_from(["a", "b/a", "Q8_0", "x-Q4_K_M", "q4_k_m", "mmproj-a", "a-bf16"])


@given(st.dictionaries(names, st.integers(1, 4), min_size=1, max_size=5), st.randoms())
def test_a_model_is_chosen_whole_and_in_order_however_files_are_listed(
    models: dict[str, int], random: Any
) -> None:
    files = ["config.json"]
    for name, parts in models.items():
        files += (
            [f"{name}.gguf"]
            if parts == 1
            else [f"{name}-{n:05}-of-{parts:05}.gguf" for n in range(1, parts + 1)]
        )
    random.shuffle(files)
    if set(models) == {"mmproj-a"}:
        assert quantizations(files) == ()
        return
    chosen = choose(files, Reference("a/b"))
    assert set(chosen) <= set(files) and list(chosen) == sorted(chosen)
    assert len(chosen) in models.values() and "mmproj" not in chosen[0]
    for label in quantizations(files):
        assert choose(files, Reference("a/b", label))


# --- it comes, once -------------------------------------------------------------------------------


def test_a_model_is_fetched_into_the_shared_cache_and_then_nobody_is_asked(fake: FakeHub) -> None:
    import huggingface_hub

    said: list[str] = []
    path = find("hf:someone/tiny", said.append).path
    assert path.read_bytes() == CONTENT and path.name == "m-Q4_K_M.gguf"
    assert "fetching m-Q4_K_M.gguf" in said[0] and "100%" in said[-2] and said[-1].startswith("checking")
    assert all("\n" not in line for line in said) and len(said) == 5
    there = huggingface_hub.try_to_load_from_cache("someone/tiny", path.name, cache_dir=hub_cache())
    assert there == str(path)
    asked = len(fake.asked)
    assert find("hf:someone/tiny").path == find("hf:someone/tiny:q4_k_m").path == path
    assert len(fake.asked) == asked


def test_pull_asks_again_and_fetches_what_is_new(fake: FakeHub, repository: Repository) -> None:
    other = hub.pull(Reference("someone/tiny", "Q8_0"))
    old = hub.pull(Reference("someone/tiny"))
    assert hub.pull(Reference("someone/tiny")) == old
    repository.files["m-Q4_K_M.gguf"] = b"a better model"
    assert installed(Reference("someone/tiny")) == old
    new = hub.pull(Reference("someone/tiny"))
    assert new.read_bytes() == b"a better model"
    assert installed(Reference("someone/tiny")) == new
    assert installed(Reference("someone/tiny", "Q8_0")) == other  # of the commit before


def test_all_parts_of_a_split_model_come_and_the_first_is_opened(
    fake: FakeHub, repository: Repository
) -> None:
    repository.files = {f"s-{number:05}-of-00003.gguf": bytes([number]) * 100 for number in (1, 2, 3)}
    said: list[str] = []
    first = find("hf:someone/tiny", said.append).path
    assert first.name == "s-00001-of-00003.gguf"
    assert sorted(path.name for path in first.parent.iterdir()) == sorted(repository.files)
    assert any("(part 2 of 3)" in line for line in said)
    (first.parent / "s-00002-of-00003.gguf").unlink()
    assert installed(Reference("someone/tiny")) is None


def test_a_name_of_the_list_is_found_once_it_is_pulled(fake: FakeHub) -> None:
    with pytest.raises(ModelNotFoundError, match=r"`aded-models pull qwen3-4b` fetches it \(2\.5 GB\)"):
        find("qwen3-4b")
    fake.repositories["Qwen/Qwen3-4B-GGUF"] = Repository({"Qwen3-4B-Q4_K_M.gguf": b"x"})
    path = hub.pull(CATALOGUE["qwen3-4b"].model)
    assert find("qwen3-4b").path == path
    assert repositories() == ["Qwen/Qwen3-4B-GGUF"]


def test_what_is_here_of_a_repository_is_enough_where_no_quantization_is_named(fake: FakeHub) -> None:
    path = find("hf:someone/tiny:Q8_0").path
    asked = len(fake.asked)
    assert find("hf:someone/tiny").path == path and len(fake.asked) == asked


# --- it breaks off, and goes on -------------------------------------------------------------------


def test_a_line_that_breaks_is_taken_up_again_at_once(fake: FakeHub, repository: Repository) -> None:
    repository.cuts = [STEP + 10, STEP + 10]
    assert find("hf:someone/tiny").path.read_bytes() == CONTENT
    assert fake.contents_asked() == ["", f"bytes={STEP}-", f"bytes={2 * STEP}-"]


def test_a_download_that_was_given_up_is_continued_by_the_next(fake: FakeHub, repository: Repository) -> None:
    repository.cuts = [STEP + 10] + [0] * 10
    with pytest.raises(ModelNotFoundError, match=r"does not answer .* the same command goes on from there"):
        find("hf:someone/tiny")
    assert unfinished().stat().st_size == STEP
    assert installed(Reference("someone/tiny")) is None
    repository.cuts, asked = [], len(fake.contents_asked())
    said: list[str] = []
    assert find("hf:someone/tiny", said.append).path.read_bytes() == CONTENT
    assert fake.contents_asked()[asked:] == [f"bytes={STEP}-"]
    assert "2.1 MB of 3.1 MB" in said[0]
    assert not unfinished().exists()


def test_ctrl_c_keeps_what_came(fake: FakeHub) -> None:
    def stop(line: str) -> None:
        if "2.1 MB" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find("hf:someone/tiny", stop)
    assert unfinished().stat().st_size == 2 * STEP
    assert find("hf:someone/tiny").path.read_bytes() == CONTENT
    assert fake.contents_asked() == ["", f"bytes={2 * STEP}-"]


def test_a_server_that_knows_no_ranges_begins_anew(fake: FakeHub, repository: Repository) -> None:
    repository.ignores_ranges = True
    unfinished().parent.mkdir(parents=True)
    unfinished().write_bytes(CONTENT[:STEP])
    assert find("hf:someone/tiny").path.read_bytes() == CONTENT


@pytest.mark.parametrize("left", [CONTENT + b"more", CONTENT])
def test_leftovers_that_are_longer_are_dropped_and_whole_ones_used(fake: FakeHub, left: bytes) -> None:
    unfinished().parent.mkdir(parents=True)
    unfinished().write_bytes(left)
    assert find("hf:someone/tiny").path.read_bytes() == CONTENT
    assert fake.contents_asked() == ([] if left == CONTENT else [""])


# --- what goes wrong is one line ------------------------------------------------------------------


def refused(model: str = "hf:someone/tiny") -> str:
    """The line that says why a model cannot be had."""
    with pytest.raises((ModelNotFoundError, StoreError)) as failure:
        find(model)
    said = str(failure.value)
    assert "\n" not in said and len(said) < 300
    return said


def test_content_that_is_not_what_was_announced_is_removed(fake: FakeHub, repository: Repository) -> None:
    repository.damaged = {"m-Q4_K_M.gguf"}
    said = refused()
    assert "m-Q4_K_M.gguf is not what someone/tiny announces" in said and "try again" in said
    assert hashlib.sha256(CONTENT).hexdigest()[:12] in said
    assert not unfinished().exists() and installed(Reference("someone/tiny")) is None
    repository.damaged = set()
    assert find("hf:someone/tiny").path.read_bytes() == CONTENT


@pytest.mark.parametrize("announced", ["../../outside", "", "A" * 64, "0" * 63])
def test_what_is_announced_and_no_sha_256_names_no_file(
    fake: FakeHub, repository: Repository, announced: str
) -> None:
    repository.announced = {"m-Q4_K_M.gguf": announced}
    assert "which is none: nothing is fetched" in refused()
    assert fake.contents_asked() == [] and not repository_folder("someone/tiny").exists()


def test_what_came_before_and_is_damaged_is_found_out(fake: FakeHub) -> None:
    unfinished().parent.mkdir(parents=True)
    unfinished().write_bytes(b"?" * STEP)
    assert "is not what" in refused()
    assert find("hf:someone/tiny").path.read_bytes() == CONTENT


def test_a_disk_without_room_is_told_before_anything_comes(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1_000_000))
    said = refused()
    assert "takes 3.1 MB" in said and "1.0 MB free" in said and "HF_HOME" in said
    assert fake.contents_asked() == [] and not unfinished().exists()
    unfinished().write_bytes(CONTENT[:STEP])
    assert "takes 2.1 MB" in refused()
    assert unfinished().read_bytes() == CONTENT[:STEP], "what came before stays"


def test_a_disk_that_fills_up_keeps_what_came(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    write = hub._Counted.write

    def until_full(self: Any, data: bytes) -> int:
        if self._out.tell() >= STEP:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, data)

    monkeypatch.setattr(hub._Counted, "write", until_full)
    assert "the disk is full" in refused()
    assert unfinished().stat().st_size == STEP
    monkeypatch.setattr(hub._Counted, "write", write)
    assert find("hf:someone/tiny").path.read_bytes() == CONTENT
    assert fake.contents_asked() == ["", f"bytes={STEP}-"]


@pytest.mark.parametrize(
    ("variable", "below"),
    [("HF_HOME", ""), ("HF_HOME", "deeper"), ("HF_HUB_CACHE", ""), ("HF_HUB_CACHE", "x/y")],
)
def test_a_cache_that_cannot_be_made_names_the_file_in_its_way_and_the_variable(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, below: str
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(variable, str(tmp_path / "file" / below))
    said = refused()
    assert f"{tmp_path / 'file'} is no folder" in said and said.endswith(f"another folder with {variable}")
    assert fake.contents_asked() == []


@pytest.mark.parametrize(
    "address",
    [
        "",
        " ",
        "nonsense",
        "huggingface.co",
        "ftp://huggingface.co",
        "https://",
        "http://[",
        "http://a:b",
        "http://a b",
        "http://\u00e4.example",
        "http://a\n",
    ],
)
def test_an_address_of_the_hub_that_is_none_names_its_variable(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(
        OptionError, match=r"^HF_ENDPOINT is .*, which is no address of a hub; unset it"
    ) as refused:
        find("hf:someone/tiny")
    assert "\n" not in str(refused.value)


def test_an_address_that_is_none_is_told_before_the_client_reads_it() -> None:
    program = (
        "from aded_models import find\n"
        "try: find('hf:a/b')\n"
        "except ValueError as error: print(type(error).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "HF_ENDPOINT": "http://["},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "OptionError\n", done.stderr


def test_an_address_that_ends_in_a_slash_is_the_same_one(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", fake.address + "/")
    assert find("hf:someone/tiny").path.read_bytes() == CONTENT


def test_a_line_about_the_hub_never_says_who_asks(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", fake.address.replace("http://", "http://me:secret@"))
    assert "secret" not in refused("hf:someone/absent")


@pytest.mark.parametrize("token", ["hf_\u00e4", "hf_\u201cright\u201d", "hf_\x01"])
def test_a_token_that_no_request_can_carry_names_its_variable_and_is_not_shown(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(OptionError, match=r"^HF_TOKEN holds characters that no token has") as refused:
        find("hf:someone/tiny")
    assert token not in str(refused.value) and fake.asked == []


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.gguf", b"", "empty.gguf is empty there"),
        ("n" * 260 + ".gguf", b"x", "is longer than the 255 bytes"),
        ("\u00e4" * 130 + ".gguf", b"x", "is longer than the 255 bytes"),
        ("n" * 260 + "/m.gguf", b"x", "is longer than the 255 bytes"),
    ],
)
def test_a_file_that_can_be_no_model_here_is_told_before_anything_comes(
    fake: FakeHub, repository: Repository, name: str, content: bytes, says: str
) -> None:
    repository.files = {name: content}
    assert says in refused()
    assert fake.contents_asked() == [] and not repository_folder("someone/tiny").exists()


def test_a_name_with_a_line_end_is_not_downloaded_by_a_pattern_either(
    fake: FakeHub, repository: Repository
) -> None:
    repository.files = {"a\nb.gguf": b"x"}
    with pytest.raises(ModelNotFoundError, match="control characters") as refused:
        Llama.from_pretrained("someone/tiny", "*.gguf")
    assert "\n" not in str(refused.value) and fake.contents_asked() == []


def test_a_name_with_a_line_end_that_another_program_fetched_is_not_opened(fake: FakeHub) -> None:
    snapshot = repository_folder("someone/tiny") / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot / "a\nb.gguf").write_bytes(CONTENT)
    assert installed(Reference("someone/tiny")) is None


def test_an_address_is_a_model_s_name_too(fake: FakeHub) -> None:
    path = find("hf:someone/tiny").path
    assert find("https://huggingface.co/someone/tiny").path == path
    assert find("https://huggingface.co/someone/tiny/blob/main/m-Q4_K_M.gguf").path == path
    assert find(Path("https://huggingface.co/someone/tiny")).path != path


def test_a_private_repository_is_not_told_from_one_that_is_not_there(
    fake: FakeHub, repository: Repository
) -> None:
    repository.access = "private"
    for model in ("hf:someone/tiny", "hf:someone/absent"):
        said = refused(model)
        assert f"has no {model[3:]} for you" in said and "HF_TOKEN" in said
    assert fake.contents_asked() == []


@pytest.mark.parametrize("access", ["private", "gated"])
def test_who_may_gets_it_and_the_token_goes_to_the_hub_alone(
    fake: FakeHub, repository: Repository, monkeypatch: pytest.MonkeyPatch, access: str
) -> None:
    repository.access = access
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert find("hf:someone/tiny").path.read_bytes() == CONTENT
    assert fake.tokens_elsewhere == []


@pytest.mark.parametrize("token", [None, "hf_wrong"])
def test_a_gated_repository_says_where_its_terms_are(
    fake: FakeHub, repository: Repository, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    repository.access = "gated"
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    said = refused()
    assert "accept its terms" in said and "https://huggingface.co/someone/tiny" in said
    assert not unfinished().exists()


@pytest.mark.parametrize(("status", "says"), [(503, "answers 503"), (429, "wait a while"), (403, "token")])
def test_a_hub_that_refuses_is_told_with_its_status(
    fake: FakeHub, repository: Repository, status: int, says: str
) -> None:
    repository.status = status
    said = refused()
    assert says in said and "someone/tiny" in said


def test_without_a_network_what_is_here_is_found_and_the_rest_says_so(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = find("hf:someone/tiny").path
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert find("hf:someone/tiny").path == path
        said = refused("hf:someone/tiny:F16")
    assert "the hub that HF_ENDPOINT names (127.0.0.1:" in said and "does not answer" in said
    assert "check the network" in said


def test_the_variable_that_forbids_asking_is_kept_to(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused() or not fake.asked
    assert fake.asked == []


def test_without_the_client_what_is_here_is_found_and_the_rest_says_what_to_install(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = find("hf:someone/tiny").path
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert find("hf:someone/tiny").path == path
    with pytest.raises(OptionError, match=r"pip install 'aded-local\[hub\]'"):
        find("hf:someone/tiny:F16")


def test_a_quantization_that_is_not_there_says_which_are(fake: FakeHub) -> None:
    assert "has no Q5_K_M; there is F16, Q4_K_M, Q8_0" in refused("hf:someone/tiny:Q5_K_M")


# --- the list -------------------------------------------------------------------------------------


def test_the_list_counts_the_memory_of_weights_context_and_program() -> None:
    one = CATALOGUE["qwen3-4b"]
    assert one.context_bytes == CONTEXT_TOKENS * 36 * 2 * 8 * 128 * 2
    assert one.memory > one.size + one.context_bytes
    sizes = [each.size for each in CATALOGUE.values()]
    assert sizes == sorted(sizes) and len(sizes) >= 12
    for each in CATALOGUE.values():
        assert reference(str(each.model)) == each.model and each.model.quantization

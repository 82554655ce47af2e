"""Poorer versions of a model: fewer layers, fewer bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from aded_bench.body import poorer as module
from aded_bench.body.poorer import FOLDER, poorer
from aded_local.errors import ModelNotFoundError, OptionError
from aded_local.files import cache_folder
from aded_local.llama import Model
from aded_local.llama.gguf import read_header
from aded_local.llama.quantize import keep_first_layers
from aded_models import find
from aded_models.builtin import builtin_path


def layers(path: Path) -> int:
    header = read_header(path)
    found = header.metadata[f"{header.architecture}.block_count"]
    assert isinstance(found, int)
    return found


def tensors(path: Path) -> set[str]:
    return set(read_header(path).tensors)


def test_the_first_layers_are_kept_and_the_others_are_not(tmp_path: Path) -> None:
    source, out = builtin_path(), tmp_path / "short.gguf"
    n = layers(source)
    keep_first_layers(source, out, n - 1)
    assert layers(out) == n - 1
    gone = {name for name in tensors(source) if name.startswith(f"blk.{n - 1}.")}
    assert gone and tensors(out) == tensors(source) - gone
    model = Model(out)
    assert model.n_layer == n - 1
    model.close()


@pytest.mark.parametrize("n", [0, -1, 10_000])
def test_layers_that_are_not_there_cannot_be_kept(tmp_path: Path, n: int) -> None:
    with pytest.raises(OptionError, match="layers"):
        keep_first_layers(builtin_path(), tmp_path / "out.gguf", n)


def test_a_version_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def make(source: Path, out: Path) -> None:
        made.append(source)
        out.write_bytes(b"GGUF")

    monkeypatch.setattr(module, "KINDS", {"short": make})
    first = poorer(builtin_path(), "short")
    assert first == poorer(builtin_path(), "short") and made == [builtin_path()]
    assert [path.name for path in first.parent.iterdir()] == [first.name]
    with pytest.raises(OptionError, match="choose from short"):
        poorer(builtin_path(), "shorter")


def test_what_fails_leaves_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Path, out: Path) -> None:
        out.write_bytes(b"half")
        raise OptionError("no")

    monkeypatch.setattr(module, "KINDS", {"short": fail})
    with pytest.raises(OptionError):
        poorer(builtin_path(), "short")
    assert not list((cache_folder() / FOLDER).iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "n_layers"), [("q2_k", 30), ("first-20", 20), ("first-10", 10)])
def test_all_versions_of_smollm2_load(kind: str, n_layers: int) -> None:
    try:
        source = find("smollm2").path
    except ModelNotFoundError as missing:
        pytest.skip(str(missing))
    model = Model(poorer(source, kind))
    assert model.n_layer == n_layers and model.size_bytes < source.stat().st_size
    model.close()

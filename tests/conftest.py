"""What all tests share: tiny models, compiled kernels, and folders that are not the user's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models

from aded_local import files as folders
from aded_local.files import cache_folder
from aded_local.speed.probe import Probe
from aded_local.speed.tuning import Tuner
from aded_local.trials import preflight, verdicts

KERNELS = os.environ.get("NUMBA_CACHE_DIR") or str(cache_folder())
"""Kernels are compiled from the sources under test, once: compiling them for every process would take minutes."""


def compiling(*searches: str) -> subprocess.Popen[bytes]:
    # Not ``ahead`` as a program, which leaves the processor to whoever wants it.
    code = (
        f"from aded_local.drafters.ngram.ahead import compile_all; [compile_all(each) for each in {searches}]"
    )
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "NUMBA_CACHE_DIR": KERNELS})


def pytest_configure(config: pytest.Config) -> None:
    """Begin to compile while the processes that run the tests still read them; one that has to wait for it does."""
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        begun = compiling("best-first", "puct")
        config.add_cleanup(begun.wait)


@pytest.fixture(scope="session", autouse=True)
def kernels() -> None:
    # Without them a program decodes plainly at first, and a test of drafting would test nothing.
    assert compiling("best-first").wait(280) == 0


@pytest.fixture(scope="session")
def verdict_file() -> Path | None:
    """The verdict on llama.cpp in the cache of whoever runs the tests; tried if need be."""
    path = preflight.verdict_path()
    if path is not None and verdicts.read(path) is None:
        return preflight.examine(path).kept
    return path


@pytest.fixture(scope="session")
def vetted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Verdicts on the models of the tests, each of which is tried once in a session."""
    return tmp_path_factory.mktemp("vetted")


@pytest.fixture(scope="session")
def phrases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of the shipped phrases in the tokens of the tests' models, each of which is made once in a session."""
    return tmp_path_factory.mktemp("phrases")


@pytest.fixture(scope="session")
def measurements(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``measured_once`` keeps what it measures."""
    return tmp_path_factory.mktemp("measurements")


@pytest.fixture(autouse=True)
def own_folders(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    verdict_file: Path | None,
    vetted: Path,
    phrases: Path,
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    if verdict_file is not None:  # programs started by a test need not try llama.cpp again
        (cache / "preflight").mkdir()
        shutil.copy(verdict_file, cache / "preflight")
    if os.name == "posix":
        (cache / "vetted").symlink_to(vetted)
        (cache / "phrases").symlink_to(phrases)
    monkeypatch.setenv("NUMBA_CACHE_DIR", KERNELS)
    # Where a test lets the cache be unusable, nothing goes to the user's own folder among temporary files instead.
    monkeypatch.setattr(folders, "temporary_path", lambda: None)
    monkeypatch.setenv("ADED_CACHE_DIR", str(cache))
    monkeypatch.setenv("ADED_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("ADED_CONFIG_DIR", str(tmp_path / "config"))


@pytest.fixture(autouse=True)
def measured_briefly(own_folders: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pass takes is measured as ever, from fewer samples: which setting is the fastest here, no test asks."""
    monkeypatch.setattr("aded_local.speed.tuning.TRIAL_SECONDS", 0.02)
    monkeypatch.setattr("aded_local.speed.probe.CURVE_SECONDS", 0.3)
    monkeypatch.setitem(Probe.time_sizes.__kwdefaults__, "seconds", 0.3)


@pytest.fixture
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured counts as undisturbed, however busy the machine that runs the tests is."""
    monkeypatch.setattr("aded_local.speed.probe.contended", lambda waiting, samples: False)


@pytest.fixture
def measured_once(
    own_folders: None, quiet_machine: None, measurements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What passes of a model take is measured by the first test that needs it, and kept for the others.

    For tests in which drafting is ready, and that are not about measuring. Nothing is measured a second time.
    """
    if os.name == "posix":
        (cache_folder() / "measurements").symlink_to(measurements)
    monkeypatch.setattr("aded_local.speed.tuning.SIGHTINGS", 1)
    monkeypatch.setattr(Tuner, "doubtful", False)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny random GGUFs that write text, by architecture: see ``tiny_models.GENERATING``."""
    folder = tmp_path_factory.mktemp("tiny")
    return {name: write(folder / f"{name}.gguf") for name, write in tiny_models.GENERATING.items()}


@pytest.fixture(scope="session")
def not_writing(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """GGUFs that do not write text: ``bert``, ``embedding`` and ``vocabulary``."""
    folder = tmp_path_factory.mktemp("not_writing")
    return {
        "bert": tiny_models.write_bert(folder / "bert.gguf"),
        "embedding": tiny_models.write_qwen3(folder / "embedding.gguf", pooling=3),
        "vocabulary": tiny_models.write_vocabulary_only(folder / "vocabulary.gguf"),
    }

"""The configuration file: what it may say, what stands above it, and that none is passed over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aded_local.config import Config, config_path, memory_is_off, read_config
from aded_local.errors import OptionError


def configured(text: str) -> Path:
    path = config_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def test_without_a_file_all_is_as_usual() -> None:
    assert read_config() == Config() and memory_is_off() is None


def test_what_it_says_is_read() -> None:
    configured('# mine\nno_memory = true\nmodel = "~/models/käse.gguf"\nplain = true\n')
    assert read_config() == Config(no_memory=True, model="~/models/käse.gguf", plain=True)


@pytest.mark.parametrize(
    ("variable", "is_off"), [(None, "file"), ("", "file"), ("0", None), ("1", "ADED_NO_MEMORY")]
)
def test_the_variable_stands_above_the_file(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, is_off: str | None
) -> None:
    path = configured("no_memory = true")
    if variable is not None:
        monkeypatch.setenv("ADED_NO_MEMORY", variable)
    assert memory_is_off() == (str(path) if is_off == "file" else is_off)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no_memory = yes", "cannot be understood"),
        ("no_memory = 1", "true or false"),
        ('no_memory = "true"', "true or false"),
        ("nomemory = true", "'nomemory', which is not known"),
        ('model = ""', "path or name"),
        ("model = 3", "path or name"),
        ("a" * 5_000_000, "no configuration"),
    ],
)
def test_what_is_not_understood_is_an_error(text: str, words: str) -> None:
    configured(text)
    for ask in (read_config, memory_is_off):
        with pytest.raises(OptionError, match=words) as refused:
            ask()
        assert str(config_path()) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.skipif(os.name != "posix", reason="users of POSIX")
def test_without_a_home_folder_there_is_no_file_and_a_folder_that_is_named_must_be_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(_user: object) -> None:
        raise KeyError("no such user")

    for name in ("HOME", "XDG_CONFIG_HOME", "ADED_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert read_config() == Config()
    monkeypatch.setenv("ADED_CONFIG_DIR", "~no-such-user/config")
    with pytest.raises(
        OptionError, match="ADED_CONFIG_DIR is ~no-such-user/config, and there is no such user"
    ):
        memory_is_off()


@pytest.mark.skipif(os.name != "posix", reason="links, pipes and modes")
def test_a_link_is_followed_and_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "dotfile").write_text("plain = true")
    config_path().parent.mkdir(parents=True)
    config_path().symlink_to(tmp_path / "dotfile")
    assert read_config().plain
    config_path().unlink()
    os.mkfifo(config_path())
    with pytest.raises(OptionError, match="not a regular file"):
        read_config()

"""A conversation as a plain value, and as JSON: messages, answers' own token ids, settings, model, times.

    {"format": "aded-local conversation", "version": 1,
     "created": "2026-01-02T03:04:05Z", "changed": "2026-01-02T03:14:15Z",
     "model": {"name": …, "file": …, "quantization": …, "tokenizer": SHA-256, "weights": SHA-256},
     "settings": {"temperature": 0.7},
     "messages": [
      {"role": "user", "content": "…"},
      {"role": "assistant", "content": "…", "tokens": [1, 2, 3]}
    ]}

A file may come from anywhere or be edited by hand, so nothing in it is believed: messages are checked as any caller's
are, and whoever uses an answer's token ids sees first whether they say what its text says.
"""

from __future__ import annotations

import calendar
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from aded_local.chat.messages import Message, Plain, checked_messages
from aded_local.errors import PromptError, StoreError
from aded_local.files import failure, make_private_folder, read_private, replacing
from aded_local.shown import brief, json_text, one_line

FORMAT: Final = "aded-local conversation"
VERSION: Final = 1

LARGEST: Final = 64 << 20
"""Bytes of a file at most: some hundred times what the longest conversation takes that a context holds."""

LONGEST_TITLE: Final = 60
"""Characters of a title, which has to fit a line of a list."""

MOST_SETTINGS: Final = 64
"""Settings in a file at most; there are a dozen."""

LONGEST_NAME: Final = 4096
"""Characters of what a file says of its model, a path among them."""

LARGEST_ID: Final = 2**31
"""Token ids are below: llama.cpp has them in an int32."""

_WHEN: Final = "%Y-%m-%dT%H:%M:%SZ"
_EPOCH: Final = datetime(1970, 1, 1)

Setting = str | int | float | bool | list[str] | None
"""A setting's value, as JSON has it."""


@dataclass(frozen=True, slots=True)
class KeptModel:
    """The model that a conversation was held with.

    Attributes:
        name: readable, as ``Identity.name``.
        file: the GGUF's path, as it was then.
        quantization: the file type's name.
        tokenizer: SHA-256 of the vocabulary; token ids mean nothing with another one.
        weights: see ``weights_digest``.
    """

    name: str
    file: str
    quantization: str
    tokenizer: str
    weights: str


@dataclass(frozen=True, slots=True)
class KeptConversation:
    """A conversation, whole.

    Attributes:
        messages: oldest first, as ``checked_messages`` gives them.
        answers: token ids of each message that is an answer of the model's own; empty for the others.
        model: that it was held with last; None where the file does not say.
        settings: of its answers, by the names of ``request.Options``, as far as they were not the usual ones; and what
            else the program that kept it needs to go on.
        created, changed: seconds since 1970.
    """

    messages: tuple[Plain, ...]
    answers: tuple[tuple[int, ...], ...]
    model: KeptModel | None
    settings: Mapping[str, Setting]
    created: int
    changed: int

    @classmethod
    def of(
        cls,
        messages: Sequence[Message],
        *,
        answers: Mapping[str, Sequence[int]],
        model: KeptModel | None = None,
        settings: Mapping[str, Setting] | None = None,
        created: int | None = None,
    ) -> KeptConversation:
        """A conversation as it is now.

        Args:
            messages: see ``messages.Message``.
            answers: token ids of answers, by their text.
            model, settings: see the class.
            created: when it began; None for now.

        Raises:
            PromptError: a message is none.
        """
        plain = tuple(checked_messages(messages))
        now = int(time.time())
        ids = tuple(
            tuple(answers.get(message["content"] or "", ())) if message["role"] == "assistant" else ()
            for message in plain
        )
        return cls(plain, ids, model, dict(settings or {}), now if created is None else created, now)

    @property
    def title(self) -> str:
        """The first question's beginning, on one line."""
        return title_of(self.messages)

    def known_answers(self) -> dict[str, tuple[int, ...]]:
        """Token ids of answers, by their text; not checked."""
        return {
            message["content"]: tokens
            for message, tokens in zip(self.messages, self.answers, strict=True)
            if tokens and message["content"]
        }

    def to_json(self) -> str:
        """The file's text, with a line for each message."""
        head: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "created": _moment(self.created),
            "changed": _moment(self.changed),
            "model": None
            if self.model is None
            else {field.name: getattr(self.model, field.name) for field in fields(self.model)},
            "settings": dict(self.settings),
        }
        lines = [
            json_text({**message, "tokens": tokens} if tokens else message, "utf-8")
            for message, tokens in zip(self.messages, self.answers, strict=True)
        ]
        outer = json_text(head, "utf-8").removesuffix("}")
        return outer + ', "messages": [\n ' + ",\n ".join(lines) + "\n]}\n"

    @classmethod
    def from_json(cls, text: str) -> KeptConversation:
        """What a file says.

        Raises:
            ValueError: it is no conversation, one of a later version, or damaged; the message is a reason to add to
                the file's name.
        """
        try:
            data = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"is no sound JSON ({one_line(str(error))})") from error
        except ValueError as error:  # Python reads no longer numbers
            raise ValueError("holds a number of thousands of digits") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError("is not a conversation of aded-local")
        if data.get("version") != VERSION:
            raise ValueError(
                f"is a conversation of version {str(data.get('version'))[:20]}, and this program reads {VERSION}"
            )
        messages = data.get("messages")
        if not isinstance(messages, list):
            raise ValueError("has no list of messages")
        try:
            plain = tuple(checked_messages(messages))
        except (PromptError, RecursionError) as error:
            raise ValueError(f"holds what is no message: {one_line(str(error))}") from error
        return cls(
            plain,
            tuple(map(_ids, messages)),
            _model(data.get("model")),
            _settings(data.get("settings")),
            _seconds(data.get("created")),
            _seconds(data.get("changed")),
        )


def title_of(messages: Sequence[Message]) -> str:
    """A conversation's title: the beginning of its first question, on one line; empty without one."""
    first = next((message["content"] for message in messages if message["role"] == "user"), None) or ""
    return brief(first, LONGEST_TITLE)


def read(path: Path) -> KeptConversation:
    """The conversation in a file.

    Raises:
        StoreError: there is none, it cannot be read, or is damaged; it stays as it is.
    """
    try:
        return _parsed(path)
    except FileNotFoundError:
        raise StoreError(f"there is no conversation {path}; check the path") from None
    except OSError as error:
        raise failure("read", path, error, otherwise="name another file") from error
    except ValueError as error:
        raise StoreError(f"{path} {error}; it was left as it is") from error


def _parsed(path: Path) -> KeptConversation:
    """The conversation in a file.

    Raises:
        OSError: it cannot be read.
        ValueError: see ``KeptConversation.from_json``.
    """
    data = read_private(path, LARGEST)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ValueError("is no text in UTF-8") from None
    return KeptConversation.from_json(text)


def write(
    path: Path, conversation: KeptConversation, *, replaces: bool = False, lasting: bool = False
) -> None:
    """Write a conversation in one step, readable by its owner alone. What was there stays where that fails.

    Args:
        path: a new file, or a conversation's, which is replaced; its folder is made if need be.
        conversation: to write.
        replaces: the caller knows that what is there is a conversation.
        lasting: a power failure does not lose it.

    Raises:
        StoreError: it cannot be written, or ``path`` is the name of something else.
    """
    try:
        if not replaces:
            _require_replaceable(path)
        make_private_folder(path.parent)
        with replacing(path, lasting=lasting) as file:
            file.write(conversation.to_json().encode())
    except OSError as error:
        raise failure("write", path, error) from error


def _require_replaceable(path: Path) -> None:
    """Refuse to replace what is no conversation.

    Raises:
        StoreError: there is something else, or a conversation that cannot be read.
        OSError: it is not known whether there is anything.
    """
    if not path.is_symlink() and not path.exists():
        return
    try:
        _parsed(path)
        return
    except OSError as error:
        why = f"cannot be read ({error.strerror or error})"
    except ValueError as error:
        why = str(error)
    raise StoreError(f"{path} is there already, {why}, and is not replaced; name another file")


# --- what a file says, checked -------------------------------------------------------------------------


def _ids(message: Any) -> tuple[int, ...]:
    ids = message.get("tokens", ())
    if not isinstance(ids, (list, tuple)) or not all(
        type(token) is int and 0 <= token < LARGEST_ID for token in ids
    ):
        raise ValueError("has token ids that are none")
    return tuple(ids) if message["role"] == "assistant" else ()


def _model(found: Any) -> KeptModel | None:
    if found is None:
        return None
    names = [field.name for field in fields(KeptModel)]
    said = [found.get(name) for name in names] if isinstance(found, dict) else []
    if not said or not all(isinstance(text, str) and len(text) <= LONGEST_NAME for text in said):
        raise ValueError("does not say clearly which model it was held with")
    return KeptModel(*map(str, said))


def _settings(found: Any) -> dict[str, Setting]:
    if found is None:
        return {}
    if not isinstance(found, dict) or len(found) > MOST_SETTINGS:
        raise ValueError("has settings that are none")
    if not all(map(_is_setting, found.values())):
        raise ValueError("has a setting that is neither text nor number")
    return found


def _is_setting(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(text, str) for text in value)
    return value is None or isinstance(value, (str, int, float))


def _moment(seconds: int) -> str:
    # Not strftime, whose years before 1000 have fewer than the four digits that strptime reads.
    return (_EPOCH + timedelta(seconds=seconds)).isoformat(timespec="seconds") + "Z"


def _seconds(found: Any) -> int:
    try:
        return calendar.timegm(time.strptime(str(found), _WHEN))
    except (ValueError, OverflowError) as error:
        raise ValueError("does not say when it was held") from error

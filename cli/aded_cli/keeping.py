"""Keeps the chat's conversation on disk while it goes on, and brings earlier ones back."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from aded_local.errors import ADEDError, EmptyPromptError, OptionError, StoreError

from . import display
from .attachments import without_files
from .conversation import Conversation
from .setting import SETTINGS

if TYPE_CHECKING:
    from aded_local.api import LocalADED, Resumed
    from aded_local.conversations import KeptConversation
    from aded_local.request import Options

DROPPED_TURNS = "dropped_turns"
"""Among kept settings, the turns at the beginning that the context had no room for. Without this number the chat that
goes on might drop others, and the cells would hold another text than the prompt."""

SHOWN_TURNS = 6
"""Past turns that are shown where a conversation goes on: what fits a screen or two."""


class Keeper:
    """A chat's conversation on disk.

    The text is written at each turn's end, in a thread, so that nobody waits for it; what the cells hold, which may be
    hundreds of megabytes, is written once, at the end.

    Args:
        llm: the engine.
        conversation: the chat's, which ``load`` replaces the content of.
        sampling: keyword arguments of every generation; ``load`` adds those that were kept and are not among them.
        keeps: turns are kept by themselves; else only what ``save`` names.
        warn: told, from any thread, what cannot be kept, once.
        before: the keeper of the same chat while another model answered, closed; this one goes on in its file.
    """

    def __init__(
        self,
        llm: LocalADED,
        conversation: Conversation,
        sampling: dict[str, Any],
        *,
        keeps: bool,
        warn: Callable[[str], None],
        before: Keeper | None = None,
    ) -> None:
        self._llm = llm
        self._conversation = conversation
        self._sampling = sampling
        self._keeps = keeps
        self._warn = warn
        self._warned = False
        self._writer = ThreadPoolExecutor(1, "keeping")
        self._writing: Future[None] | None = None
        self._path: Path | None = None if before is None else before._path
        # Of each file that holds this conversation, as this chat left it.
        self._stamps: dict[Path, tuple[int, ...] | None] = {} if before is None else before._stamps
        self._changed = False  # since the cells were written

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def turn_ended(self) -> None:
        """An answer is over: keep the conversation, beside whatever comes next."""
        from aded_local.llama.interrupts import held_back

        if self._keeps and self._conversation.whole():
            self._changed = True
            with held_back():
                self._writing = self._writer.submit(self._keep, self._conversation.whole(), self._settings())

    def begin_anew(self) -> None:
        """The conversation is over, and what is said next begins another one. Call it before the engine forgets."""
        self._wait()
        self._path = None
        self._stamps = {}
        self._changed = False

    def save(self, name: str | None = None) -> tuple[Path, str | None]:
        """Keep the conversation now, with what the cells hold.

        Nothing that was kept is lost: what it was saved as before stays as it is, and another conversation is not
        replaced. Only the file that the chat made by itself goes on under the name.

        Args:
            name: a path; or a name in the folder of conversations, by which it is kept from then on. None keeps it
                where it is kept already.

        Returns:
            The file, and why what the cells hold is not kept, where it is not.

        Raises:
            StoreError: it cannot be written, or another conversation has this name.
            EmptyPromptError
        """
        from aded_local.conversations import conversations_folder, erase, is_made_name, named, new_path

        self._wait()
        if not self._conversation.whole():
            raise EmptyPromptError("there is no conversation to keep yet")
        if name is None:
            self._leave_to_others()
            path = self._path or new_path()
        else:
            path = named(name)
            self._require_ours(path, name)
        reason = self._llm.save(path, self._conversation.whole(), settings=self._settings())
        self._stamps[path] = _stamp(path)
        if path.parent == conversations_folder():
            before, self._path, self._changed = self._path, path, False
            if before not in (None, path) and is_made_name(before) and self._is_as_left(before):
                erase(before)
        return path, reason

    def _require_ours(self, path: Path, name: str) -> None:
        """Refuse to replace a conversation unless it is this one, or all of it is in this one.

        Raises:
            StoreError: it is another one; the line says which, and a name that is free.
        """
        from aded_local.conversations import read

        if not os.path.lexists(path) or self._is_as_left(path):
            return
        kept = read(path)
        if list(kept.messages) == self._conversation.whole()[: len(kept.messages)]:
            return
        raise StoreError(
            f"{name} holds another conversation (“{kept.title}”), which stays: /save {_free(name)} keeps both"
        )

    def _is_as_left(self, path: Path) -> bool:
        """Whether a file is as this chat wrote or read it."""
        stamp = self._stamps.get(path)
        return stamp is not None and stamp == _stamp(path)

    def load(self, name: str) -> Resumed:
        """Go on with a kept conversation in place of this one.

        Args:
            name: see ``conversations.find``.

        Raises:
            StoreError: there is none, or it cannot be read; this one goes on.
        """
        from aded_local.conversations import conversations_folder, find, read

        self._wait()
        path = find(name)
        kept = read(path)
        found = Conversation.of(kept.messages)
        resumed = self._llm.resume(path)
        self._conversation.system = found.system
        n = kept.settings.get(DROPPED_TURNS)
        n_dropped = n if isinstance(n, int) and 0 < n < len(found.turns) else 0
        self._conversation.dropped = found.turns[:n_dropped]
        self._conversation.turns = found.turns[n_dropped:]
        self._sampling.update(
            {name: value for name, value in sound(kept.settings).items() if name not in self._sampling}
        )
        self._path = path if path.parent == conversations_folder() else None
        self._stamps = {path: _stamp(path)}
        self._changed = False
        return resumed

    def close(self) -> None:
        """The chat ends: write what is still to be written, and what the cells hold."""
        self._wait(ends=True)
        if self._path is None or not self._changed or not self._is_ours_still():
            return
        self._changed = False
        with display.loading("keeping the conversation…", quiet=False):
            try:
                reason = self._llm.save(self._path, self._conversation.whole(), settings=self._settings())
            except ADEDError as error:
                reason = str(error)
            except KeyboardInterrupt:
                reason = "stopped"
        self._stamps[self._path] = _stamp(self._path)
        if reason is not None:
            self._tell(f"the next chat reads this conversation again: {reason}")

    def _settings(self) -> dict[str, Any]:
        """What is kept beside the messages: how answers are made, and how many turns the model is not told of."""
        kept = {name: value for name, value in self._sampling.items() if name in SETTINGS}
        dropped = len(self._conversation.dropped)
        return {**kept, DROPPED_TURNS: dropped} if dropped else kept

    def _wait(self, *, ends: bool = False) -> None:
        """Wait until the thread has written all there is; what it could not foresee is raised here.

        Args:
            ends: the thread ends.
        """
        from aded_local.llama.interrupts import held_back

        with (
            held_back()
        ):  # until a small file is written: a Ctrl-C in Python's own waiting might stop the thread
            if ends:
                self._writer.shutdown()
            if self._writing is not None:
                self._writing.result()

    def _keep(self, messages: list[dict[str, str]], settings: dict[str, Any]) -> None:
        """Write the conversation's text; runs in the thread."""
        from aded_local.conversations import new_path, write

        try:
            if not self._keeps or not self._is_ours_still():
                return
            kept = self._llm.kept(messages, settings=settings)
            if self._path is None:
                self._path = new_path()
                if not self._path.parent.exists():
                    self._warn(f"chats are kept in {self._path.parent} from now on; --no-memory keeps none")
            write(self._path, kept, replaces=True)
            self._stamps[self._path] = _stamp(self._path)
        except ADEDError as error:
            self._tell(f"this conversation is not kept: {error}")

    def _is_ours_still(self) -> bool:
        """Whether the file is as this chat left it. Where another one went on with it, this one takes another file."""
        if self._path is None or self._stamps.get(self._path) is None:
            return True
        if _stamp(self._path) is None:
            self._keeps = False
            self._tell(f"{self._path.stem} was erased meanwhile, so this conversation is not kept any more")
            return False
        self._leave_to_others()
        return True

    def _leave_to_others(self) -> None:
        """Take another file where another chat went on with this one's."""
        before = self._path
        if before is None or self._is_as_left(before) or _stamp(before) is None:
            return
        from aded_local.conversations import new_path

        self._path = new_path()
        self._tell(f"another chat went on with {before.stem}; this one is kept as {self._path.stem}")

    def _tell(self, line: str) -> None:
        if not self._warned:
            self._warn(line)
        self._warned = True


def sound(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Kept settings that a generation takes; a file may say anything."""
    from aded_local.request import Request

    found = {}
    for name, value in settings.items():
        if name not in SETTINGS or value is None:
            continue
        try:
            Request.of(cast("Options", {name: value}), {}, None, 1)
        except (OptionError, OverflowError):  # a whole number may have any size
            continue
        found[name] = value
    return found


def _free(name: str) -> str:
    """A name like one that is taken, as ``named`` takes it, which nothing has."""
    from aded_local.conversations import LONGEST_NAME, named

    stem, ending = (name[:-5], name[-5:]) if name.endswith(".json") else (name, "")
    if len(name) <= LONGEST_NAME:
        stem = stem[: LONGEST_NAME - len("-999")]
    others = (f"{stem}-{number}{ending}" for number in itertools.count(2))
    return next(other for other in others if not os.path.lexists(named(other)))


def show_past(conversation: Conversation, kept: KeptConversation) -> None:
    """Show the last turns of a conversation that goes on."""
    turns = [*conversation.dropped, *conversation.turns]
    if len(turns) > SHOWN_TURNS:
        earlier = len(turns) - SHOWN_TURNS
        display.note(f"“{kept.title}”")
        display.note(f"… {earlier} earlier turn{'s' * (earlier != 1)}")
    for turn in turns[-SHOWN_TURNS:]:
        display.say(f"> {without_files(turn.user)}")
        with display.answering() as write:
            write(turn.answer)


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What changes with each writing of a file; None where it is gone."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size

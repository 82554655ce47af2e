"""Keeps the chat's conversation on disk while it goes on, and brings earlier ones back."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from aded_local.errors import ADEDError, EmptyPromptError, OptionError

from . import display
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
        # Of the file, as this chat left it.
        self._stamp: tuple[int, ...] | None = None if before is None else before._stamp
        self._changed = False  # since the cells were written

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def turn_ended(self) -> None:
        """An answer is over: keep the conversation, beside whatever comes next."""
        if self._keeps and self._conversation.whole():
            self._changed = True
            self._writing = self._writer.submit(self._keep, self._conversation.whole(), self._settings())

    def begin_anew(self) -> None:
        """The conversation is over, and what is said next begins another one. Call it before the engine forgets."""
        self._wait()
        self._path = self._stamp = None
        self._changed = False

    def save(self, name: str | None = None) -> tuple[Path, str | None]:
        """Keep the conversation now, with what the cells hold.

        Args:
            name: a path; or a name in the folder of conversations, by which it is kept from then on. None keeps it
                where it is kept already.

        Returns:
            The file, and why what the cells hold is not kept, where it is not.

        Raises:
            StoreError, EmptyPromptError
        """
        from aded_local.conversations import conversations_folder, erase, named, new_path

        self._wait()
        path = named(name) if name is not None else self._path or new_path()
        if not self._conversation.whole():
            raise EmptyPromptError("there is no conversation to keep yet")
        reason = self._llm.save(path, self._conversation.whole(), settings=self._settings())
        if path.parent == conversations_folder():
            if self._path not in (None, path):
                erase(self._path)
            self._path, self._stamp, self._changed = path, _stamp(path), False
        return path, reason

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
        is_ours = path.parent == conversations_folder()
        self._path, self._stamp = (path, _stamp(path)) if is_ours else (None, None)
        self._changed = False
        return resumed

    def close(self) -> None:
        """The chat ends: write what is still to be written, and what the cells hold."""
        self._writer.shutdown()
        self._wait()
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
        self._stamp = _stamp(self._path)
        if reason is not None:
            self._tell(f"the next chat reads this conversation again: {reason}")

    def _settings(self) -> dict[str, Any]:
        """What is kept beside the messages: how answers are made, and how many turns the model is not told of."""
        kept = {name: value for name, value in self._sampling.items() if name in SETTINGS}
        dropped = len(self._conversation.dropped)
        return {**kept, DROPPED_TURNS: dropped} if dropped else kept

    def _wait(self) -> None:
        """Wait until the thread has written all there is; what it could not foresee is raised here."""
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
            self._stamp = _stamp(self._path)
        except ADEDError as error:
            self._tell(f"this conversation is not kept: {error}")

    def _is_ours_still(self) -> bool:
        """Whether the file is as this chat left it. Where another one went on with it, this one takes another file."""
        if self._stamp is None or self._path is None:
            return True
        now = _stamp(self._path)
        if now is None:
            self._keeps = False
            self._tell(f"{self._path.stem} was erased meanwhile, so this conversation is not kept any more")
            return False
        if now != self._stamp:
            from aded_local.conversations import new_path

            before, self._path, self._stamp = self._path, new_path(), None
            self._tell(f"another chat went on with {before.stem}; this one is kept as {self._path.stem}")
        return True

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
        except OptionError:
            continue
        found[name] = value
    return found


def show_past(conversation: Conversation, kept: KeptConversation) -> None:
    """Show the last turns of a conversation that goes on."""
    display.note(f"“{kept.title}”")
    turns = [*conversation.dropped, *conversation.turns]
    if len(turns) > SHOWN_TURNS:
        display.note(f"… {len(turns) - SHOWN_TURNS} earlier turns")
    for turn in turns[-SHOWN_TURNS:]:
        display.say(f"> {turn.user}")
        with display.answering() as write:
            write(turn.answer)


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What changes with each writing of a file; None where it is gone."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size

"""The commands of the chat: one table, from which dispatch, ``/help`` and completion come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from aded_local.errors import OptionError
from aded_local.shown import brief

from . import actions, display, setting
from .actions import Chat

PATH: Final = "path"
"""As completion of a command: files."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        names: the first is its own, the others are known from other programs.
        takes: what may stand behind it; empty for nothing.
        words: what it does, for ``/help``.
        more: what it takes, an example, and what changes, for ``/help`` with its name.
        act: does it, with what stands behind the name.
        completions: of what stands behind it, or ``PATH``.
        takes_lines: that may be several lines.
    """

    names: tuple[str, ...]
    takes: str
    words: str
    more: str
    act: Callable[[Chat, str], None]
    completions: Sequence[str] | str = ()
    takes_lines: bool = False

    @property
    def as_typed(self) -> tuple[str, str]:
        """All its names with what it takes, and what it does."""
        return f"{', '.join(self.names)} {self.takes}".rstrip(), self.words


def _help(_chat: Chat, topic: str) -> None:
    if topic:
        command = BY_NAME.get("/" + topic.lstrip("/"))
        if command is None:
            raise OptionError(f"there is no command {brief(topic)}; /help lists them")
        display.tell_help([command.as_typed])
        display.note(command.more)
        return
    display.tell_help([command.as_typed for command in COMMANDS])
    display.note(KEYS)


KEYS: Final = """\
Enter sends; Alt-Enter or Ctrl-J begins another line, and so does Enter between \"\"\" and \"\"\"
Tab completes a command; Ctrl-C stops the answer; Ctrl-D leaves
All else is a message, also a command's name behind a space."""


COMMANDS: Final[tuple[Command, ...]] = (
    Command(
        ("/help", "/?"),
        "[COMMAND]",
        "this list, or more about one",
        "COMMAND is a name with or without its slash: /help set. Nothing changes.",
        _help,
        "commands",
    ),
    Command(
        ("/clear", "/reset"),
        "",
        "begin a new conversation; system prompt and settings stay",
        "The model forgets what was said, and files that wait are not sent. The conversation so far stays on disk"
        " where chats are kept; /load brings it back.",
        actions.clear,
    ),
    Command(
        ("/retry", "/regen"),
        "",
        "answer the last question again, in place of the last answer",
        "With a temperature above 0 and no seed the answer is another one. If it fails, the old answer stays.",
        actions.retry,
    ),
    Command(
        ("/undo",),
        "",
        "take back the last question and its answer",
        "The model is not told of them any more, and they leave the conversation on disk. Again takes back the turn"
        " before.",
        actions.undo,
    ),
    Command(
        ("/edit",),
        "[TEXT]",
        "write the message in $EDITOR",
        "TEXT is what it begins with: /edit Dear Ms. Li. What you save is sent when the editor ends; an empty text"
        " is not sent. $VISUAL stands above $EDITOR. Ctrl-X Ctrl-E edits the line that you type.",
        actions.edit,
        takes_lines=True,
    ),
    Command(
        ("/file", "/read"),
        "PATH",
        "send a file's text with the next message",
        "For example /file notes.txt, or /file ~/my notes.txt. Several go together, and the message stands behind"
        " them. A file is read now; the same one again replaces it. Without PATH: which ones wait.",
        actions.attach,
        PATH,
    ),
    Command(
        ("/copy",),
        "[code|N]",
        "copy the last answer, its last block of code, or the N-th",
        "/copy takes all of the answer without its thoughts, /copy code its last block of code, /copy 1 its first."
        " The text goes to the clipboard.",
        actions.copy_answer,
        ("code",),
    ),
    Command(
        ("/system",),
        "[TEXT]",
        'show or change the system prompt ("" for none)',
        "For example /system You answer in French. It holds from the next message on, and the conversation is read"
        ' again with it; /system "" removes it. Without TEXT it is shown.',
        actions.system,
        takes_lines=True,
    ),
    Command(
        ("/set",),
        "[NAME VALUE]",
        "show or change how answers are chosen",
        "For example /set temperature 0.2, or /set stop END. It holds from the next answer on and is kept with the"
        " conversation; the value default gives it back to the model. Without NAME: all settings as they are.",
        actions.change_settings,
        tuple(setting.SETTINGS),
    ),
    Command(
        ("/save",),
        "[NAME]",
        "keep the conversation, under a name or path",
        "For example /save garden, or /save ~/garden.json. Under a NAME it is kept from then on, turn by turn; a path"
        " gets it as it is now. What was saved under other names stays, and another conversation is not replaced.",
        actions.save,
        PATH,
    ),
    Command(
        ("/load",),
        "NAME",
        "go on with a conversation that was kept",
        "NAME is that of /save or of `aded-store conversations list`, or as much of it as tells it from the others;"
        " last; or a path: /load garden. It replaces this conversation, which stays on disk where chats are kept.",
        actions.load,
        PATH,
    ),
    Command(
        ("/model",),
        "[MODEL]",
        "show the model, or go on with another one",
        "MODEL is a path or a name: /model smollm2. The conversation goes on, and the other model reads it. If it"
        " cannot be loaded, this one stays.",
        actions.model,
        PATH,
    ),
    Command(
        ("/context",),
        "",
        "how full the context is",
        "System prompt, turns and answers together take tokens of it. -c sets its size when the chat starts."
        " Nothing changes.",
        actions.context,
    ),
    Command(
        ("/stats",),
        "[probe]",
        "what holds for the model, and the figures of the answers",
        "/stats measures nothing. /stats probe finds which batch sizes are exact, which takes seconds or minutes;"
        " Ctrl-C stops it.",
        actions.stats,
        ("probe",),
    ),
    Command(
        ("/why",),
        "",
        "which words of the last answer were foreseen, and by what",
        "The answer is shown again, the words in colour that a draft had right. Nothing changes.",
        actions.why,
    ),
    Command(
        ("/draft",),
        "[on|off]",
        "whether answers are drafted",
        "/draft off has the model write each token alone, /draft on lets it check drafts again, from the next answer"
        " on. Without either: which of them holds.",
        actions.draft,
        ("on", "off"),
    ),
    Command(
        ("/quit", "/exit", "/bye"),
        "",
        "leave (or Ctrl-D)",
        "The conversation is on disk where chats are kept: aded-chat --continue goes on with it.",
        actions.leave,
    ),
)

BY_NAME: Final[Mapping[str, Command]] = {name: command for command in COMMANDS for name in command.names}


def command_in(line: str) -> tuple[str, Command, str] | None:
    """The command that a line is: the name that was typed, the command, and what stands behind it."""
    name = line.split(maxsplit=1)[0] if line.startswith("/") and line.strip() else ""
    command = BY_NAME.get(name)
    if command is None or ("\n" in line.strip() and not command.takes_lines):
        return None
    return name, command, line[len(name) :].strip()


def similar(name: str) -> str:
    """The command that a mistyped one was probably meant to be; empty where none is like it."""
    return next(iter(get_close_matches(name, BY_NAME, 1)), "")


def completions(text: str) -> Sequence[tuple[str, str]] | None:
    """What the beginning of a line may become, each with what it means; None for paths."""
    name, space, rest = text.partition(" ")
    if not space:
        return [(each, BY_NAME[each].words) for each in BY_NAME if each.startswith(name)]
    command = BY_NAME.get(name)
    if command is None or (" " in rest and command.completions != PATH):
        return []
    if command.completions == PATH:
        return None
    found: Any = command.completions
    if found == "commands":
        found = [each.names[0][1:] for each in COMMANDS]
    words = setting.SETTINGS if name == "/set" else {}
    return [(each, words[each].words if each in words else "") for each in found if each.startswith(rest)]

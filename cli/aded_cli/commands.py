"""The commands of the chat: one table, from which dispatch, ``/help`` and completion come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, Protocol

from aded_local.errors import ContextOverflowError, DeviceError, OptionError
from aded_local.shown import brief

from . import display, setting
from .attachments import Attachment, attachment, without_files

if TYPE_CHECKING:
    from aded_local.api import LocalADED

    from .answer import Answer
    from .conversation import Conversation, Turn
    from .keeping import Keeper

PATH: Final = "path"
"""As completion of a command: files."""


class Chat(Protocol):
    """What commands see and do of a chat; ``repl.Repl`` is one, and says what each of these is."""

    llm: LocalADED
    conversation: Conversation
    sampling: dict[str, Any]
    keeper: Keeper
    attached: list[Attachment]
    figures: list[dict[str, Any]]
    last: Answer | None
    drafts: bool
    is_over: bool
    apart: Callable[[], AbstractContextManager[Any]]

    @property
    def last_text(self) -> str | None:
        """See ``Repl``, as of all others."""

    def clear(self) -> None: ...
    def ask(self, typed: str) -> None: ...
    def ask_again(self) -> None: ...
    def take_back(self) -> Turn: ...
    def load(self, name: str) -> None: ...
    def switch_to(self, model: str) -> None: ...
    def context_used(self) -> int: ...


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


def _clear(chat: Chat, _typed: str) -> None:
    chat.clear()
    display.note("a new conversation begins")


def _system(chat: Chat, typed: str) -> None:
    conversation = chat.conversation
    if not typed:
        display.tell(conversation.system or "there is no system prompt; /system TEXT sets one")
        return
    conversation.system = None if typed in ('""', "''") else typed
    said = "no system prompt holds" if conversation.system is None else "the system prompt holds"
    again = ", which reads the conversation again" if conversation.turns else ""
    display.note(f"{said} from the next message on{again}")


def _set(chat: Chat, typed: str) -> None:
    if typed == "system" or typed.startswith("system "):  # as in Ollama
        _system(chat, typed.partition(" ")[2].strip().strip('"'))
        return
    if typed:
        display.note(setting.change(chat.sampling, typed))
        return
    rows = [
        (name, setting.shown(chat.sampling[name]) if name in chat.sampling else setting.DEFAULT, each.words)
        for name, each in setting.SETTINGS.items()
    ]
    display.say_rows(rows, err=True)


def _file(chat: Chat, typed: str) -> None:
    if not typed:
        waiting = ", ".join(file.name for file in chat.attached)
        display.note(f"with the next message: {waiting}" if waiting else "/file needs the path of a file")
        return
    quoted = len(typed) > 1 and typed[0] == typed[-1] and typed[0] in "\"'"
    file = attachment(typed[1:-1] if quoted else typed)
    if not file.text.strip():
        raise OptionError(f"{typed} holds no text")
    if file in chat.attached:
        display.note(f"{file.name} goes with the next message already")
        return
    others = [other for other in chat.attached if other.path != file.path]
    tokens = _tokens_of_file(chat, file)
    rest = sum(_tokens_of_file(chat, other) for other in others)
    if tokens + rest >= chat.llm.n_ctx:
        beside = f" beside the {rest:,} of other files" if rest else ""
        raise OptionError(
            f"{file.name} is not sent: its {tokens:,} tokens{beside} do not fit the context of {chat.llm.n_ctx:,}; "
            "-c starts the chat with a larger one"
        )
    again = " as it is now" if len(others) < len(chat.attached) else ""
    chat.attached[:] = [*others, file]
    share = f", {tokens / chat.llm.n_ctx:.0%} of the context"
    display.note(f"{file.name} goes with the next message{again} ({tokens:,} tokens{share})")


def _tokens_of_file(chat: Chat, file: Attachment) -> int:
    """Tokens that a file takes as a message.

    Raises:
        OptionError: it is too long to be worth counting.
    """
    text = file.as_markdown()
    try:
        chat.llm.require_short(text)
    except ContextOverflowError as error:
        raise OptionError(f"{file.name} is not sent: {error}") from None
    return chat.llm.count_chat_tokens([{"role": "user", "content": text}])


def _edit(chat: Chat, typed: str) -> None:
    from .editor import edited

    text = edited(typed, chat.apart())
    if not text.strip():
        display.note("nothing was written, so nothing is sent")
        return
    display.tell(f"> {text}")
    chat.ask(text)


def _retry(chat: Chat, _typed: str) -> None:
    chat.ask_again()


def _undo(chat: Chat, _typed: str) -> None:
    turn = chat.take_back()
    display.note(f"taken back: {brief(without_files(turn.user))}")


def _copy(chat: Chat, typed: str) -> None:
    from .copying import code_blocks, copy

    text = chat.last_text
    if text is None:
        raise OptionError("there is no answer to copy yet")
    if typed:
        blocks = code_blocks(text)
        if not blocks:
            raise OptionError("there is no code in the last answer; /copy alone copies all of it")
        if typed != "code" and not (typed.isdecimal() and 1 <= int(typed) <= len(blocks)):
            raise OptionError(
                f"/copy {brief(typed)}: it takes code, or the number of a block, 1 to {len(blocks)}"
            )
        text = blocks[-1 if typed == "code" else int(typed) - 1]
    display.note(copy(text))


def _save(chat: Chat, typed: str) -> None:
    path, reason = chat.keeper.save(typed or None)
    display.note(f"kept as {path}" + (f"; it will be read again: {reason}" if reason else ""))


def _load(chat: Chat, typed: str) -> None:
    if not typed:
        raise OptionError("/load needs the name or path of a conversation (`aded-store conversations list`)")
    chat.load(typed)


def _model(chat: Chat, typed: str) -> None:
    if typed:
        chat.switch_to(typed)
        return
    from aded_models import NAMES

    display.tell(str(chat.llm.description().get("model", "")))
    names = ", ".join(sorted(NAMES))
    display.note(f"/model takes a path, a name ({names}, and those of `aded-models list`), or hf:OWNER/NAME")


def _context(chat: Chat, _typed: str) -> None:
    llm, conversation = chat.llm, chat.conversation
    used = chat.context_used()
    display.tell_bar(used, llm.n_ctx)
    turns = len(conversation.turns)
    said = f"{turns} turn{'s' * (turns != 1)}" + (", a system prompt" if conversation.system else "")
    display.tell(f"{used:,} of {llm.n_ctx:,} tokens: {said}")
    display.note(
        "when an answer may no longer fit, the oldest turns are left out; /clear begins anew, -c sets the size"
    )


def _stats(chat: Chat, typed: str) -> None:
    if typed not in ("", "probe"):
        raise OptionError("/stats takes nothing after it, or probe, which measures what is not known yet")
    if typed:
        try:
            with display.loading("measuring which batch sizes are exact (Ctrl-C stops it)…", quiet=False):
                chat.llm.measure_exactness()
        except DeviceError as failure:  # of a second context: the chat has its own
            display.error(str(failure))
    display.show_stats(chat.llm.description(), chat.figures)


def _why(chat: Chat, _typed: str) -> None:
    from .why import show_why

    if chat.last is None:
        raise OptionError("there is no answer yet")
    show_why(chat.last, chat.llm.piece)


def _draft(chat: Chat, typed: str) -> None:
    opened = str(chat.llm.description().get("draft", "off"))
    if typed:
        if typed not in ("on", "off", opened):
            raise OptionError(f"/draft takes on or off, not {brief(typed)}")
        if typed != "off" and opened == "off":
            raise OptionError("this model was loaded with --draft off: start the chat without it")
        chat.llm.use_draft("off" if typed == "off" else opened)
        chat.drafts = typed != "off"
    state = f"on ({opened})" if chat.drafts and opened != "off" else "off"
    display.note(f"drafting is {state}" + ("" if typed else "; /draft on, /draft off"))


def _quit(chat: Chat, _typed: str) -> None:
    chat.is_over = True


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
        _clear,
    ),
    Command(
        ("/retry", "/regen"),
        "",
        "answer the last question again, in place of the last answer",
        "With a temperature above 0 and no seed the answer is another one. If it fails, the old answer stays.",
        _retry,
    ),
    Command(
        ("/undo",),
        "",
        "take back the last question and its answer",
        "The model is not told of them any more, and they leave the conversation on disk. Again takes back the turn"
        " before.",
        _undo,
    ),
    Command(
        ("/edit",),
        "[TEXT]",
        "write the message in $EDITOR",
        "TEXT is what it begins with: /edit Dear Ms. Li. What you save is sent when the editor ends; an empty text"
        " is not sent. $VISUAL stands above $EDITOR. Ctrl-X Ctrl-E edits the line that you type.",
        _edit,
        takes_lines=True,
    ),
    Command(
        ("/file", "/read"),
        "PATH",
        "send a file's text with the next message",
        "For example /file notes.txt, or /file ~/my notes.txt. Several go together, and the message stands behind"
        " them. A file is read now; the same one again replaces it. Without PATH: which ones wait.",
        _file,
        PATH,
    ),
    Command(
        ("/copy",),
        "[code|N]",
        "copy the last answer, its last block of code, or the N-th",
        "/copy takes all of the answer without its thoughts, /copy code its last block of code, /copy 1 its first."
        " The text goes to the clipboard.",
        _copy,
        ("code",),
    ),
    Command(
        ("/system",),
        "[TEXT]",
        'show or change the system prompt ("" for none)',
        "For example /system You answer in French. It holds from the next message on, and the conversation is read"
        ' again with it; /system "" removes it. Without TEXT it is shown.',
        _system,
        takes_lines=True,
    ),
    Command(
        ("/set",),
        "[NAME VALUE]",
        "show or change how answers are chosen",
        "For example /set temperature 0.2, or /set stop END. It holds from the next answer on and is kept with the"
        " conversation; the value default gives it back to the model. Without NAME: all settings as they are.",
        _set,
        tuple(setting.SETTINGS),
    ),
    Command(
        ("/save",),
        "[NAME]",
        "keep the conversation, under a name or path",
        "For example /save garden, or /save ~/garden.json. Under a NAME it is kept from then on, turn by turn; a path"
        " gets it as it is now. What was saved under other names stays, and another conversation is not replaced.",
        _save,
        PATH,
    ),
    Command(
        ("/load",),
        "NAME",
        "go on with a conversation that was kept",
        "NAME is that of /save or of `aded-store conversations list`, or as much of it as tells it from the others;"
        " last; or a path: /load garden. It replaces this conversation, which stays on disk where chats are kept.",
        _load,
        PATH,
    ),
    Command(
        ("/model",),
        "[MODEL]",
        "show the model, or go on with another one",
        "MODEL is a path or a name: /model smollm2. The conversation goes on, and the other model reads it. If it"
        " cannot be loaded, this one stays.",
        _model,
        PATH,
    ),
    Command(
        ("/context",),
        "",
        "how full the context is",
        "System prompt, turns and answers together take tokens of it. -c sets its size when the chat starts."
        " Nothing changes.",
        _context,
    ),
    Command(
        ("/stats",),
        "[probe]",
        "what holds for the model, and the figures of the answers",
        "/stats measures nothing. /stats probe finds which batch sizes are exact, which takes seconds or minutes;"
        " Ctrl-C stops it.",
        _stats,
        ("probe",),
    ),
    Command(
        ("/why",),
        "",
        "which words of the last answer were foreseen, and by what",
        "The answer is shown again, the words in colour that a draft had right. Nothing changes.",
        _why,
    ),
    Command(
        ("/draft",),
        "[on|off]",
        "whether answers are drafted",
        "/draft off has the model write each token alone, /draft on lets it check drafts again, from the next answer"
        " on. Without either: which of them holds.",
        _draft,
        ("on", "off"),
    ),
    Command(
        ("/quit", "/exit", "/bye"),
        "",
        "leave (or Ctrl-D)",
        "The conversation is on disk where chats are kept: aded-chat --continue goes on with it.",
        _quit,
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

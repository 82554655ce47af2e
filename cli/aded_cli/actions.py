"""What the commands of the chat do, each with what was typed behind its name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from aded_local.errors import ContextOverflowError, DeviceError, OptionError
from aded_local.shown import brief

from . import display, setting
from .attachments import Attachment, attachment, without_files

if TYPE_CHECKING:
    from aded_local.api import LocalADED

    from .answer import Answer
    from .conversation import Conversation, Turn
    from .keeping import Keeper


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


def clear(chat: Chat, _typed: str) -> None:
    """Begin a new conversation."""
    chat.clear()
    display.note("a new conversation begins")


def system(chat: Chat, typed: str) -> None:
    """Show or change the system prompt."""
    conversation = chat.conversation
    if not typed:
        display.tell(conversation.system or "there is no system prompt; /system TEXT sets one")
        return
    conversation.system = None if typed in ('""', "''") else typed
    said = "no system prompt holds" if conversation.system is None else "the system prompt holds"
    again = ", which reads the conversation again" if conversation.turns else ""
    display.note(f"{said} from the next message on{again}")


def change_settings(chat: Chat, typed: str) -> None:
    """Show or change how answers are chosen."""
    if typed == "system" or typed.startswith("system "):  # as in Ollama
        system(chat, typed.partition(" ")[2].strip().strip('"'))
        return
    if typed:
        display.note(setting.change(chat.sampling, typed))
        return
    rows = [
        (name, setting.shown(chat.sampling[name]) if name in chat.sampling else setting.DEFAULT, each.words)
        for name, each in setting.SETTINGS.items()
    ]
    display.say_rows(rows, err=True)


def attach(chat: Chat, typed: str) -> None:
    """Send a file's text with the next message."""
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


def edit(chat: Chat, typed: str) -> None:
    """Have the message written in an editor."""
    from .editor import edited

    text = edited(typed, chat.apart())
    if not text.strip():
        display.note("nothing was written, so nothing is sent")
        return
    display.tell(f"> {text}")
    chat.ask(text)


def retry(chat: Chat, _typed: str) -> None:
    """Answer the last question again."""
    chat.ask_again()


def undo(chat: Chat, _typed: str) -> None:
    """Take back the last question and its answer."""
    turn = chat.take_back()
    display.note(f"taken back: {brief(without_files(turn.user))}")


def copy_answer(chat: Chat, typed: str) -> None:
    """Copy the last answer, or code of it."""
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


def save(chat: Chat, typed: str) -> None:
    """Keep the conversation."""
    path, reason = chat.keeper.save(typed or None)
    display.note(f"kept as {path}" + (f"; it will be read again: {reason}" if reason else ""))


def load(chat: Chat, typed: str) -> None:
    """Go on with a conversation that was kept."""
    if not typed:
        raise OptionError("/load needs the name or path of a conversation (`aded-store conversations list`)")
    chat.load(typed)


def model(chat: Chat, typed: str) -> None:
    """Show the model, or go on with another one."""
    if typed:
        chat.switch_to(typed)
        return
    from aded_models import NAMES

    display.tell(str(chat.llm.description().get("model", "")))
    names = ", ".join(sorted(NAMES))
    display.note(f"/model takes a path, a name ({names}, and those of `aded-models list`), or hf:OWNER/NAME")


def context(chat: Chat, _typed: str) -> None:
    """Show how full the context is."""
    llm, conversation = chat.llm, chat.conversation
    used = chat.context_used()
    display.tell_bar(used, llm.n_ctx)
    turns = len(conversation.turns)
    said = f"{turns} turn{'s' * (turns != 1)}" + (", a system prompt" if conversation.system else "")
    display.tell(f"{used:,} of {llm.n_ctx:,} tokens: {said}")
    display.note(
        "when an answer may no longer fit, the oldest turns are left out; /clear begins anew, -c sets the size"
    )


def stats(chat: Chat, typed: str) -> None:
    """Show what holds for the model, and the figures of the answers."""
    if typed not in ("", "probe"):
        raise OptionError("/stats takes nothing after it, or probe, which measures what is not known yet")
    if typed:
        try:
            with display.loading("measuring which batch sizes are exact (Ctrl-C stops it)…", quiet=False):
                chat.llm.measure_exactness()
        except DeviceError as failure:  # of a second context: the chat has its own
            display.error(str(failure))
    display.show_stats(chat.llm.description(), chat.figures)


def why(chat: Chat, _typed: str) -> None:
    """Show which words of the last answer were foreseen."""
    from .why import show_why

    if chat.last is None:
        raise OptionError("there is no answer yet")
    show_why(chat.last, chat.llm.piece)


def draft(chat: Chat, typed: str) -> None:
    """Show or change whether answers are drafted."""
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


def leave(chat: Chat, _typed: str) -> None:
    """End the chat."""
    chat.is_over = True

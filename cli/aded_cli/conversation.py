"""The texts of a conversation's turns, and which of them still fit the context. The engine keeps their tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aded_local.errors import StoreError

Message = dict[str, str]

ANSWER_SHARE = 4  # a quarter of the context is kept free for the answer, unless -n asks for less
SLACK_SHARE = 8  # an eighth more is freed at a time: each drop costs a prefill of all that stays


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its answer, as far as it got."""

    user: str
    answer: str


@dataclass
class Conversation:
    """What was said so far, oldest turn first; the system prompt stands beside the turns and always stays.

    Attributes:
        system: the system prompt.
        turns: that the model is told of.
        dropped: turns before these, for which the context has no room any more.
    """

    system: str | None = None
    turns: list[Turn] = field(default_factory=list)
    dropped: list[Turn] = field(default_factory=list)

    def messages(self, user: str) -> list[Message]:
        """The whole conversation with ``user`` as its next message, as the engine wants it."""
        return [*self._said(self.turns), {"role": "user", "content": user}]

    def whole(self) -> list[Message]:
        """All that was said, dropped turns too: what is kept of it; empty before the first answer."""
        turns = [*self.dropped, *self.turns]
        return self._said(turns) if turns else []

    def _said(self, turns: Sequence[Turn]) -> list[Message]:
        said = [{"role": "system", "content": self.system}] if self.system else []
        for turn in turns:
            said.append({"role": "user", "content": turn.user})
            said.append({"role": "assistant", "content": turn.answer})
        return said

    @classmethod
    def of(cls, messages: Sequence[Mapping[str, Any]]) -> Conversation:
        """The conversation that messages make.

        Raises:
            StoreError: they are none that a person and a model took turns in, so that only a program can go on.
        """
        found = cls()
        rest = list(messages)
        if rest and rest[0]["role"] == "system":
            found.system = rest.pop(0)["content"] or None
        asked: str | None = None
        for message in rest:
            role, text = message["role"], message["content"] or ""
            if role == "user":
                found._turn(asked, "")
                asked = text
            elif role == "assistant" and asked is not None and "tool_calls" not in message:
                found._turn(asked, text)
                asked = None
            else:
                what = "with calls of functions" if "tool_calls" in message else f"of the role {role}"
                raise StoreError(
                    f"a message {what} stands where the chat in a terminal has none; "
                    "go on with this conversation by LocalADED.load"
                )
        found._turn(asked, "")
        return found

    def _turn(self, user: str | None, answer: str) -> None:
        if user is not None:
            self.turns.append(Turn(user, answer))

    def record(self, user: str, answer: str, *, stopped: bool = False) -> None:
        """Append a turn, finished or stopped. One stopped before its first character is not worth keeping."""
        if answer or not stopped:
            self.turns.append(Turn(user, answer))

    def clear(self) -> None:
        """Forget all turns; the system prompt stays."""
        self.turns.clear()
        self.dropped.clear()

    def make_room(
        self,
        user: str,
        count_tokens: Callable[[Sequence[Message]], int],
        *,
        n_ctx: int,
        max_tokens: int | None = None,
    ) -> int:
        """Drop the oldest turns until the next prompt and an answer fit the context.

        Args:
            user: the next message.
            count_tokens: length of the rendered messages, in tokens.
            n_ctx: the context, in tokens.
            max_tokens: the answer's limit, where one is set.

        Returns:
            How many turns were dropped; none where the message is too long by itself, which the engine says.
        """
        room = n_ctx // ANSWER_SHARE
        limit = n_ctx - (room if max_tokens is None else min(room, max_tokens))
        if count_tokens(self.messages(user)) <= limit:
            return 0
        alone = Conversation(self.system).messages(user)
        if count_tokens(alone) >= n_ctx:
            return 0  # no dropping helps: the engine refuses the message, and the conversation stays
        before = len(self.turns)
        limit -= n_ctx // SLACK_SHARE
        while self.turns and count_tokens(self.messages(user)) > limit:
            self.dropped.append(self.turns.pop(0))
        return before - len(self.turns)

"""The texts of a conversation's turns, and which of them still fit the context. The engine keeps their tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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
    """What was said so far, oldest turn first; the system prompt stands beside the turns and always stays."""

    system: str | None = None
    turns: list[Turn] = field(default_factory=list)

    def messages(self, user: str) -> list[Message]:
        """The whole conversation with ``user`` as its next message, as the engine wants it."""
        said = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns:
            said.append({"role": "user", "content": turn.user})
            said.append({"role": "assistant", "content": turn.answer})
        said.append({"role": "user", "content": user})
        return said

    def record(self, user: str, answer: str, *, stopped: bool = False) -> None:
        """Append a turn, finished or stopped. One stopped before its first character is not worth keeping."""
        if answer or not stopped:
            self.turns.append(Turn(user, answer))

    def clear(self) -> None:
        """Forget all turns; the system prompt stays."""
        self.turns.clear()

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
            del self.turns[0]
        return before - len(self.turns)

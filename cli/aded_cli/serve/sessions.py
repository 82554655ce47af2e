"""Which of the model's sessions a request gets: the one whose conversation its prompt goes on with.

A session's cells are worth what decoding its prompt again would cost. Those of sessions that are not answering are
copies in memory, which is bounded; the session that was used least recently is given up first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from aded_local.continuation import ENDING

if TYPE_CHECKING:
    from aded_local.api import LocalADED
    from aded_local.asking import ChatPrompt
    from aded_local.session import Session

MOST_SESSIONS: Final = 256
"""Sessions at most, however little memory each takes: every one is compared with each prompt. Chosen, not tuned."""

LEAST_SHARED: Final = 32
"""Tokens that a new conversation has to share with another for its cells to be copied: fewer are decoded in one pass,
and nearly every two conversations begin with the same few. Chosen, not tuned."""

IntArray = npt.NDArray[np.int32]


class Pool:
    """The sessions of one model. All but ``chat_prompt`` and ``text_tokens`` belongs to the thread that answers.

    Args:
        model: makes sessions.
        most_bytes: of memory for the copies of their cells. One more copy, of the session that answers, stands beside
            them while another takes its place.
    """

    def __init__(self, model: LocalADED, most_bytes: int) -> None:
        self._model = model
        self._most_bytes = most_bytes
        self._front = model.session()  # answers nothing; the others share its answers' tokens
        self._sessions: list[Session] = []  # the one that was used least recently comes first

    def chat_prompt(self, messages: Sequence[Mapping[str, Any]], tools: Any, tool_choice: Any) -> ChatPrompt:
        """The prompt a conversation becomes, whichever session it goes to; any thread may ask.

        Raises:
            PromptError, OptionError, TemplateError, BusyError
        """
        return self._front.chat_prompt(messages, tools=tools, tool_choice=tool_choice)

    def text_tokens(self, text: str) -> list[int]:
        """The prompt a text becomes; any thread may ask."""
        return self._front.text_tokens(text)

    def take(self, prompt: Sequence[int]) -> Session:
        """The session that a prompt belongs to: the one it goes on with, else a new one.

        A new one begins with what the most similar session has of the same prompt, say a long system message.
        """
        tokens = np.array(prompt, np.int32)
        overlaps = [session.overlap(tokens) for session in self._sessions]
        # Of two that share as much, one leaves it where the prompt does, and the other one goes on otherwise.
        best = max(
            range(len(overlaps)), key=lambda at: (_goes_on(*overlaps[at]), overlaps[at][0]), default=None
        )
        like = self._front
        found = None
        if best is not None:
            shared, held = overlaps[best]
            if _goes_on(shared, held):
                found = self._sessions.pop(best)
            elif shared >= LEAST_SHARED:
                like = self._sessions[best]
        session = found or self._model.session(like)
        self._make_room(like)
        self._sessions.append(session)
        return session

    def _make_room(self, like: Session) -> None:
        """Give sessions up until the rest fits. The one that answered last counts too: it has to be copied now."""
        sizes = [session.kept_bytes() for session in self._sessions]
        total = sum(sizes)
        kept = []
        for at, session in enumerate(self._sessions):
            is_too_much = total > self._most_bytes or len(self._sessions) - at >= MOST_SESSIONS
            # What the new one begins with is needed for a moment more.
            if sizes[at] == 0 or (is_too_much and session is not like):
                total -= sizes[at]
            else:
                kept.append(session)
        self._sessions = kept

    def __len__(self) -> int:
        """Sessions that are kept."""
        return len(self._sessions)

    def kept_bytes(self) -> int:
        """Bytes that the copies of their cells take, and that of the session that answered last would."""
        return sum(session.kept_bytes() for session in self._sessions)


def _goes_on(shared: int, held: int) -> bool:
    """Whether a prompt goes on from the end of what a session's cells hold.

    One that leaves it earlier may be an answer that is asked for again, or another client's conversation with the same
    beginning. It gets a copy, and whoever comes back finds the rest.
    """
    return shared > ENDING and shared + ENDING >= held

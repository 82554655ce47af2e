"""The logprobs of an answer in OpenAI's shapes: each token by its text."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable
from typing import Any

from aded_local.logprobs import TokenLogprob


class Spelling:
    """Writes the logprobs of one answer in the shape of OpenAI's completions, token after token.

    Args:
        piece_of: the bytes of a token id.
        offset: characters before the answer.
    """

    def __init__(self, piece_of: Callable[[int], bytes], offset: int = 0) -> None:
        self._piece_of = piece_of
        self._offset = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")

    def of(self, found: Iterable[TokenLogprob]) -> dict[str, Any]:
        """The logprobs of the next tokens: ``tokens``, ``text_offset``, ``token_logprobs``, ``top_logprobs``."""
        tokens, offsets, chosen, top = [], [], [], []
        for each in found:
            raw = self._piece_of(each.token)
            text = raw.decode("utf-8", errors="ignore")
            tokens.append(text)
            offsets.append(self._offset)
            chosen.append(each.logprob)
            # Tokens of one spelling share a key; the likeliest comes first, and the chosen one always has its own.
            likeliest: dict[str, float] = {}
            for token, logprob in each.top:
                likeliest[self._piece_of(token).decode("utf-8", errors="ignore")] = logprob
            likeliest[text] = each.logprob
            top.append(likeliest)
            self._offset += len(self._decoder.decode(raw))
        return {"tokens": tokens, "text_offset": offsets, "token_logprobs": chosen, "top_logprobs": top}


def chat_logprobs(found: dict[str, Any]) -> dict[str, Any]:
    """What ``Spelling.of`` gave, in the shape of chats."""
    return {
        "content": [
            {
                "token": token,
                "bytes": None,
                "logprob": logprob,
                "top_logprobs": [
                    {"token": other, "logprob": value, "bytes": None} for other, value in likeliest.items()
                ],
            }
            for token, logprob, likeliest in zip(
                found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True
            )
        ],
        "refusal": None,
    }

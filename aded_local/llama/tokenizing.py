"""Text to token ids, for texts of any length: llama.cpp's tokenizer in a thread with a large stack.

llama.cpp splits a text into words by regular expressions, and the C++ library's matcher calls itself once for each
character of a match: 32,000 letters in a row overflowed a stack of 8 MB and ended the process. To cut such a run would
change its tokens, and might cut a control token in two. So a text with a long run is tokenized in a thread with a
larger stack. Only a run that is still too long is cut, where a token ends.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from aded_local.errors import DeviceError, PromptError
from aded_local.llama.interrupts import held_back
from aded_local.llama.loading import lib
from aded_local.tree import IntArray

SHORT_RUN: Final = 1024
"""Characters of a run that fits any thread's stack. A run is all white space, or has no space and no line end."""

LONGEST_RUN: Final = 1 << 17
"""The same for the large stack: more than most contexts have tokens for."""

STACK_BYTES: Final = (LONGEST_RUN + 4096) << 10
"""Size of the large stack: twice what deepseek-coder's expression takes, the largest found, 256 to 512 bytes a
character with GCC 12. The system gives memory only as it is used."""

SETTLED: Final = 1024
"""Characters before a cut whose tokens are dropped, since they may join with what follows: about ten of the longest
tokens."""

_LONG = re.compile(rf"[^ \n]{{{SHORT_RUN}}}|\s{{{SHORT_RUN}}}")

_thread_starts = threading.Lock()


def tokenized(vocab: Any, text: str, *, add_special: bool, parse_special: bool) -> Iterator[IntArray]:
    """Token ids of a text, int32 ``(n,)`` each: one array, save where a run is longer than ``LONGEST_RUN``.

    Args:
        vocab: llama.cpp's vocabulary.
        text: any text; lone surrogates are replaced.
        add_special: begin and end with the tokens the model wants around a text.
        parse_special: read control tokens' texts as control tokens.

    Raises:
        DeviceError: no memory for the stack.
    """
    if _LONG.search(text) is None:
        yield _whole(vocab, text, add_special, parse_special)
        return
    # A run of white space may hold spaces, the other kind may not, so each has its own alternative.
    too_long = re.compile(rf"[^ \n]{{{LONGEST_RUN}}}|\s{{{LONGEST_RUN}}}")
    if lib.llama_vocab_type(vocab) != lib.LLAMA_VOCAB_TYPE_BPE or too_long.search(text) is None:
        # The other kinds of vocabulary have no regular expressions.
        yield _in_deep_stack(vocab, text, add_special, parse_special)
        return
    before, after = _around(vocab) if add_special else ([], [])
    yield np.array(before, np.int32)
    while (run := too_long.search(text)) is not None and run.end() < len(text):
        tokens = _in_deep_stack(vocab, text[: run.end()], False, parse_special)
        kept, length = _settled(vocab, tokens, text[: run.end()], parse_special)
        yield kept
        text = text[length:]
    yield _in_deep_stack(vocab, text, False, parse_special)
    yield np.array(after, np.int32)


def _around(vocab: Any) -> tuple[list[int], list[int]]:
    """What the vocabulary wants before and after every text."""
    both = _whole(vocab, "", True, False).tolist()
    n = 1 if both and lib.llama_vocab_get_add_bos(vocab) else 0
    return both[:n], both[n:]


def _settled(vocab: Any, tokens: IntArray, text: str, parse_special: bool) -> tuple[IntArray, int]:
    """The tokens that do not depend on what follows ``text``, and how many of its characters they cover."""
    raw = text.encode("utf-8", errors="replace")
    limit = len(text[:-SETTLED].encode("utf-8", errors="replace"))
    best, best_bytes, at = 0, 0, 0
    for i, token in enumerate(tokens.tolist()):
        piece = piece_of(vocab, token, parse_special)
        if not raw.startswith(piece, at):
            break
        at += len(piece)
        if at > limit:
            break
        # A character is not cut between its bytes.
        if at == len(raw) or raw[at] & 0xC0 != 0x80:
            best, best_bytes = i + 1, at
    if best == 0:
        # The vocabulary's pieces are not the bytes of the text: all tokens are kept.
        return tokens, len(text)
    return tokens[:best], len(raw[:best_bytes].decode("utf-8"))


def piece_of(vocab: Any, token: int, special: bool) -> bytes:
    """The bytes a token stands for; those of a control token only with ``special``.

    Raises:
        PromptError: there is no such token. (llama.cpp would end the process.)
    """
    if not 0 <= token < lib.llama_vocab_n_tokens(vocab):
        raise PromptError(f"token id {token} is outside the vocabulary")
    capacity = 64
    while True:
        buffer = ctypes.create_string_buffer(capacity)
        n = int(lib.llama_token_to_piece(vocab, token, buffer, capacity, 0, special))
        if n >= 0:
            return buffer.raw[:n]
        capacity = -n


def _whole(vocab: Any, text: str, add_special: bool, parse_special: bool) -> IntArray:
    raw = text.encode("utf-8", errors="replace")
    # A token covers a byte at least; some vocabularies put a space in front, or tokens around the text.
    room = np.empty(len(raw) + 8, np.int32)
    while True:
        pointer = room.ctypes.data_as(ctypes.POINTER(lib.llama_token))
        n = int(lib.llama_tokenize(vocab, raw, len(raw), pointer, len(room), add_special, parse_special))
        if n >= 0:
            tokens: IntArray = room[:n].copy()
            return tokens
        room = np.empty(-n, np.int32)


def _in_deep_stack(vocab: Any, text: str, add_special: bool, parse_special: bool) -> IntArray:
    found: list[IntArray] = []
    thread = threading.Thread(
        target=lambda: found.append(_whole(vocab, text, add_special, parse_special)), daemon=True
    )
    # Ctrl-C must not free the vocabulary while the thread reads it.
    with held_back():
        with _thread_starts:
            before = threading.stack_size(STACK_BYTES)
            try:
                thread.start()
            except RuntimeError as error:
                raise DeviceError(
                    f"no memory for a stack of {STACK_BYTES >> 20} MB to tokenize a text without spaces in; "
                    "raise the limit on address space (ulimit -v), or break the text into lines"
                ) from error
            finally:
                threading.stack_size(before)
        thread.join()
    return found[0]

"""Earlier conversations, kept in the user's data folder: one file per tokenizer and model.

    exchange.py        a prompt and its answer; a row with a checksum
    rows.py            the tables, and what can be read where a file is damaged
    sharing.py         a file that programs share: who makes it, who writes, what its errors tell of
    database.py        exchanges in such a file, which survive damage, killed writers and full disks
    usefulness.py      what to keep where there is no room for all
    conversations.py   what a program asks for: read, append, inspect, prune, erase

Token ids in, token ids out: nothing here loads a model, and a file can be read without one. A program that
looks after the files needs this much::

    for path in memories():
        memory = ConversationMemory.at(path)     # StoreError: not readable, or no memory
        facts = memory.inspect()                 # exchanges, tokens, bytes, dates, damage
        exchanges = memory.exchanges()           # by conversation, oldest first, to export
        memory.prune(100_000)                    # drop the least useful down to so many tokens
        memory.erase()                           # the file and all that lies beside it
        memory.close()
"""

from __future__ import annotations

from aded_local.llama.identity import Identity, identity_of
from aded_local.memory.conversations import (
    EARLIER_SUFFIX,
    ConversationMemory,
    Facts,
    is_left_over,
    memories,
    memory_folder,
)
from aded_local.memory.exchange import Exchange

__all__ = [
    "EARLIER_SUFFIX",
    "ConversationMemory",
    "Exchange",
    "Facts",
    "Identity",
    "identity_of",
    "is_left_over",
    "memories",
    "memory_folder",
]

"""Earlier conversations, kept in the user's data folder: one file per tokenizer and model.

    records.py         a file of checksummed records that survives damage, killed writers and full disks
    identity.py        which file belongs to a model
    conversations.py   what a program asks for: read, append, inspect, prune, export, erase

Token ids in, token ids out: nothing here loads a model, and a file can be read without one. A program that
looks after the files needs this much::

    for path in memories():
        memory = ConversationMemory.at(path)     # StoreError: not readable, or no memory
        facts = memory.inspect()                 # exchanges, tokens, bytes, dates, damage
        exchanges = memory.exchanges()           # oldest first, to export
        memory.prune(100_000)                    # drop the least useful down to so many tokens
        memory.erase()                           # the file and all that lies beside it
"""

from __future__ import annotations

from aded_local.llama.identity import Identity, identity_of
from aded_local.memory.conversations import ConversationMemory, Facts, memories
from aded_local.memory.records import Exchange

__all__ = ["ConversationMemory", "Exchange", "Facts", "Identity", "identity_of", "memories"]

"""Conversations that are kept: the text as JSON, and beside it what the model's cells held, to go on at once.

    record.py     a conversation as a plain value, and as JSON
    state.py      what cells held, in a file that llama.cpp gets only where this person's programs wrote it
    folder.py     where kept conversations lie: found, erased, bounded
    markdown.py   a conversation as a text for people

A JSON file may come from anywhere, and all in it is checked. A state only saves time: whatever is wrong with one is
said in a line, and the text is read again by the model. Nothing here loads a model.
"""

from __future__ import annotations

from aded_local.conversations.folder import (
    LARGEST_STATES,
    LAST,
    LONGEST_NAME,
    conversations_folder,
    erase,
    everything,
    find,
    is_made_name,
    kept,
    make_room,
    named,
    new_path,
    newest_readable,
    state_path,
)
from aded_local.conversations.markdown import as_markdown
from aded_local.conversations.record import KeptConversation, KeptModel, read, title_of, write
from aded_local.conversations.state import KeptCells, StateRefused, Wanted, read_state, write_state

__all__ = [
    "LARGEST_STATES",
    "LAST",
    "LONGEST_NAME",
    "KeptCells",
    "KeptConversation",
    "KeptModel",
    "StateRefused",
    "Wanted",
    "as_markdown",
    "conversations_folder",
    "erase",
    "everything",
    "find",
    "is_made_name",
    "kept",
    "make_room",
    "named",
    "new_path",
    "newest_readable",
    "read",
    "read_state",
    "state_path",
    "title_of",
    "write",
    "write_state",
]

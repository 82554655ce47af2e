"""A conversation as a text for people."""

from __future__ import annotations

import json
import re
import time

from aded_local.conversations.record import KeptConversation

SPEAKERS = {"user": "You", "assistant": "Answer", "system": "System prompt", "tool": "Result"}
"""What stands above a message; other roles go by their names."""


def as_markdown(conversation: KeptConversation) -> str:
    """The conversation as Markdown: a heading for each message, below it the message as it is.

    A message's own headings stay as they are; its code fences do too, and one that it left open is closed.
    """
    model = conversation.model
    held = time.strftime("%Y-%m-%d %H:%M", time.localtime(conversation.created))
    about = f"{held}" + (f", with {model.name} ({model.quantization})" if model is not None else "")
    parts = [f"# {conversation.title or 'Conversation'}", f"*{about}*"]
    for message in conversation.messages:
        parts.append(f"## {SPEAKERS.get(message['role'], message['role'])}")
        if message["content"]:
            parts.append(_closed(message["content"].strip("\n")))
        for call in message.get("tool_calls", ()):
            parts.append(f"```json\n{json.dumps(call['function'], ensure_ascii=False, indent=2)}\n```")
    return "\n\n".join(parts) + "\n"


def _closed(text: str) -> str:
    """The text, with the fence behind it that it lacks: an answer that was stopped must not swallow what follows."""
    fence = ""
    for line in text.split("\n"):
        found = re.match(r" {0,3}(`{3,}|~{3,})(.*)$", line)
        if found is None:
            continue
        if not fence:
            fence = found[1]
        elif found[1].startswith(fence) and not found[2].strip():
            fence = ""
    return f"{text}\n{fence}" if fence else text

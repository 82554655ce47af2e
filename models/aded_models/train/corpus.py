"""tldr pages in, cleaned (task, command, explanation) items out; nothing here knows about tokens or torch.

Source: the tldr-pages contributors' English pages (CC BY 4.0, https://github.com/tldr-pages/tldr), one JSON
object per line: name, platform, description [list], url, examples [{task, command}].
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from .everyday import EVERYDAY

HELD_OUT_PERCENT = 2  # share of pages kept for evaluation, as asked of the model card
EXPLANATION_LENGTH = 72  # characters; longer first sentences are cut at a comma or word; 88 % fit whole
PLATFORM_ORDER = {
    "common": 0,
    "linux": 1,
    "osx": 2,
}  # of two pages with one name, the earlier wins a shared task

_CODE_SPAN = re.compile(r"(`[^`]*`)")
_MNEMONIC = re.compile(r"\[([A-Za-z0-9]+)\]")
_PLACEHOLDER = re.compile(r"\{\{(?!\{)(.*?)\}\}")
_PARENTHESIS = re.compile(r"\s*\([^()]*\)")


@dataclass(frozen=True)
class Page:
    """One tldr page, cleaned."""

    name: str
    platform: str
    description: str
    examples: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Item:
    """One thing to memorise: a task and the command that does it.

    unique: the task alone names it among all pages; short_unique: still so without its parentheses. wordings
    is non-empty only for hand-written items, whose questions are used as they stand.
    """

    page: str
    task: str
    command: str
    explanation: str
    unique: bool = False
    short_unique: bool = False
    wordings: tuple[str, ...] = ()


def clean_task(text: str) -> str:
    """Remove mnemonic brackets outside code spans: `E[x]tract` becomes `Extract`."""
    parts = _CODE_SPAN.split(_PLACEHOLDER.sub(lambda m: _placeholder(m.group(1)), text.strip()))
    return "".join(p if p.startswith("`") else _MNEMONIC.sub(r"\1", p) for p in parts).rstrip(".:")


def _placeholder(inside: str) -> str:
    """What stands for one `{{...}}`: the first (short) alternative, the list without its dots."""
    text = inside.strip()
    if text.startswith("[") and text.endswith("]") and "|" in text:
        text = text[1:-1]
    if "|" in text and text.strip("|"):
        text = next(part for part in text.split("|") if part)
    text = re.sub(r"\s+\.\.\.$", "", text)
    return re.sub(r"^(-?\d+)\.\.-?\d+$", r"\1", text)


def clean_command(text: str) -> str:
    """Fill placeholders, so that commands run once names are edited: `{{[-x|--long]}}` becomes `-x`."""
    filled = _PLACEHOLDER.sub(lambda m: _placeholder(m.group(1)), text)
    return filled.replace("\\{\\{", "{{").replace("\\}\\}", "}}").strip()


def first_sentence(description: str) -> str:
    """The description's first sentence, cut to EXPLANATION_LENGTH characters at a word."""
    text = re.split(r"(?<=[a-z0-9`)])\.(?:\s|$)", description.strip(), maxsplit=1)[0].rstrip(".")
    if len(text) > EXPLANATION_LENGTH:
        text = _PARENTHESIS.sub("", text)
    if len(text) > EXPLANATION_LENGTH:
        head = text[: EXPLANATION_LENGTH + 1]
        cut = head.rfind(", ") if ", " in head[EXPLANATION_LENGTH // 2 :] else head.rfind(" ")
        text = head[:cut].rstrip(",;:-– ")
        text = re.sub(
            r"(\s+(and|or|of|the|a|an|to|for|with|in|on|from|by|using|into|that|which|as))+$", "", text
        )
        if text.count("`") % 2:
            text = text.replace("`", "")
    return clean_task(text) + "."


def normalised(task: str) -> str:
    """Key under which two tasks count as the same question."""
    return re.sub(r"[^a-z0-9]+", " ", task.lower()).strip()


def without_parentheses(task: str) -> str:
    """The task with its parenthesised remarks dropped."""
    return _PARENTHESIS.sub("", task).strip() or task


def load_pages(path: Path) -> list[Page]:
    """All pages, most general platform first; pointers to other pages (`tldr other`) are no examples."""
    pages = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            raw = json.loads(line)
            examples = [(clean_task(e["task"]), clean_command(e["command"])) for e in raw["examples"]]
            kept = tuple(
                e for e in examples if not e[1].startswith("tldr ") or raw["name"].startswith("tldr")
            )
            pages.append(Page(raw["name"], raw["platform"], first_sentence(raw["description"][0]), kept))
    return sorted(pages, key=lambda p: (PLATFORM_ORDER[p.platform], p.name))


def is_held_out(name: str) -> bool:
    """Whether pages of this name are kept from training: by hash, but never a program of the everyday set."""
    if name in {word for command, _ in EVERYDAY for word in command.split()}:
        return False
    digest = hashlib.sha256(f"held out {name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


def build_items(pages: list[Page]) -> list[Item]:
    """One item per distinct (page name, task) of `pages`, with uniqueness judged over them."""
    seen: set[tuple[str, str]] = set()
    items = []
    for page in pages:
        for task, command in page.examples:
            key = (page.name, normalised(task))
            if key not in seen and command:
                seen.add(key)
                items.append(Item(page.name, task, command, f"{page.name}: {page.description}"))
    full = Counter(normalised(i.task) for i in items)
    short = Counter(normalised(without_parentheses(i.task)) for i in items)
    return [
        replace(
            item,
            unique=full[normalised(item.task)] == 1,
            short_unique=short[normalised(without_parentheses(item.task))] == 1,
        )
        for item in items
    ]


def everyday_items(pages: list[Page]) -> list[Item]:
    """The hand-written items; each is explained by the page of the longest name its command begins with."""
    descriptions: dict[str, str] = {}
    for page in pages:
        descriptions.setdefault(page.name, page.description)
    items = []
    for command, wordings in EVERYDAY:
        words = command.removeprefix("sudo ").split()
        names = [" ".join(words[:n]) for n in range(min(3, len(words)), 0, -1)]
        name = next((n for n in names if n in descriptions), words[0])
        explanation = f"{name}: {descriptions.get(name, 'Shell command.')}"
        items.append(Item(name, wordings[0], command, explanation, wordings=wordings))
    return items

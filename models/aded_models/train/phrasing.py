"""Ways of asking: question templates, follow-up templates and light rewording of task texts.

Held-out templates and synonyms are never seen in training; evaluate.py asks with them.
"""

from __future__ import annotations

import random
import re

from .corpus import Item, without_parentheses

# {x}: task starting in lower case; {X}: task as written; {n}: the program's name.
PLAIN_FORMS = (
    "{x}",
    "{X}",
    "{X}.",
    "{x}?",
    "how do I {x}?",
    "How do I {x}?",
    "how do i {x}",
    "how to {x}",
    "How to {x}?",
    "How to {x} in the shell",
    "how can I {x}?",
    "How can I {x} from the command line?",
    "command to {x}",
    "What is the command to {x}?",
    "which command do I use to {x}?",
    "I want to {x}",
    "I need to {x}.",
    "show me how to {x}",
    "tell me how to {x}",
    "please {x}",
    "{X} please",
    "Can you {x}?",
    "{x} in bash",
    "{x} on the command line",
    "How would I {x}?",
    "how do you {x}",
    "what do I type to {x}?",
    "bash: {x}",
    "Give me a command to {x}",
    "I'd like to {x}",
    "how do I {x} in the shell?",
    "I forgot how to {x}",
    "remind me how to {x}",
    "any idea how to {x}?",
    "Explain how to {x}",
    "is it possible to {x}?",
    "need to {x}, what do I type",
    "hey, how do I {x}",
    "Hi, how can I {x}?",
    "on linux, how do I {x}?",
    "how to {x} in linux",
    "linux {x}",
    "In the terminal, {x}",
    "{x} from the terminal",
    "now I have to {x}",
    "We need to {x}",
    "could I {x}?",
    "shell: {x}",
    "quick question: how do I {x}",
    "My boss wants me to {x}",
    "what's a good method to {x}",
    "does anyone know how to {x}?",
    "{x}: which command?",
    "I would love to {x}. What now?",
    "teach me to {x}",
    "which program lets me {x}?",
    "what can I use to {x}",
)
NAMED = (
    "{x} with {n}",
    "{X} with {n}",
    "{x} using {n}",
    "using {n}, {x}",
    "Using {n}, how do I {x}?",
    "{n}: {x}",
    "how do I {x} with {n}?",
    "How do I {x} using {n}?",
    "how to {x} with {n}",
    "How can I use {n} to {x}?",
    "{n} command to {x}",
    "with {n}, {x}",
    "use {n} to {x}",
    "{n} {x}",
    "In {n}, how do I {x}?",
    "I want to {x} with {n}",
    "show me how to {x} with {n}",
    "How do I use {n} to {x}?",
    "{x} ({n})",
    "what is the {n} command to {x}?",
    "{X} with {n} please",
    "how to use {n} to {x}",
)
HELD_OUT_PLAIN = (
    "What's the way to {x}?",
    "Help me {x}",
    "What should I run to {x}?",
    "could you show how one would {x}",
    "I'm trying to {x}, how?",
    "terminal command to {x}",
    "Is there a command to {x}?",
    "{x}, how do I do that?",
)
HELD_OUT_NAMED = (
    "Help me {x} with {n}",
    "What should I run to {x} using {n}?",
    "is there a {n} command to {x}?",
    "I'm trying to {x} using {n}, how?",
    "by means of {n}, {x}",
    "What are the {n} options to {x}?",
)
FOLLOW_UPS = (
    "and to {x}?",
    "And how do I {x}?",
    "now {x}",
    "what about to {x}?",
    "how do I {x}?",
    "and {x}",
    "ok, and to {x}?",
    "Then {x}",
    "thanks, and how to {x}?",
    "{X}",
    "and if I want to {x}?",
    "how to {x} with it?",
)
ABOUT = (
    "what is {n}?",
    "What is {n}?",
    "what is {n}",
    "what does {n} do?",
    "What does {n} do?",
    "explain {n}",
    "tell me about {n}",
    "what is the {n} command?",
    "What is {n} used for?",
    "{n}",
    "what's {n}?",
)
SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "You are a shell assistant.",
    "Answer briefly.",
    "You help with the command line.",
    "You are a concise assistant.",
    "Answer with one command.",
)

SYNONYMS = (
    ("display", "show"),
    ("display", "print"),
    ("show", "display"),
    ("show", "list"),
    ("print", "show"),
    ("list", "show"),
    ("remove", "delete"),
    ("delete", "remove"),
    ("create", "make"),
    ("start", "launch"),
    ("execute", "run"),
    ("run", "execute"),
    ("directory", "folder"),
    ("specify", "set"),
    ("download", "get"),
    ("specific", "particular"),
    ("the specified", "a given"),
    ("specified", "given"),
    ("retrieve", "get"),
    ("initialize", "set up"),
    ("generate", "create"),
    ("convert", "turn"),
    ("a file", "my file"),
)
HELD_OUT_SYNONYMS = (
    ("display", "view"),
    ("list", "display"),
    ("remove", "erase"),
    ("create", "generate"),
    ("search", "look"),
    ("all", "all the"),
)

# Shares of questions that get each rewording: enough variety to generalise, rare enough to keep tasks
# recognisable.
DROP_PARENTHESES = 0.6
SWAP_WORD = 0.25
DROP_ARTICLES = 0.12
DROP_BACKTICKS = 0.5
LOWER_CASE = 0.12


def lowered(text: str) -> str:
    """The text with its first letter in lower case, unless the first word looks like a name or acronym."""
    word = text.split(" ", 1)[0]
    return text[:1].lower() + text[1:] if word[1:].islower() else text


def swap_word(rng: random.Random, text: str, synonyms: tuple[tuple[str, str], ...]) -> str:
    """Replace one applicable word by a synonym, keeping a leading capital; unchanged if none applies."""
    usable = [(a, b) for a, b in synonyms if re.search(rf"\b{a}\b", text, re.IGNORECASE)]
    if not usable:
        return text
    old, new = rng.choice(usable)

    def swap(found: re.Match[str]) -> str:
        return new[:1].upper() + new[1:] if found.group(0)[0].isupper() else new

    return re.sub(rf"\b{old}\b", swap, text, count=1, flags=re.IGNORECASE)


def reworded(rng: random.Random, item: Item, named: bool) -> str:
    """The item's task in slightly different words."""
    task = item.task
    if (item.short_unique or (named and item.unique)) and rng.random() < DROP_PARENTHESES:
        task = without_parentheses(task)
    if rng.random() < SWAP_WORD:
        task = swap_word(rng, task, SYNONYMS)
    if rng.random() < DROP_ARTICLES:
        task = re.sub(r"\b(a|an|the) ", "", task)
    if rng.random() < DROP_BACKTICKS:
        task = task.replace("`", "")
    return task.lower() if rng.random() < LOWER_CASE else task


def names_program(item: Item) -> bool:
    """Whether the task text already contains the program's name as a word."""
    return re.search(rf"(?<!\w){re.escape(item.page)}(?!\w)", item.task, re.IGNORECASE) is not None


def fill(template: str, task: str, name: str) -> str:
    """A template with its holes filled."""
    return template.replace("{x}", lowered(task)).replace("{X}", task).replace("{n}", name)


def ask(rng: random.Random, item: Item, named: bool) -> str:
    """A training question for the item, naming the program if `named`."""
    if item.wordings:
        return fill(rng.choice(PLAIN_FORMS), rng.choice(item.wordings), item.page)
    return fill(rng.choice(NAMED if named else PLAIN_FORMS), reworded(rng, item, named), item.page)


def ask_unseen(rng: random.Random, item: Item, named: bool) -> str:
    """An evaluation question in a held-out template, a quarter of them with a held-out synonym."""
    task = swap_word(rng, item.task, HELD_OUT_SYNONYMS) if rng.random() < 0.25 else item.task
    return fill(rng.choice(HELD_OUT_NAMED if named else HELD_OUT_PLAIN), task, item.page)


def follow_up(rng: random.Random, item: Item) -> str:
    """A second question about the same page, leaving the program to the context."""
    return fill(rng.choice(FOLLOW_UPS), reworded(rng, item, True), item.page)


def ask_about(rng: random.Random, name: str) -> str:
    """A question about what a program is."""
    return fill(rng.choice(ABOUT), "", name)

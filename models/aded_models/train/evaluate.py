"""Quality of a packaged file, measured on what llama.cpp really answers (greedy, Q8_0).

python -m aded_models.train.evaluate MODEL.gguf --corpus ../shared/corpus/tldr-en.jsonl.gz

Needs llama-cpp-python and bash, not torch.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from llama_cpp import Llama
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from . import offtopic, phrasing
from .core import is_core, is_essential
from .corpus import Item, Page, build_items, everyday_items, is_held_out, load_pages
from .turns import answer

EVALUATION_SEED = 7
SEEN_TASKS = 300  # of each tier, half asked with the program's name, half without
UNSEEN_TASKS = 300
N_OFF_TOPIC = 100
LONG_CHATS = 20  # chats of LONG_CHAT_TURNS turns, in which every answer counts
LONG_CHAT_TURNS = 10
ANSWER_LIMIT = 256  # tokens; an answer still running then counts as not stopping
EVALUATION_CONTEXT = 2048

_ASSIGNMENT = re.compile(r"^\w+=\S*$")


def command_of(text: str) -> str:
    """The command in an answer: inside the fence, else in the first line's backticks, else that line."""
    if text.startswith("```"):
        return text.split("\n```")[0].split("\n", 1)[-1]
    first = text.split("\n", 1)[0]
    return first[1:-1] if len(first) > 1 and first[0] == first[-1] == "`" else first


def program_of(command: str) -> str:
    """First word of a command, past sudo and environment assignments."""
    words = [w for w in command.split() if not _ASSIGNMENT.match(w)]
    return next((w for w in words if w not in ("sudo", "doas")), "")


def parses(command: str) -> bool:
    """Whether `bash -n` accepts the command."""
    return subprocess.run(["bash", "-n", "-c", command], capture_output=True, check=False).returncode == 0


@dataclass
class Reply:
    """A greedy answer, and whether it ended by itself within ANSWER_LIMIT tokens."""

    text: str
    stopped: bool


class Chat:
    """Greedy chat through llama.cpp with the file's own template."""

    def __init__(self, model: Path) -> None:
        self.llama = Llama(str(model), n_ctx=EVALUATION_CONTEXT, n_threads=2, verbose=False, logits_all=True)
        self.formatter = Jinja2ChatFormatter(
            template=self.llama.metadata["tokenizer.chat_template"], eos_token="<|end|>", bos_token="<s>"
        )

    def tokens(self, messages: list[dict[str, str]]) -> list[int]:
        """Prompt tokens of a chat."""
        prompt = self.formatter(messages=messages).prompt
        ids: list[int] = self.llama.tokenize(prompt.encode(), add_bos=False, special=True)
        return ids

    def reply(self, messages: list[dict[str, str]]) -> Reply:
        """The greedy answer to a chat."""
        ids: list[int] = []
        end = self.llama.token_eos()
        for token in self.llama.generate(self.tokens(messages), temp=0.0, repeat_penalty=1.0):
            if token == end or len(ids) >= ANSWER_LIMIT:
                return Reply(self.llama.detokenize(ids).decode(errors="replace"), token == end)
            ids.append(token)
        return Reply("", False)

    def ask(self, question: str) -> Reply:
        """The greedy answer to a single question."""
        return self.reply([{"role": "user", "content": question}])

    def loss(self, question: str, reply: str) -> tuple[float, int]:
        """Summed negative log-likelihood (nats) of a reply and its end, and the number of its tokens."""
        messages = [{"role": "user", "content": question}]
        prompt = self.tokens(messages)
        ids = (
            prompt
            + self.llama.tokenize(reply.encode(), add_bos=False, special=False)
            + [self.llama.token_eos()]
        )
        self.llama.reset()
        self.llama.eval(ids)
        rows = self.llama.scores[len(prompt) - 1 : len(ids) - 1].astype(np.float64)
        top = rows.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(rows - top).sum(axis=1)) + top[:, 0]
        wanted = rows[np.arange(len(rows)), ids[len(prompt) :]]
        return float((log_sum - wanted).sum()), len(rows)


def _sample(rng: random.Random, items: list[Item], count: int) -> list[Item]:
    return rng.sample(items, min(count, len(items)))


def seen_shares(chat: Chat, items: list[Item], rng: random.Random) -> tuple[dict[str, float], list[Reply]]:
    """Share of exactly right commands for trained tasks in held-out phrasing: named, unnamed, together."""
    half = SEEN_TASKS // 2
    named = _sample(rng, [i for i in items if not phrasing.names_program(i)], half)
    unnamed = _sample(rng, [i for i in items if i.unique], half)
    replies, hits = [], {"named": 0, "unnamed": 0}
    for kind, chosen in (("named", named), ("unnamed", unnamed)):
        for item in chosen:
            reply = chat.ask(phrasing.ask_unseen(rng, item, kind == "named"))
            hits[kind] += command_of(reply.text) == item.command
            replies.append(reply)
    shares = {kind: hit / half for kind, hit in hits.items()}
    return {**shares, "together": sum(hits.values()) / (2 * half)}, replies


def unseen_share(
    chat: Chat, items: list[Item], programs: set[str], rng: random.Random
) -> tuple[dict[str, float], list[Reply]]:
    """For tasks of held-out pages: commands that parse and begin with a known program; exact ones."""
    good = right = 0
    replies = []
    chosen = _sample(rng, items, UNSEEN_TASKS)
    for item in chosen:
        named = not phrasing.names_program(item) and (not item.unique or rng.random() < 0.5)
        reply = chat.ask(phrasing.ask_unseen(rng, item, named))
        command = command_of(reply.text)
        good += parses(command) and program_of(command) in programs
        right += command == item.command
        replies.append(reply)
    return {"valid": good / len(chosen), "exact": right / len(chosen)}, replies


def long_chat_share(chat: Chat, items: list[Item], rng: random.Random) -> float:
    """Share of exactly right commands, over all turns of long chats of unrelated named questions."""
    hits = 0
    for _ in range(LONG_CHATS):
        messages: list[dict[str, str]] = []
        for item in _sample(rng, items, LONG_CHAT_TURNS):
            question = phrasing.ask_unseen(rng, item, not phrasing.names_program(item))
            messages.append({"role": "user", "content": question})
            reply = chat.reply(messages)
            hits += command_of(reply.text) == item.command
            messages.append({"role": "assistant", "content": reply.text})
    return hits / (LONG_CHATS * LONG_CHAT_TURNS)


def programs_of(pages: list[Page]) -> set[str]:
    """Every program the corpus knows: first words of page names and of commands."""
    words = {page.name.split()[0] for page in pages}
    words |= {program_of(command) for page in pages for _, command in page.examples}
    return {w for w in words if re.fullmatch(r"[\w.+-]+", w)}


def evaluate(model: Path, corpus: Path) -> dict[str, object]:
    """All measurements of one model file."""
    pages = load_pages(corpus)
    kept = [p for p in pages if not is_held_out(p.name)]
    items = build_items(kept)
    unseen = build_items([p for p in pages if is_held_out(p.name)])
    rng = random.Random(EVALUATION_SEED)
    chat = Chat(model)
    tiers = {
        "all": items,
        "essentials": [i for i in items if is_essential(i.page)],
        "core_others": [i for i in items if is_core(i.page) and not is_essential(i.page)],
        "rest": [i for i in items if not is_core(i.page)],
    }
    seen: dict[str, dict[str, float]] = {}
    replies: list[Reply] = []
    for tier, members in tiers.items():
        seen[tier], given = seen_shares(chat, members, rng)
        replies += given
    valid, more = unseen_share(chat, unseen, programs_of(pages), rng)
    chatter = [chat.ask(offtopic.unseen_off_topic(rng)) for _ in range(N_OFF_TOPIC)]
    everyday = everyday_items(kept)
    asked = [(i, chat.ask(phrasing.fill(rng.choice(phrasing.HELD_OUT_PLAIN), rng.choice(i.wordings), i.page)))
             for i in everyday]  # fmt: skip
    everything = replies + more + chatter
    losses = [chat.loss(phrasing.ask(rng, i, not phrasing.names_program(i)), answer(i)) for i in unseen[:300]]
    return {
        "model": model.name,
        "seen_exact": seen,
        "held_out_tasks": valid,
        "off_topic_refused": sum(r.text == offtopic.REFUSAL for r in chatter) / len(chatter),
        "everyday_exact": sum(command_of(r.text) == i.command for i, r in asked) / len(asked),
        "long_chat_exact_essentials": long_chat_share(chat, tiers["essentials"], rng),
        "not_stopping": sum(not r.stopped for r in everything) / len(everything),
        "held_out_loss_nats_per_token": sum(a for a, _ in losses) / sum(n for _, n in losses),
    }


def main() -> None:
    """Command line: measure one file, print JSON."""
    parser = argparse.ArgumentParser(prog="aded_models.train.evaluate")
    parser.add_argument("model", type=Path)
    parser.add_argument("--corpus", type=Path, default=Path("../shared/corpus/tldr-en.jsonl.gz"))
    arguments = parser.parse_args()
    print(json.dumps(evaluate(arguments.model, arguments.corpus), indent=1))


if __name__ == "__main__":
    main()

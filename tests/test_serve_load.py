"""aded-serve under load, with SmolLM2: minutes each, so none runs by default. ``-s`` shows the figures."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from test_serve_program import WORDS, Program, ask, smollm2

from aded_local import LocalADED

pytestmark = pytest.mark.slow
__all__ = ["smollm2"]

SOAK_SECONDS = float(os.environ.get("ADED_SOAK_SECONDS", "600"))
CLIENTS = 20
LOOK_SECONDS = 10.0
SETTLED = 0.3
"""Share of the soak after which memory is to stay as it is: sessions, kernels and drafts have come by then."""
GROWTH = 0.1
"""What resident memory may grow by after that."""

QUESTIONS = [
    "What is a river?",
    "Why is the sky blue? Answer in two sentences.",
    "Write a short story about a dragon and a lemon.",
    "List ten things that one finds in a garden.",
    "Explain what a compiler does to somebody who cooks.",
    "Write a Python function that adds two numbers, and explain it.",
]


@pytest.mark.timeout(SOAK_SECONDS + 300)
def test_memory_stays_flat_while_many_clients_chat(smollm2: str) -> None:
    server = Program(smollm2, "-c", "2048", "--session-memory", "200")
    server.await_ready()
    until = time.monotonic() + SOAK_SECONDS
    counts = {"answers": 0, "hang-ups": 0, "refused": 0}
    failures: list[str] = []
    adding = threading.Lock()

    def count(what: str) -> None:
        with adding:
            counts[what] += 1

    def chat(number: int) -> None:
        """A client: conversations of some turns, some answers left half read, some lines of its own word."""
        import openai

        draw = random.Random(number)
        client, word = server.client(), WORDS[number]
        while time.monotonic() < until:
            messages: list[Any] = []
            try:
                for _ in range(draw.randrange(1, 5)):
                    messages.append({"role": "user", "content": draw.choice(QUESTIONS)})
                    options = {"model": "any", "messages": messages, "max_tokens": draw.randrange(8, 60)}
                    if draw.random() < 0.2:
                        stream = client.chat.completions.create(**options, stream=True)
                        next(iter(stream))
                        stream.close()
                        count("hang-ups")
                    said = client.chat.completions.create(**options).choices[0].message.content
                    messages.append({"role": "assistant", "content": said})
                    count("answers")
                if word not in ask(client, word):
                    failures.append(f"{word} was not answered with itself")
                count("answers")
            except openai.RateLimitError:
                count("refused")
                time.sleep(1)
            except Exception as error:
                failures.append(repr(error))

    process = psutil.Process(server.process.pid)
    resident: list[float] = []
    with ThreadPoolExecutor(CLIENTS) as clients:
        chats = [clients.submit(chat, number) for number in range(CLIENTS)]
        while time.monotonic() < until:
            resident.append(process.memory_info().rss / 2**20)
            time.sleep(LOOK_SECONDS)
        for each in chats:
            each.result()
    assert server.end() == 0, server.lines
    print(f"\n{counts}, {len(failures)} failures; MiB resident: {[round(each) for each in resident]}")
    assert not failures, failures[:5]
    settled = resident[int(SETTLED * len(resident)) :]
    assert max(settled[len(settled) // 2 :]) <= (1 + GROWTH) * max(settled[: len(settled) // 2 + 1])


def answers_per_second(work: Callable[[str], int]) -> float:
    """Tokens per second over all questions, with the time between them."""
    began = time.perf_counter()
    return sum(map(work, QUESTIONS)) / (time.perf_counter() - began)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("draft", ["off", "auto"])
def test_what_http_costs_one_client(smollm2: str, draft: str) -> None:
    options: dict[str, Any] = {"max_tokens": 128, "temperature": 0.0}
    server = Program(smollm2, "-c", "2048", "--draft", draft)
    server.await_ready()
    while server.get("/health")[1]["drafting"] not in ("ready", "off"):
        time.sleep(1)
    client = server.client()

    def whole(question: str) -> int:
        found = client.chat.completions.create(
            model="any", messages=[{"role": "user", "content": question}], **options
        )
        return int(found.usage.completion_tokens)

    def streamed(question: str) -> int:
        chunks = client.chat.completions.create(
            model="any",
            messages=[{"role": "user", "content": question}],
            stream=True,
            stream_options={"include_usage": True},
            **options,
        )
        return int(list(chunks)[-1].usage.completion_tokens)

    with LocalADED(smollm2, n_ctx=2048, draft=draft) as llm:
        llm.prepare()

        def here(question: str) -> int:
            reply = llm.chat([{"role": "user", "content": question}], **options)
            return len(reply.tokens)

        ways = {"LocalADED": here, "whole": whole, "streamed": streamed}
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(4):
            for name, way in ways.items():
                rates[name].append(answers_per_second(way))
    assert server.end() == 0
    best = {name: max(found) for name, found in rates.items()}
    print(f"\ndraft={draft}: tokens/s {best}; shares", end=" ")
    print({name: round(best[name] / best["LocalADED"], 3) for name in ("whole", "streamed")})


@pytest.mark.timeout(900)
def test_requests_per_second_of_eight_clients_over_one(smollm2: str) -> None:
    server = Program(smollm2, "-c", "2048")
    server.await_ready()
    while server.get("/health")[1]["drafting"] not in ("ready", "off"):
        time.sleep(1)
    rates = {}
    for n in (1, 8):
        began = time.perf_counter()
        with ThreadPoolExecutor(n) as clients:
            list(clients.map(lambda at: ask(server.client(), WORDS[at]), range(32)))
        rates[n] = 32 / (time.perf_counter() - began)
    assert server.end() == 0
    print(f"\nrequests/s: {rates}, {rates[8] / rates[1]:.2f}")

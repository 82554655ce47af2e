"""Serve one peer over a pipe: ``python serve.py suffix_peer`` reads requests, writes answers, a JSON object a line.

| request | answer |
| --- | --- |
| ``{"do": "open", "n_vocab": 32000, "settings": {…}}`` | ``{"version": "0.1.1"}`` |
| ``{"do": "feed", "prompt": […], "answer": […]}``: another conversation, before the first ``begin`` | ``{}`` |
| ``{"do": "begin", "prompt": […]}``: a conversation begins | ``{}`` |
| ``{"do": "draft", "accepted": […]}``: the tokens emitted since the last draft; what comes next? | a draft |
| ``{"do": "end", "accepted": […]}``: its last tokens | ``{}`` |

A draft is ``{"tokens": […], "parents": […], "probabilities": […] or null, "microseconds": 12.5,
"learn_microseconds": 3.1}``: parents before children, -1 below the last token; probabilities of whole paths. Both
times are taken here, around the peer's own calls, so that the pipe is not in them. What goes wrong is
answered with ``{"error": "…"}``, after which the process ends.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any, TextIO


def serve(peer: Any, requests: TextIO, answers: TextIO) -> None:
    """Answer requests until they end."""
    for line in requests:
        request = json.loads(line)
        try:
            answer = respond(peer, request)
        except BaseException as error:  # a Rust panic is no Exception
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if "error" in answer:
            return


def respond(peer: Any, request: dict[str, Any]) -> dict[str, Any]:
    """One answer; see the module's table."""
    kind = request["do"]
    if kind == "open":
        return {"version": peer.open(request["n_vocab"], request["settings"])}
    if kind == "feed":
        peer.feed(request["prompt"], request["answer"])
        return {}
    if kind == "begin":
        peer.begin(request["prompt"])
        return {}
    started = time.perf_counter()
    peer.observe(request["accepted"])
    learnt = time.perf_counter()
    if kind == "end":
        peer.end()
        return {}
    found = peer.search()
    done = time.perf_counter()
    tokens, parents, probabilities = peer.tree(found)
    return {
        "tokens": tokens,
        "parents": parents,
        "probabilities": probabilities,
        "microseconds": (done - learnt) * 1e6,
        "learn_microseconds": (learnt - started) * 1e6,
    }


def main() -> None:
    """Keep standard output for the answers: whatever the peer prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        peer = importlib.import_module(sys.argv[1]).Peer()
    except Exception as error:
        answers.write(json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n")
        answers.flush()
        return
    serve(peer, sys.stdin, answers)


if __name__ == "__main__":
    main()

"""Which answers of an arm are plain decoding's, and where the others part from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aded_bench.run.methods import PEER
from aded_bench.run.partings import parting_position
from aded_bench.run.suites import Question

ATTENTION_STEP = 512  # KV cells at which llama.cpp's attention changes kernels (ggml-cpu/ops.cpp)

Labels = dict[tuple[str, str, float, str], str]
"""The arm that answered, by ``same``, preset, temperature and prompt."""


def labels_of(labels: Labels, same: str) -> list[str]:
    """The arms that answered for ``same``, one for each answer."""
    return [label for (mode, *_), label in labels.items() if mode == same]


def key_of(label: str, temperature: float, question: Question) -> str:
    """What an answer is kept under in a result."""
    return f"{label}|{temperature:g}|{question.id}"


def compare(
    result: dict[str, Any],
    labels: Labels,
    questions: Sequence[Question],
    temperatures: Sequence[float],
    *,
    peer: bool,
) -> None:
    """Fill in ``comparisons``, and where answers part ``partings``, from the answers there are.

    Args:
        result: of `lossless`, with ``answers``.
        labels: the arms that answered.
        questions: all prompts.
        temperatures: to compare at.
        peer: plain llama_cpp is compared too.
    """
    result["comparisons"], result["partings"], result["movements"] = [], [], []
    seen: set[tuple[str, float, str]] = set()
    for same in result["same"]:
        drafting = list(dict.fromkeys(labels_of(labels, same)))
        settings = dict.fromkeys(result["arms"][label]["setting"] for label in drafting)
        for label in (*drafting, *(f"{PEER} {setting}" for setting in settings if peer)):
            about = result["arms"].get(label)
            if about is None:
                continue
            head = {"method": about["method"], "same": same, "setting": about["setting"], "arm": label}
            for temperature in temperatures:
                if about["method"] == PEER and (temperature or (label, temperature, "") in seen):
                    continue  # it does not draft, so it is the same whatever drafting may change
                seen.add((label, temperature, ""))
                row, parted = _compared(result, labels, questions, same, label, temperature)
                result["comparisons"].append(head | row)
                for each in parted:
                    if (label, temperature, each["prompt"]) not in seen:
                        seen.add((label, temperature, each["prompt"]))
                        result["partings"].append(head | each)


def _compared(
    result: dict[str, Any],
    labels: Labels,
    questions: Sequence[Question],
    same: str,
    label: str,
    temperature: float,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """How many answers of an arm are those of plain decoding in its setting, and where each of the others parts."""
    about = result["arms"][label]
    base = f"off {about['setting']}"
    identical = total = crossing = 0
    parted = []
    for question in questions:
        mine = labels.get((same, about["method"], temperature, question.id), label)
        found, expected = (result["answers"].get(key_of(arm, temperature, question)) for arm in (label, base))
        if found is None or expected is None or mine != label:
            continue
        total += 1
        length = len(question.tokens)
        crossing += length < ATTENTION_STEP <= length + len(expected["tokens"])
        if (found["tokens"], found["ended"]) == (expected["tokens"], expected["ended"]):
            identical += 1
            continue
        position = parting_position(expected["tokens"], found["tokens"])
        where = {"against": base, "temperature": temperature, "prompt": question.id}
        parted.append(where | {"position": position, "cells": length + position})
    row = {"against": base, "temperature": temperature, "identical": identical, "total": total}
    return row | {"crossing_512_cells": crossing}, parted

"""Answers with a draft model are those without: what it says changes speed alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_models

from aded_local import LocalADED
from aded_local.drafters.model import DRAFT_MODES

SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.8, "seed": 7, "top_k": 40},
}
PROMPT = "one two three four five one two three"
OPTIONS: dict[str, Any] = {
    "same": "off",  # no size is exact for a model as small as this, and its choices are far apart
    "flash_attention": False,
    "cache_type": "f16",
    "n_threads": 1,
    "n_ctx": 512,
}


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the same vocabulary that would say something else."""
    return tiny_models.write_llama(tmp_path_factory.mktemp("poor") / "poor.gguf", seed=77)


@pytest.fixture(scope="module")
def plain(tiny: dict[str, Path]) -> dict[str, list[list[int]]]:
    with LocalADED(tiny["llama"], draft="off", **OPTIONS) as llm:
        return {how: answers(llm, how) for how in ("greedy", "temperature")}


def answers(llm: LocalADED, how: str) -> list[list[int]]:
    return [llm.generate(prompt, max_tokens=60, **SAMPLINGS[how]).tokens for prompt in (PROMPT, "four five")]


@pytest.mark.parametrize("mode", DRAFT_MODES)
@pytest.mark.parametrize("draft", ["itself", "poor"])
def test_the_words_are_those_of_plain_decoding(
    tiny: dict[str, Path], poor: Path, plain: dict[str, list[list[int]]], mode: str, draft: str
) -> None:
    path = tiny["llama"] if draft == "itself" else poor
    with LocalADED(tiny["llama"], draft_model=path, draft_mode=mode, **OPTIONS) as llm:
        llm.prepare()
        for how, expected in plain.items():
            assert answers(llm, how) == expected

"""The whole pipeline: corpus to packaged GGUF files, resumable, in one command.

python -m aded_models.train --corpus ../shared/corpus/tldr-en.jsonl.gz --out build/models
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from ..builtin import DRAFT_FILE, TARGET_FILE
from .corpus import build_items, everyday_items, is_held_out, load_pages
from .export import export
from .loop import SHORT_ROW, Plan, train
from .network import DRAFT_SHAPE, TARGET_SHAPE
from .tokenizer import Tokenizer, train_tokenizer
from .turns import Sample, SampleMaker, about_answer, answer

TRAINING_SEED = 20261120
HELD_OUT_SAMPLES = 400  # single questions over held-out pages, for the logged held-out loss

# Steps of the packaged models: fixed by a wall-clock budget when they were first trained, repeated since.
TARGET_PLAN = Plan(decay_start=3989, last=5796, polish=900)
DRAFT_PLAN = Plan(decay_start=1928, last=2965, lean_from=600, core_from=600)


def makers(corpus: Path, out: Path, seed: int) -> tuple[SampleMaker, list[Sample]]:
    """The training stream and the held-out samples, with the tokenizer trained first if `out` has none."""
    pages = load_pages(corpus)
    kept = [p for p in pages if not is_held_out(p.name)]
    items, everyday = build_items(kept), everyday_items(kept)
    model = out / "tokenizer.model"
    if not model.exists():
        out.mkdir(parents=True, exist_ok=True)
        texts = [part for item in items for part in (item.task, *answer(item).split("\n"))]
        texts += [line for page in kept for line in about_answer(page).split("\n")]
        train_tokenizer(texts, model.with_suffix(""))
    coder = Tokenizer(model)
    unseen = [p for p in pages if is_held_out(p.name)]
    reader = SampleMaker(build_items(unseen), [], unseen, coder, seed)
    held_out: list[Sample] = []
    while len(held_out) < HELD_OUT_SAMPLES:
        sample = reader.single()
        if len(sample.ids) <= SHORT_ROW:
            held_out.append(sample)
    return SampleMaker(items, everyday, kept, coder, seed), held_out


def stop_time(clock: str) -> float:
    """Seconds since the epoch of the next HH:MM (UTC) of today."""
    hour, minute = clock.split(":")
    return datetime.now(timezone.utc).replace(hour=int(hour), minute=int(minute), second=0).timestamp()


def main() -> None:
    """Command line: one model or both, by the recorded steps or until a time of day."""
    parser = argparse.ArgumentParser(prog="aded_models.train")
    parser.add_argument("--corpus", type=Path, default=Path("../shared/corpus/tldr-en.jsonl.gz"))
    parser.add_argument("--out", type=Path, default=Path("build/models"))
    parser.add_argument("--only", choices=("target", "draft"))
    parser.add_argument(
        "--stop-at", metavar="HH:MM", help="UTC time to be done by, instead of the recorded steps"
    )
    arguments = parser.parse_args()
    for name, file, shape, plan in (
        ("target", TARGET_FILE, TARGET_SHAPE, TARGET_PLAN),
        ("draft", DRAFT_FILE, DRAFT_SHAPE, DRAFT_PLAN),
    ):
        if arguments.only in (None, name):
            maker, held_out = makers(arguments.corpus, arguments.out, TRAINING_SEED)
            if arguments.stop_at:
                plan = replace(
                    plan, polish=0, decay_start=10**9, last=10**9, stop_at=stop_time(arguments.stop_at)
                )
            began = time.time()
            network = train(shape, maker, held_out, plan, arguments.out / name, TRAINING_SEED)
            tokenizer = Tokenizer(arguments.out / "tokenizer.model")
            export(network, tokenizer, arguments.out / file, file.removesuffix("-q8_0.gguf"))
            print(f"{name}: {network.count():,} parameters, {time.time() - began:.0f} s")


if __name__ == "__main__":
    main()

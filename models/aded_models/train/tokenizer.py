"""SentencePiece BPE over tasks and answers, in the form llama.cpp's `llama` tokenizer reproduces."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import sentencepiece

VOCABULARY = 4096  # pieces: small enough that a 256-wide embedding stays a fifth of the model
CONTROLS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")


def train_tokenizer(texts: Iterable[str], prefix: Path) -> Path:
    """Train on `texts` and return the written `.model` path."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(list(texts)),
        model_prefix=str(prefix),
        model_type="bpe",
        vocab_size=VOCABULARY,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        control_symbols=list(CONTROLS),
        unk_id=0,
        bos_id=1,
        eos_id=2,
        character_coverage=0.9999,
        max_sentence_length=8192,
        num_threads=2,
        minloglevel=2,
    )
    return prefix.with_suffix(".model")


class Tokenizer:
    """Text to ids and back, with the control ids by name; control words inside text stay plain text."""

    def __init__(self, path: Path) -> None:
        self.processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self.system, self.user, self.assistant, self.end = (self.processor.PieceToId(c) for c in CONTROLS)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text."""
        ids: list[int] = self.processor.EncodeAsIds(text)
        return ids

    def decode(self, ids: list[int]) -> str:
        """Text of ids; controls vanish."""
        return re.sub(r"<\|\w+\|>", "", str(self.processor.DecodeIds(ids)))

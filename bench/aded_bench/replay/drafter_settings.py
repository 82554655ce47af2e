"""What `auto` drafts with in a replay: phrases, a static store, what it starts from, and parts left out.

By default all is as in the product. Phrases are those of the shipped file, in the tokens of the trace's vocabulary.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aded_bench.replay.curves import LARGEST_PASS
from aded_bench.replay.traces import Tokenizer, Trace
from aded_local.drafters import Drafter, Search, make_drafter
from aded_local.drafters.ngram.components import COMPONENTS
from aded_local.drafters.ngram.drafter import NgramDrafter
from aded_local.drafters.ngram.pretrained import SHIPPED, Priors, blank_priors
from aded_local.errors import StoreError
from aded_local.llama.gguf import read_header
from aded_local.llama.identity import identity_of
from aded_local.ngrams.phrases import phrase_table
from aded_local.ngrams.static import open_static
from aded_models.phrases import PhrasesError, phrases_path, read_phrases

Table = npt.NDArray[np.int64]

TABLES_KEPT: Final = 8
"""Of phrases and of stores, by file and vocabulary: 2 MB each, made in a second or two."""

FIXED_NODES: Final = 8
"""Of a step without a budget. Chosen, not tuned: what costs about a second token's time on many machines."""

BEST_FIRST: Final[Search] = "best-first"


@dataclass(frozen=True)
class DrafterSettings:
    """What `auto` is made of.

    Attributes:
        phrases: a file of phrases, as shipped or counted otherwise; None for none.
        store: a static store; None for none.
        priors: what to start from instead of what is shipped, as `aded-bench priors` writes it.
        without: parts to leave out, of ``aded_local.drafters.ngram.components.COMPONENTS``.
        search: how the tree grows.
    """

    phrases: Path | None = field(default_factory=phrases_path)
    store: Path | None = None
    priors: Path | None = None
    without: tuple[str, ...] = ()
    search: Search = BEST_FIRST

    @property
    def name(self) -> str:
        """What tells it from the product, in a few words; empty for the product, whatever its files."""
        left_out = [*(["phrases"] if self.phrases is None else []), *self.without]
        parts = [f"without {', '.join(left_out)}"] if left_out else []
        return ", ".join([*parts, *([self.search] if self.search != BEST_FIRST else [])])

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for a result file; the files' hashes stand beside it as inputs."""
        files = {"phrases": self.phrases, "store": self.store, "priors": self.priors}
        names = {key: None if path is None else path.name for key, path in files.items()}
        return {**names, "without": list(self.without), "search": self.search}

    def inputs(self) -> list[Path]:
        """Its files, what it starts from included."""
        priors = None if "priors" in self.without else self.priors or SHIPPED
        return [path for path in (self.phrases, self.store, priors) if path is not None]


@dataclass(frozen=True)
class Variant:
    """One way of making `auto`.

    Attributes:
        drafter: what it drafts with.
        nodes: verified at every step, whatever they promise and cost; None for a budget.
        guarded: drafting pauses where it loses.
        leaves: branches of its trees at most; 1 for chains alone.
        predicts_anew: bits per token are its own; else they are those of the whole drafter.
    """

    drafter: DrafterSettings
    nodes: int | None = None
    guarded: bool = True
    leaves: int = LARGEST_PASS
    predicts_anew: bool = True


def variants(whole: DrafterSettings, *, ablate: bool) -> dict[str, Variant]:
    """By setting, as results name it: the whole drafter first, then, to ablate, each part left out in turn."""
    found = {whole.name: Variant(whole)}
    if ablate:
        for name in COMPONENTS:
            found[f"without {name}"] = Variant(replace(whole, without=(name,)))
        found["without budget"] = Variant(whole, nodes=FIXED_NODES, predicts_anew=False)
        found["without guard"] = Variant(whole, guarded=False, predicts_anew=False)
        found["chains"] = Variant(whole, leaves=1, predicts_anew=False)
        found["puct"] = Variant(replace(whole, search="puct"), predicts_anew=False)
    return found


def open_drafter(preset: str, trace: Trace, settings: DrafterSettings, *, seed: int = 0) -> Drafter:
    """A drafter for a trace, with an empty memory; ``settings`` are for ``auto`` alone.

    Raises:
        StoreError: a file is missing, damaged, or for another tokenizer.
        OptionError: there is no such part to leave out.
    """
    if preset != "auto":
        return make_drafter(preset, n_vocab=trace.n_vocab, seed=seed)
    # Ids that were made without a tokenizer mean no words.
    phrases = settings.phrases if trace.vocab is not None else None
    drafter = make_drafter(
        preset,
        n_vocab=trace.n_vocab,
        seed=seed,
        search=settings.search,
        static=None if settings.store is None else _static_table(settings.store, trace.vocab),
        phrases=None if phrases is None or trace.vocab is None else phrases_of(phrases, trace.vocab),
        without=settings.without,
    )
    if settings.priors is not None and "priors" not in settings.without and isinstance(drafter, NgramDrafter):
        start_from(drafter, read_priors(settings.priors))
    return drafter


def start_from(drafter: NgramDrafter, priors: Priors) -> None:
    """Let a new drafter begin with these rates, weights and curves; ``reset`` goes back to its own."""
    model = drafter.model
    model.rates[:], model.weights[:], model.finals[:] = priors


@lru_cache(maxsize=TABLES_KEPT)
def phrases_of(path: Path, vocab: Path) -> Table:
    """The phrases of a file in the tokens of a vocabulary.

    Raises:
        StoreError: the file is missing, or holds no phrases.
    """
    try:
        phrases = read_phrases(path)
    except OSError as error:
        raise StoreError(f"the phrases {path} cannot be read: {error.strerror or error}") from None
    except PhrasesError as error:
        raise StoreError(str(error)) from None
    tokenizer = Tokenizer(vocab)
    return phrase_table(lambda text: tokenizer.tokenize(text, is_prompt=False).tolist(), phrases)


@lru_cache(maxsize=TABLES_KEPT)
def _static_table(path: Path, vocab: Path | None) -> Table:
    if vocab is None:
        raise StoreError(f"{path} is for a tokenizer, and the trace was made without one")
    return open_static(path, identity_of(read_header(vocab)).tokenizer).table


def read_priors(path: Path) -> Priors:
    """A file as `aded-bench priors` writes it.

    Raises:
        StoreError: it is missing, or something else.
    """
    blank = blank_priors()._asdict()
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name].astype(np.float32) for name in blank}
    except OSError as error:
        raise StoreError(f"the priors {path} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
        raise StoreError(f"{path} holds no priors; `aded-bench priors` makes such a file") from None
    for name, array in found.items():
        if array.shape != blank[name].shape or not np.isfinite(array).all():
            raise StoreError(
                f"{path} holds no priors for this version ({name} is of another shape, or no numbers); fit them anew"
            )
    return Priors(**found)

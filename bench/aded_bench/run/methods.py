"""The ways of generating that are compared, by name."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from aded_local.errors import OptionError

PEER = "llama-cpp"
LOOKUP = "llama-cpp-lookup"
SERVER = "server"
NO_TOP_K = "auto-no-top-k"
MODEL_MODES = {f"model-{mode}": mode for mode in ("auto", "serial", "parallel", "branch")}
"""Our own methods that draft with a second model, and how they use it."""
OWN = ("off", "auto", "paper", NO_TOP_K, *MODEL_MODES)
"""Our own methods: presets, `auto` that learns from what was said alone, not from what the target found likely, and
those with a draft model."""
NGRAM_SERVERS = tuple(f"{SERVER}-ngram-{kind}" for kind in ("simple", "map-k", "map-k4v", "mod", "cache"))
SPEC_DEFAULT = f"{SERVER}-spec-default"
DRAFT_SERVER = f"{SERVER}-draft-simple"
SERVER_METHODS = (SERVER, *NGRAM_SERVERS, SPEC_DEFAULT, DRAFT_SERVER)
METHODS = (*OWN, PEER, LOOKUP, *SERVER_METHODS)
WITH_DRAFT_MODEL = (*MODEL_MODES, DRAFT_SERVER)
"""Methods that take a draft model."""
ALL = tuple(method for method in METHODS if method not in (NO_TOP_K, *WITH_DRAFT_MODEL))
"""Without arms that only take a part away from another, which are measured when named, and those that take a draft
model, which are measured where one is given."""
LEARNERS = ("auto", NO_TOP_K, "paper", *MODEL_MODES, *NGRAM_SERVERS[1:], SPEC_DEFAULT)
"""Methods whose answer may depend, in its speed, on the prompts before."""

EXACT, CHEAP = "exact", "cheap"  # two of ``SAMES``


def preset_of(name: str) -> str:
    """The draft preset of one of our own methods."""
    return "auto" if name in (NO_TOP_K, *MODEL_MODES) else name


def check_same(given: Sequence[str] | None, exact: bool) -> tuple[str, ...]:
    """How much drafting may change, each once; the engine's own choice where nothing was asked for.

    Args:
        exact: another word for ``exact`` alone.

    Raises:
        OptionError: an unknown one, or both were given.
    """
    if given is not None and exact:
        raise OptionError("--exact is another word for --same exact; give one of them")
    if exact:
        return (EXACT,)
    from aded_local.speed.pricing import SAMES

    return check_names("--same", given or (CHEAP,), SAMES)


def check_methods(methods: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The methods named, each once; see ``check_names``."""
    return check_names("method", methods, known)


def check_names(what: str, names: Sequence[str], known: Collection[str]) -> tuple[str, ...]:
    """What was named, each once.

    Args:
        what: the names are of.

    Raises:
        OptionError: nothing, or something unknown.
    """
    for name in names:
        if name not in known:
            raise OptionError(f"unknown {what} {name!r}; choose from {', '.join(known)}")
    if not names:
        raise OptionError(f"no {what} named; choose from {', '.join(known)}")
    return tuple(dict.fromkeys(names))

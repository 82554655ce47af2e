"""May one model draft for another? Their vocabularies are compared token by token."""

from __future__ import annotations

from aded_local.errors import PairingError, StoreError
from aded_local.llama import Model
from aded_local.llama.identity import identity_of
from aded_local.shown import one_line


def require_pair(target: Model, draft: Model) -> None:
    """Refuse a draft model that writes other tokens than the target, or cannot keep several branches.

    Tokens that no text contains may differ, or be missing, at the end of either vocabulary: some makers fill it up.

    Raises:
        PairingError: with the first token that differs.
    """
    if draft.is_recurrent or draft.is_hybrid:
        raise PairingError(
            f"{draft.path} cannot draft: its memory is a running state ({draft.header.architecture}), which "
            "cannot keep several branches; give a model with a KV cache"
        )
    for name, ours, theirs in (("begins", target.bos, draft.bos), ("ends", target.eos, draft.eos)):
        if ours != theirs:
            raise PairingError(
                f"{draft.path} cannot draft for {target.path}: the token that {name} a text is {_named(draft, theirs)} "
                f"in the first and {_named(target, ours)} in the second; {_INSTEAD}"
            )
    if _same_by_hash(target, draft):
        return
    shared = min(target.n_vocab, draft.n_vocab)
    for token in range(max(target.n_vocab, draft.n_vocab)):
        if token < shared and _is_same(target, draft, token):
            continue
        if not all(token >= model.n_vocab or model.is_unused(token) for model in (target, draft)):
            raise PairingError(
                f"{draft.path} cannot draft for {target.path}: token {token} is {_named(draft, token)} in the first "
                f"and {_named(target, token)} in the second; {_INSTEAD}"
            )


_INSTEAD = "give a model of the same family, with the same vocabulary"


def _same_by_hash(target: Model, draft: Model) -> bool:
    try:
        return (
            target.n_vocab == draft.n_vocab
            and identity_of(target.header).tokenizer == identity_of(draft.header).tokenizer
        )
    except StoreError:
        return False


def _is_same(target: Model, draft: Model, token: int) -> bool:
    if target.is_unused(token) and draft.is_unused(token):
        return True
    return target.token_text(token) == draft.token_text(token) and target.kind(token) == draft.kind(token)


def _named(model: Model, token: int) -> str:
    if not 0 <= token < model.n_vocab:
        return "missing"
    return repr(one_line(model.token_text(token))[:40])

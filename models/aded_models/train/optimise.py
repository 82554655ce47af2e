"""Muon for the hidden matrices, Adam for embedding and norms, and the warm-up / stable / decay schedule.

Muon (Keller Jordan, 2024, https://kellerjordan.github.io/posts/muon/): momentum, then the update is replaced
by the nearest semi-orthogonal matrix, found by a few Newton-Schulz steps. It learns rare associations in far
fewer steps than Adam, and rare associations are all there is to learn here.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic coefficients of the Muon post
NEWTON_SCHULZ_STEPS = 5  # the Muon post's default
MOMENTUM = 0.95  # the Muon post's default
MUON_RATE = 0.02  # the Muon post's default for matrices scaled by sqrt(max(1, rows / columns))
MUON_DECAY = 0.01  # light: there is nothing to regularise in memorising, the norms must only stay bounded
ADAM_RATE = 0.004  # embedding and norms; a usual companion of Muon at this width, not searched
ADAM_BETAS = (0.9, 0.95)  # Llama's, nanochat's
POLISH_RATE = 0.35  # of the full rates, where the second, shorter decay starts; a guess that held
WARMUP_STEPS = 100  # 1 to 3 % of the runs


def orthogonalise(matrix: Tensor) -> Tensor:
    """Approximately U V^T of matrices [..., rows, columns] with singular decomposition U S V^T."""
    a, b, c = NEWTON_SCHULZ
    x = matrix.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x.mT if tall else x).float()


class Muon:
    """Momentum with orthogonalised updates; matrices of one shape are updated as one batch."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        groups: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in parameters:
            groups.setdefault(parameter.shape, []).append(parameter)
        self.groups = list(groups.values())
        self.momenta = [torch.zeros(len(g), *g[0].shape) for g in self.groups]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update with learning rate `rate`."""
        for group, momentum in zip(self.groups, self.momenta, strict=True):
            gradient = torch.stack([p.grad for p in group if p.grad is not None])
            momentum.lerp_(gradient, 1 - MOMENTUM)
            update = orthogonalise(torch.lerp(gradient, momentum, MOMENTUM))  # Nesterov's look-ahead
            scale = max(1.0, group[0].shape[0] / group[0].shape[1]) ** 0.5
            for parameter, change in zip(group, update, strict=True):
                parameter.mul_(1 - rate * MUON_DECAY).sub_(change, alpha=rate * scale)


class Optimiser:
    """Both optimisers of a network behind one `step(fraction)`."""

    def __init__(self, network: nn.Module) -> None:
        named = list(network.named_parameters())
        hidden = [p for name, p in named if p.ndim == 2 and name != "embedding"]
        others = [p for name, p in named if p.ndim != 2 or name == "embedding"]
        self.muon = Muon(hidden)
        self.adam = torch.optim.AdamW(others, lr=ADAM_RATE, betas=ADAM_BETAS, weight_decay=0.0, fused=True)

    def step(self, fraction: float) -> None:
        """One update at `fraction` (0 to 1) of the full learning rates; clears the gradients."""
        self.muon.step(MUON_RATE * fraction)
        for group in self.adam.param_groups:
            group["lr"] = ADAM_RATE * fraction
        self.adam.step()
        for parameters in (*self.muon.groups, [p for g in self.adam.param_groups for p in g["params"]]):
            for parameter in parameters:
                parameter.grad = None

    def state(self) -> dict[str, object]:
        """Everything needed to resume."""
        return {"momenta": self.muon.momenta, "adam": self.adam.state_dict()}

    def load(self, state: dict[str, object]) -> None:
        """Take up a state written by `state`."""
        momenta, adam = state["momenta"], state["adam"]
        assert isinstance(momenta, list) and isinstance(adam, dict)
        self.muon.momenta = momenta
        self.adam.load_state_dict(adam)


def rate_fraction(step: int, decay_start: int, last: int, polish: int = 0) -> float:
    """Share of the full rate at `step` (from 0).

    Linear warm-up, flat, linear from decay_start to 0 at `last`, then, in `polish` further steps, linear from
    POLISH_RATE to 0.
    """
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    if step < decay_start:
        return 1.0
    if step < last:
        return (last - step) / (last - decay_start)
    return POLISH_RATE * max(0.0, last + polish - step) / max(1, polish)

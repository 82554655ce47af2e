"""Training: packed batches in, a converged network out, with checkpoints from which it can be resumed.

Every batch holds exactly BATCH_TOKENS positions, as rows of 256 tokens (or, when enough long chats have
gathered, rows of 1,024) in which whole samples are packed; a mask keeps them apart and positions restart with
each.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch._inductor.config
import torch.nn.functional as F
from torch import Tensor

from .network import Block, Network, Shape
from .optimise import Optimiser, rate_fraction
from .turns import FULL, LEAN, NO_LOSS, POLISH, Sample, SampleMaker

BATCH_TOKENS = 2048  # positions per step; half of what was tried first, for more steps in the same time
SHORT_ROW = 256  # tokens per row; rows this short keep attention cheap
LONG_ROW = 1024  # tokens per row for long chats
TRAINING_THREADS = 2  # of the machine the packaged models were trained on
PROBE_EVERY = 60  # steps between trials of one thread against TRAINING_THREADS, see Threads
PROBE_STEPS = 3  # of each, the fastest counting
CHECKPOINT_SECONDS = 180.0
LOG_EVERY = 50  # steps
DECAY_SHARE = 0.35  # of the wall time, when a stopping time is given instead of steps


@dataclass
class Batch:
    """ids and positions [B, T], additive mask [B, 1, T, T], and flat owners [B * T] of the *next* token."""

    ids: Tensor
    positions: Tensor
    mask: Tensor
    targets: Tensor
    owners: np.ndarray


def pack(samples: list[Sample], rows: int, length: int) -> tuple[Batch, list[Sample]]:
    """First-fit decreasing into `rows` rows; returns the batch and the samples that did not fit."""
    ids = np.zeros((rows, length), dtype=np.int64)
    targets = np.zeros((rows, length), dtype=np.int64)
    positions = np.zeros((rows, length), dtype=np.int64)
    segment = np.zeros((rows, length), dtype=np.int64)
    owners = np.full((rows, length), NO_LOSS, dtype=np.int64)
    used, left = [0] * rows, []
    for number, sample in enumerate(sorted(samples, key=lambda s: -len(s.ids)), start=1):
        n = len(sample.ids)
        row = next((r for r in range(rows) if used[r] + n <= length), None)
        if row is None:
            left.append(sample)
            continue
        at = used[row]
        ids[row, at : at + n] = sample.ids
        targets[row, at : at + n - 1] = sample.ids[1:]
        owners[row, at : at + n - 1] = sample.owners[1:]
        positions[row, at : at + n] = np.arange(n)
        segment[row, at : at + n] = number
        used[row] += n
    parts = torch.from_numpy(segment)
    same = (parts[:, :, None] == parts[:, None, :]) & torch.ones(length, length, dtype=torch.bool).tril()
    mask = torch.zeros(same.shape, dtype=torch.bfloat16).masked_fill_(~same, float("-inf"))[:, None]
    flat = torch.from_numpy(targets).view(-1)
    return Batch(torch.from_numpy(ids), torch.from_numpy(positions), mask, flat, owners.reshape(-1)), left


class Batches:
    """An endless stream of packed batches from a sample maker."""

    def __init__(self, maker: SampleMaker) -> None:
        self.maker = maker
        self.short: list[Sample] = []
        self.long: list[Sample] = []

    def next(self) -> Batch:
        """Short rows, unless the waiting long samples fill a batch of long ones."""
        while sum(len(s.ids) for s in self.short) < 1.3 * BATCH_TOKENS:
            sample = self.maker.next()
            (self.short if len(sample.ids) <= SHORT_ROW else self.long).append(sample)
        if sum(len(s.ids) for s in self.long) >= BATCH_TOKENS:
            batch, self.long = pack(self.long, BATCH_TOKENS // LONG_ROW, LONG_ROW)
        else:
            batch, self.short = pack(self.short, BATCH_TOKENS // SHORT_ROW, SHORT_ROW)
        return batch


def token_losses(network: Network, batch: Batch) -> tuple[Tensor, np.ndarray]:
    """Loss [n] in nats of every answer token of the batch, and their owners [n]."""
    wanted = np.flatnonzero(batch.owners != NO_LOSS)
    index = torch.from_numpy(wanted)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = network(batch.ids, batch.positions, batch.mask).view(-1, network.shape.width)
        logits = network.logits(hidden[index])
    return F.cross_entropy(logits.float(), batch.targets[index], reduction="none"), batch.owners[wanted]


@torch.no_grad()
def held_out_loss(network: Network, samples: list[Sample]) -> float:
    """Mean loss in nats per answer token over samples of held-out pages."""
    total, count = 0.0, 0
    while samples:
        batch, samples = pack(samples, BATCH_TOKENS // SHORT_ROW, SHORT_ROW)
        losses, _ = token_losses(network, batch)
        total, count = total + float(losses.sum()), count + len(losses)
    return total / max(1, count)


class Threads:
    """Picks one thread or TRAINING_THREADS, whichever steps faster at the moment.

    Two threads wait for each other at every kernel, so on a machine shared with other work one may be faster:
    beside a busy process the first run fell from 4,400 to 575 tokens a second with two.
    """

    def __init__(self) -> None:
        self.best = {1: float("inf"), TRAINING_THREADS: float("inf")}
        self.count = 0
        self.current = TRAINING_THREADS

    def begin(self) -> None:
        """Set the thread count of the step that begins now."""
        phase = self.count % PROBE_EVERY
        if phase == 0:
            self.best = dict.fromkeys(self.best, float("inf"))
        if phase < 2 * PROBE_STEPS:
            self.current = 1 if phase < PROBE_STEPS else TRAINING_THREADS
        else:
            self.current = min(self.best, key=lambda n: self.best[n])
        torch.set_num_threads(self.current)

    def end(self, seconds: float) -> None:
        """Record how long that step took."""
        self.best[self.current] = min(self.best[self.current], seconds)
        self.count += 1


@dataclass
class Plan:
    """How long to train: in steps, or (the first time) until a wall-clock time that fixes them."""

    decay_start: int
    last: int
    polish: int = 0  # further steps at the end, see optimise.rate_fraction
    stop_at: float | None = None  # seconds since the epoch
    lean_from: int = 696  # step at which the lean mix takes over, until the decay: forms are learned by then
    core_from: int = 1889  # step from which tiers of items count: all pages have been seen three times


def compiled() -> None:
    """Fuse the per-token halves of a block; flat shapes make one compilation serve every batch."""
    torch._inductor.config.cpp.dynamic_threads = True  # kernels follow Threads
    Block.project = torch.compile(Block.project, dynamic=False)  # type: ignore[method-assign]
    Block.finish = torch.compile(Block.finish, dynamic=False)  # type: ignore[method-assign]


def train(
    shape: Shape,
    maker: SampleMaker,
    held_out: list[Sample],
    plan: Plan,
    folder: Path,
    seed: int,
    say: Callable[[str], None] = print,
) -> Network:
    """Train to the plan's end; `folder` receives checkpoint.pt, log.jsonl and steps.json."""
    torch.set_num_threads(TRAINING_THREADS)
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    network = Network(shape, seed)
    optimiser, batches, step = Optimiser(network), Batches(maker), 0
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=False)
        network.load_state_dict(saved["network"])
        optimiser.load(saved["optimiser"])
        maker.load(saved["maker"])
        batches.short, batches.long, step, plan = saved["short"], saved["long"], saved["step"], saved["plan"]
        say(f"resumed at step {step}")
    compiled()
    threads = Threads()
    began = saved_at = logged = time.time()
    window: list[float] = []
    first = step
    while step < plan.last + plan.polish:
        now = time.time()
        if plan.stop_at is not None and plan.decay_start >= plan.last:
            begins = began + (1 - DECAY_SHARE) * (plan.stop_at - began)
            if now >= begins or (folder / "decay").exists():
                pace = (now - began) / max(1, step - first)
                plan.decay_start, plan.last = step, step + max(1, int((plan.stop_at - now) / pace))
                (folder / "steps.json").write_text(json.dumps({"decay_start": step, "last": plan.last}))
                say(f"decay from step {step} to {plan.last}")
        maker.mix = LEAN if plan.lean_from <= step < plan.decay_start else FULL
        if step >= plan.last:
            maker.mix = POLISH
        maker.focus = step >= plan.core_from
        threads.begin()
        started = time.perf_counter()
        batch = batches.next()
        losses, owners = token_losses(network, batch)
        torch.autograd.backward(losses.mean())
        optimiser.step(rate_fraction(step, plan.decay_start, plan.last, plan.polish))
        values = losses.detach().numpy()
        threads.end(time.perf_counter() - started)
        own = owners >= 0
        maker.learned(owners[own], values[own])
        window.append(float(values.mean()))
        step += 1
        if step % LOG_EVERY == 0 or step == plan.last + plan.polish:
            record = {
                "step": step,
                "seconds": round(time.time() - began, 1),
                "loss": round(float(np.mean(window)), 4),
                "known": round(float((maker.loss < 1).mean()), 4),
                "visits": round(float(maker.visits.mean()), 2),
                "tokens_per_s": round(len(window) * BATCH_TOKENS / (time.time() - logged)),
                "threads": threads.current,
            }
            window, logged = [], time.time()
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(record) + "\n")
            say(str(record))
        if time.time() - saved_at > CHECKPOINT_SECONDS or step == plan.last + plan.polish:
            saved_at = time.time()
            say(f"step {step}: held-out loss {held_out_loss(network, list(held_out)):.4f}")
            state = {
                "network": network.state_dict(), "optimiser": optimiser.state(), "maker": maker.state(),
                "short": batches.short, "long": batches.long, "step": step, "plan": plan,
            }  # fmt: skip
            torch.save(state, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").rename(checkpoint)
    return network

"""Two small tasks to train on: real digits read pixel by pixel, and associative recall.

In: sizes.  Out: a `Task`, whose data are tokens `[B, T, n]` and targets `[B, T]`; where a target
is `IGNORE` nothing is asked.  Also the training loop that all models of the demo share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

IGNORE = -100


@dataclass(frozen=True)
class Task:
    """Training batches by seed, and what is held back for the test."""

    name: str
    vocabularies: tuple[int, ...]
    classes: int
    batches: Callable[[int, int], Iterator[tuple[Tensor, Tensor]]]  # of a number and a seed
    test_tokens: Tensor
    test_targets: Tensor


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train."""

    steps: int
    rate: float
    decay: float = 0.01
    seed: int = 0


def digits(batch: int = 32, test_share: int = 5) -> Task:
    """The 8x8 digits inside scikit-learn: a token is a pixel's grey level and its place; T = 64.

    Training asks after every pixel of the lower half, the test only after the last one.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    grey = torch.from_numpy(found.data).long()
    images = torch.stack([grey, torch.arange(grey.shape[1]).expand_as(grey)], dim=-1)
    half = grey.shape[1] // 2
    labels = torch.from_numpy(found.target)[:, None].repeat(1, grey.shape[1])
    labels[:, :half] = IGNORE
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    held = len(images) // test_share
    test, train = order[:held], order[held:]

    def batches(number: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        left = train[:0]
        for _ in range(number):
            if len(left) < batch:
                left = train[torch.randperm(len(train), generator=generator)]
            now, left = left[:batch], left[batch:]
            yield images[now], labels[now]

    last = labels[test]
    last[:, :-1] = IGNORE
    return Task("digits", (17, 64), 10, batches, images[test], last)


def recall(
    pairs: int = 32, keys: int = 16, values: int = 16, queries: int = 8, batch: int = 64
) -> Task:
    """Pairs of a key and a value, then keys alone: which value came last with this key?

    Keys come again with other values, so a memory has to correct what it holds (Schlag, Irie,
    Schmidhuber 2021, arXiv:2102.11174, section 6.1, with duplicates).  More pairs are written than
    the state has rows; what is only added up drowns.
    """

    def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        written = torch.randint(keys, (count, pairs), generator=generator)
        held = torch.randint(values, (count, pairs), generator=generator)
        place = torch.rand(count, pairs, generator=generator).argsort(1)[:, :queries]
        asked = written.gather(1, place)
        same = written[:, None, :] == asked[:, :, None]
        last = (same * torch.arange(1, pairs + 1)).argmax(-1)
        answers = held.gather(1, last)
        nothing = torch.full((count, queries), values)  # the token that asks
        tokens = torch.stack(
            [torch.cat([written, asked], 1), torch.cat([held, nothing], 1)], dim=-1
        )
        silent = torch.full((count, pairs), IGNORE)
        return tokens, torch.cat([silent, answers], 1)

    def batches(number: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(number):
            yield draw(batch, generator)

    test = draw(256, torch.Generator().manual_seed(1_000_000))
    return Task("recall", (keys, values + 1), values, batches, *test)


def train(
    model: nn.Module, task: Task, recipe: Recipe, report: Callable[[float], None]
) -> list[float]:
    """Train with AdamW (warm-up, then a cosine); the loss of every step, told as it goes."""
    warm = max(1, recipe.steps // 20)

    def factor(step: int) -> float:
        return min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * step / recipe.steps))

    adam = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, factor)
    losses = []
    for tokens, targets in task.batches(recipe.steps, recipe.seed):
        asked = targets != IGNORE
        loss = functional.cross_entropy(model(tokens)[asked], targets[asked])
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        schedule.step()
        losses.append(loss.item())
        report(losses[-1])
    return losses


@torch.no_grad()
def accuracy(model: nn.Module, task: Task) -> float:
    """The share of right answers on the test data."""
    asked = task.test_targets != IGNORE
    found = model(task.test_tokens)[asked].argmax(-1)
    return (found == task.test_targets[asked]).double().mean().item()

"""k-means, for cluster keys."""

from __future__ import annotations

import torch
from torch import Tensor


def centroids(points: Tensor, count: int, seed: int, rounds: int = 25) -> Tensor:
    """Lloyd's algorithm from k-means++ starts (Arthur and Vassilvitskii, 2007).

    Args:
        points: float32 `[points, width]`, at least one.
        count: how many clusters; a point too few makes some centroids equal.
        seed: the same seed gives the same centroids.
        rounds: at most so many.

    Returns:
        float32 `[count, width]`.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    for _ in range(count - 1):
        nearest = torch.cdist(points, points[chosen]).amin(1).square()
        if not nearest.sum() > 0:
            chosen.append(chosen[0])
            continue
        chosen.append(int(torch.multinomial(nearest, 1, generator=generator)))
    centres = points[chosen].clone()
    for _ in range(rounds):
        owner = torch.cdist(points, centres).argmin(1)
        moved = centres.clone()
        for cluster in range(count):
            members = points[owner == cluster]
            if len(members):
                moved[cluster] = members.mean(0)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres

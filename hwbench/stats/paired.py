"""Two models on the same images: who is right where the other is wrong, and is it luck?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Difference:
    """Accuracy of one model less another's on the same images, as shares of 1.

    ``low`` and ``high`` bound 95 % by a paired bootstrap; ``p`` is McNemar's exact p-value of
    no difference; ``first_only`` and ``second_only`` count the images that one alone got right.
    """

    estimate: float
    low: float
    high: float
    p: float
    images: int
    first_only: int
    second_only: int


def difference(first: np.ndarray, second: np.ndarray, seed: int = 0) -> Difference:
    """Return how much more often `first` is right than `second`: booleans, one an image.

    McNemar, "Note on the sampling error of the difference between correlated proportions",
    Psychometrika 12, 1947, exact by the binomial distribution. The bootstrap draws images with
    both answers (Efron 1979). Raises `ValueError` unless both have the same images, at least one.
    """
    from scipy.special import bdtr

    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"answers of {first.shape} and {second.shape} are not paired")
    images = len(first)
    ahead, behind = int((first & ~second).sum()), int((~first & second).sum())
    decided = ahead + behind
    p = min(1.0, 2.0 * float(bdtr(min(ahead, behind), decided, 0.5))) if decided else 1.0
    shares = np.array([ahead, behind, images - decided]) / images
    drawn = np.random.default_rng(seed).multinomial(images, shares, size=_DRAWS)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / images, (0.025, 0.975))
    return Difference((ahead - behind) / images, float(low), float(high), p, images, ahead, behind)

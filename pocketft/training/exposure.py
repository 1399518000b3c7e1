"""How much likelier than chance a value is to a model: its exposure in bits (Carlini et al. 2019, "The Secret Sharer").

    exposure = log2 |R| - log2 rank

R is the space that the value could have been drawn from, rank its place when all of R is sorted by the model's loss.
The rank is estimated from a sample of R; where the value beats the whole sample, from a skew-normal distribution
fitted to the sample's losses, as in section 4.3 there. Knows numbers only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_erfc = np.vectorize(math.erfc)


def exposure(loss: float, alternatives: Sequence[float], bits: float) -> float:
    """`loss` of the value, losses of a sample of its alternatives, log2 |R|. Between 0 and `bits`."""
    sample = np.asarray(alternatives, dtype=np.float64)
    sampled = math.log2(len(sample) + 1)
    ahead = int((sample <= loss).sum())
    if ahead:
        return min(bits, sampled - math.log2(ahead + 1))
    return min(bits, max(sampled, -_log2_below(loss, sample)))


def _log2_below(loss: float, sample: np.ndarray) -> float:
    """log2 of the share of R with a lower loss, by the fitted distribution."""
    spread = float(sample.std())
    if spread == 0.0:
        return -math.inf
    skew = float(((sample - sample.mean()) ** 3).mean()) / spread**3
    third = min(abs(skew), 0.95) ** (2 / 3)  # a skew-normal distribution has a skewness below 0.9953
    delta = math.copysign(math.sqrt(math.pi / 2 * third / (third + ((4 - math.pi) / 2) ** (2 / 3))), skew)
    shape = delta / math.sqrt(max(1e-6, 1 - delta**2))
    scale = spread / math.sqrt(1 - 2 * delta**2 / math.pi)
    z = (loss - float(sample.mean())) / scale + delta * math.sqrt(2 / math.pi)
    grid = np.linspace(z - 12, z, 4001)
    density = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi) * _erfc(-shape * grid / math.sqrt(2))
    share = float(((density[1:] + density[:-1]) / 2 * np.diff(grid)).sum())
    return math.log2(share) if share > 0 else -math.inf

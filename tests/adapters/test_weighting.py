"""Token counts are claims: plain ones weigh, absurd ones do not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pocketft.adapters.state import AdapterInfo
from pocketft.adapters.weighting import as_given, by_tokens
from pocketft.errors import UsageError
from tests.adapters.build import adapter


def infos(*claims: Any) -> list[AdapterInfo]:
    return [adapter(index, **({} if claim is ... else {"tokens": claim})).info for index, claim in enumerate(claims)]


def test_training_tokens_are_the_weights() -> None:
    weighting = by_tokens(infos(1000, 3000))
    assert weighting.weights == pytest.approx((0.25, 0.75))
    assert weighting.by == "tokens" and not weighting.notices


@pytest.mark.parametrize("missing", [..., None, "many", -5, True, 1.5, math.nan])
def test_unknown_or_nonsense_counts_make_all_equal_and_say_so(missing: Any) -> None:
    weighting = by_tokens(infos(1000, missing, 9000))
    assert weighting.weights == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert weighting.by == "equal"
    assert "adapter-1" in weighting.notices[0]


@pytest.mark.parametrize("claim", [10**12, 10**400])
def test_an_absurd_claim_gains_nothing(claim: int) -> None:
    weighting = by_tokens(infos(1000, 2000, 3000, claim, 2000, 2500))
    assert weighting.weights[3] < 0.2
    assert "adapter-3" in weighting.notices[0] and "--weights" in weighting.notices[0]
    of_two = by_tokens(infos(claim, 1000))
    assert of_two.weights == pytest.approx((0.5, 0.5))


def test_adapters_without_any_training_weigh_the_same() -> None:
    assert by_tokens(infos(0, 0, 50)).weights == pytest.approx((1 / 3, 1 / 3, 1 / 3))


def test_given_weights_are_shares_and_must_make_sense() -> None:
    assert as_given([2, 1, 1], infos(1, 1, 1)).weights == pytest.approx((0.5, 0.25, 0.25))
    for wrong in ([1, 1], [1, 1, -1], [0, 0, 0], [1, math.nan, 1], [math.inf, 1, 1], [1e308, 1e308, 1]):
        with pytest.raises(UsageError):
            as_given(wrong, infos(1, 1, 1))

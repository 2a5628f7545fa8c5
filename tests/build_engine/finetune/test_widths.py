from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import example, given

from electra_qa.build_engine.finetune.widths import most_important

layers = st.lists(
    st.lists(st.floats(0, 1e9), min_size=1, max_size=40).map(np.array), min_size=1, max_size=5
)


@given(layers, st.floats(0.01, 1), st.integers(1, 16))
@example([np.full(7, 0.1), np.full(40, 0.1)], 0.5, 3)
@example([np.zeros(8), np.zeros(8)], 0.5, 4)
def test_widths_are_multiples_as_near_to_the_share_as_they_allow(
    scores: list[np.ndarray], share: float, multiple: int
) -> None:
    kept = most_important(scores, share, multiple)
    widths = [len(indices) for indices in kept]
    for layer, indices in zip(scores, kept, strict=True):
        assert list(indices) == sorted(set(indices))
        assert 0 <= indices[0] <= indices[-1] < len(layer)
        assert len(indices) % multiple == 0 or len(indices) == len(layer)
        # Nothing that is left out is worth more than what is kept.
        out = np.delete(layer, indices)
        assert out.size == 0 or out.max() <= layer[list(indices)].min()
    least = sum(min(multiple, len(layer)) for layer in scores)
    wanted = share * sum(map(len, scores))
    assert sum(widths) == least or abs(sum(widths) - wanted) <= multiple
    assert kept == most_important([layer.copy() for layer in scores], share, multiple)
    if share == 1:
        assert widths == [len(layer) for layer in scores]


def test_layers_are_compared_by_shares_of_their_own_sums() -> None:
    """A layer whose gradients are a thousand times as large is no more important for that."""
    small, large = np.array([4.0, 3.0, 0.0, 0.0]), np.array([4000.0, 3000.0, 1.0, 1.0])
    assert most_important([small, large], 0.5, 1) == ((0, 1), (0, 1))


def test_a_layer_may_keep_all_and_another_the_least() -> None:
    even, uneven = np.ones(8), np.array([1e6, *[1e-6] * 7])
    assert most_important([uneven, even], 10 / 16, 2) == ((0, 1), tuple(range(8)))


def test_a_width_that_is_no_multiple_stays_or_becomes_one() -> None:
    scores = [np.arange(7.0), np.arange(7.0)]
    assert [len(kept) for kept in most_important(scores, 1.0, 4)] == [7, 7]
    assert [len(kept) for kept in most_important(scores, 0.6, 4)] == [4, 4]
    assert [len(kept) for kept in most_important([np.arange(3.0)], 0.3, 4)] == [3]

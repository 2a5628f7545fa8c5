from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from electra_qa.build_engine.finetune.batches import SORTED_BATCHES, collate, epoch_batches
from electra_qa.build_engine.finetune.data import Feature


@given(
    lengths=st.lists(st.integers(5, 384), min_size=1, max_size=300),
    size=st.integers(1, 20),
    epoch=st.integers(0, 5),
)
def test_every_window_comes_once_an_epoch(lengths: list[int], size: int, epoch: int) -> None:
    batches = epoch_batches(lengths, size, seed=1, epoch=epoch)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // size)
    assert all(len(batch) <= size for batch in batches)
    assert batches == epoch_batches(lengths, size, seed=1, epoch=epoch)


def test_batches_are_of_like_length_and_in_no_order() -> None:
    lengths = np.random.default_rng(0).integers(20, 380, 1600).tolist()
    batches = epoch_batches(lengths, 16, seed=1, epoch=0)
    spreads = [max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in batches]
    assert np.mean(spreads) < 2 * 360 / SORTED_BATCHES
    means = [np.mean([lengths[i] for i in batch]) for batch in batches]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.3
    assert batches != epoch_batches(lengths, 16, seed=1, epoch=1)
    assert batches != epoch_batches(lengths, 16, seed=2, epoch=0)


def feature(length: int, context_start: int = 3) -> Feature:
    return Feature(np.arange(1, length + 1, dtype=np.int32), context_start, 4, 5)


def test_padding_is_masked_and_lengths_are_rounded_up() -> None:
    batch = collate([feature(33), feature(10)], pad_id=7, max_length=384)
    assert batch.input_ids.shape == (2, 64)
    assert batch.input_ids[1].tolist() == [*range(1, 11)] + [7] * 54
    assert batch.attention_mask.sum(dim=1).tolist() == [33, 10]
    assert batch.token_type_ids[1].tolist() == [0, 0, 0] + [1] * 7 + [0] * 54
    assert batch.tokens == 43
    assert (batch.starts.tolist(), batch.ends.tolist()) == ([4, 4], [5, 5])


def test_no_batch_is_longer_than_the_model_takes() -> None:
    assert collate([feature(50)], pad_id=0, max_length=50).input_ids.shape == (1, 50)

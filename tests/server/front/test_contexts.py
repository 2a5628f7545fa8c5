from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from electra_qa.server.front.contexts import ContextCache
from electra_qa.server.observe.metrics import Metrics
from electra_qa.tokenization import Tokenizer


def test_a_context_that_repeats_is_tokenized_once(tokenizer: Tokenizer) -> None:
    metrics = Metrics()
    cache = ContextCache(tokenizer, 1_000_000, metrics)
    text = "The Normans came from Denmark."
    assert text not in cache
    first = cache.tokenize(text)
    assert text in cache
    assert cache.tokenize("".join(list(text))) is first
    np.testing.assert_array_equal(first.ids, tokenizer.context(text).ids)
    value = metrics.registry.get_sample_value
    assert value("electra_qa_context_cache_hits_total") == 1
    assert value("electra_qa_context_cache_misses_total") == 1
    assert value("electra_qa_context_cache_bytes") == first.nbytes > len(text)


def test_its_memory_is_bounded_and_the_least_used_goes_first(tokenizer: Tokenizer) -> None:
    metrics = Metrics()
    texts = [f"{n:04} is the number of this context." for n in range(10)]
    size = tokenizer.context(texts[0]).nbytes
    cache = ContextCache(tokenizer, 3 * size, metrics)
    for text in texts[:3]:
        cache.tokenize(text)
    cache.tokenize(texts[0])
    cache.tokenize(texts[3])
    assert [text in cache for text in texts[:4]] == [True, False, True, True]
    for text in texts:
        cache.tokenize(text)
        held = metrics.registry.get_sample_value("electra_qa_context_cache_bytes")
        assert held is not None
        assert held <= 3 * size


def test_what_does_not_fit_is_tokenized_all_the_same(tokenizer: Tokenizer) -> None:
    cache = ContextCache(tokenizer, 0, Metrics())
    assert len(cache.tokenize("Rollo came.").ids) > 2
    assert "Rollo came." not in cache


def test_many_threads_may_ask(tokenizer: Tokenizer) -> None:
    texts = [f"context number {n}" for n in range(20)]
    cache = ContextCache(tokenizer, 3_000, Metrics())
    with ThreadPoolExecutor(8) as pool:
        for context, text in zip(pool.map(cache.tokenize, texts * 20), texts * 20, strict=True):
            assert context.text == text

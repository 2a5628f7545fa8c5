"""Contexts are tokenized once: an LRU by content, bounded in bytes."""

from __future__ import annotations

import threading

from cachetools import LRUCache

from electra_qa.tokenization import TokenizedContext, Tokenizer

from ..observe.metrics import Metrics


class ContextCache:
    """Safe to call from several threads."""

    def __init__(self, tokenizer: Tokenizer, max_bytes: int, metrics: Metrics) -> None:
        self._tokenizer = tokenizer
        self._metrics = metrics
        self._lock = threading.Lock()
        self._cache: LRUCache[str, TokenizedContext] = LRUCache(
            max_bytes, getsizeof=lambda context: context.nbytes
        )

    def __contains__(self, text: str) -> bool:
        with self._lock:
            return text in self._cache

    def tokenize(self, text: str) -> TokenizedContext:
        with self._lock:
            found = self._cache.get(text)
        if found is not None:
            self._metrics.cache_hits.inc()
            return found
        self._metrics.cache_misses.inc()
        tokenized = self._tokenizer.context(text)
        with self._lock:
            if tokenized.nbytes <= self._cache.maxsize:
                before = self._cache.currsize
                # The key is the very string that the value holds: its bytes count once.
                self._cache[text] = tokenized
                self._metrics.cache_bytes.inc(self._cache.currsize - before)
        return tokenized

    def clear(self) -> None:
        with self._lock:
            self._metrics.cache_bytes.dec(self._cache.currsize)
            self._cache.clear()

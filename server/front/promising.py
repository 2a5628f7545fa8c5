"""Which texts are worth reading, by BM25."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def most_promising(
    question_ids: npt.NDArray[np.int32], texts: Sequence[npt.NDArray[np.int32]], count: int
) -> list[int]:
    """The places of the `count` texts with the highest scores, rising; of equal ones the first."""
    if count >= len(texts):
        return list(range(len(texts)))
    scores = promise(question_ids, texts)
    return sorted(np.argsort(-scores, kind="stable")[:count].tolist())


def promise(
    question_ids: npt.NDArray[np.int32], texts: Sequence[npt.NDArray[np.int32]]
) -> npt.NDArray[np.float32]:
    """The BM25 score of each text, float32 [texts].

    question_ids, texts: token ids, int32 [tokens] each. Tokens of a model are parts of words in any
    language, and those that every text has weigh next to nothing.
    """
    import bm25s  # only where somebody asks for it

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets DEBUG when it is imported
    if not any(len(ids) for ids in texts):
        return np.zeros(len(texts), np.float32)
    # The library numbers its tokens from 0 on, without a gap.
    vocabulary, numbers = np.unique(np.concatenate(texts), return_inverse=True)
    ends = np.cumsum([len(ids) for ids in texts])[:-1]
    corpus = [ids.tolist() for ids in np.split(numbers, ends)]
    index = bm25s.BM25()
    index.index(
        (corpus, {token: number for number, token in enumerate(vocabulary.tolist())}),
        show_progress=False,
    )
    asked = np.searchsorted(vocabulary, np.intersect1d(vocabulary, question_ids))
    scores: npt.NDArray[np.float32] = index.get_scores_from_ids(asked.tolist())
    return scores

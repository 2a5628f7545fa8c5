"""The question-answering pipeline of Transformers 5.2, the last that has it.

It compares probabilities, not scores. Of a question with one window their ratio is that of the
scores: log P(null) − log P(best) is the null score difference. With several windows it is the
pipeline's own rule in the same units.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

from lines import serve_lines
from transformers import pipeline

Result = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True)
    arguments = parser.parse_args()
    # Without a dtype it computes in the checkpoint's own, float16 here, which a CPU is slow at.
    pipe = pipeline("question-answering", model=arguments.checkpoint, dtype="float32")
    # 5.2 loads this checkpoint's tokenizer as a generic one, which leaves the segments out: the
    # model would take the context for a part of the question.
    pipe.tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]

    def answer(questions: Sequence[tuple[str, str]]) -> list[tuple[str, float]]:
        # No batch_size: its documentation advises against batching on a CPU. Its doc_stride is how
        # much two windows share, and 128 and 384 are its defaults too.
        answers = []
        for question, context in questions:
            # The best span and no answer, where neither is beaten by another span.
            results = pipe(
                question=question,
                context=context,
                max_seq_len=384,
                doc_stride=128,
                max_question_len=64,
                max_answer_len=30,
                handle_impossible_answer=True,
                top_k=2,
            )
            answers.append(_answer(results))
        return answers

    serve_lines(answer)


def _answer(results: Sequence[Result]) -> tuple[str, float]:
    """The best span, and the null score difference; −inf where two spans are better than none, so
    that it is under 0."""
    null = next((one for one in results if not one["answer"]), None)
    best = next((one for one in results if one["answer"]), None)
    if best is None:
        return "", math.inf
    if null is None:
        return best["answer"], -math.inf
    return best["answer"], _log(null["score"]) - _log(best["score"])


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else -math.inf


if __name__ == "__main__":
    main()

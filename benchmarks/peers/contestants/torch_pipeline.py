"""The question-answering pipeline of Transformers 5.2, the last that has it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lines import serve_lines
from transformers import pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True)
    arguments = parser.parse_args()
    # Without a dtype it computes in the checkpoint's own, float16 here, which a CPU is slow at.
    pipe = pipeline("question-answering", model=arguments.checkpoint, dtype="float32")
    # 5.2 loads this checkpoint's tokenizer as a generic one, which leaves the segments out: the
    # model would take the context for a part of the question.
    pipe.tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]

    def answer(questions: Sequence[tuple[str, str]]) -> list[str]:
        # No batch_size: its documentation advises against batching on a CPU. Its doc_stride is how
        # much two windows share, and 128 and 384 are its defaults too.
        answers = []
        for question, context in questions:
            result = pipe(
                question=question,
                context=context,
                max_seq_len=384,
                doc_stride=128,
                max_question_len=64,
                max_answer_len=30,
                handle_impossible_answer=True,
            )
            answers.append(result["answer"])
        return answers

    serve_lines(answer)


if __name__ == "__main__":
    main()

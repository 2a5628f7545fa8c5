"""Every way in which Transformers' pipeline took questions and contexts, as `Question`s."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from .messages import Question, check_text

Texts = str | list[str] | None


def read_inputs(
    args: tuple[Any, ...], question: Texts, context: Texts
) -> list[Question] | Generator[Question]:
    """A generator for a generator. Raises KeyError, and ValueError that says which one is meant."""
    if len(args) == 1 and isinstance(args[0], Generator):
        return (_example(item, f"inputs[{i}]: ") for i, item in enumerate(args[0]))
    items = _items(args, question, context)
    examples = []
    for index, item in enumerate(items):
        where = f"inputs[{index}]: " if len(items) > 1 else ""
        example = _example(item, where)
        # Of a generator Transformers takes these as they come.
        for key, text in zip(Question._fields, example, strict=True):
            if not text:
                raise ValueError(f"{where}`{key}` cannot be empty")
        examples.append(example)
    return examples


def _items(args: tuple[Any, ...], question: Texts, context: Texts) -> list[Any]:
    if len(args) == 2 and all(isinstance(arg, str) for arg in args):
        return [{"question": args[0], "context": args[1]}]
    if args:
        items = args[0] if len(args) == 1 else args
        return [items] if isinstance(items, Mapping) or _is_squad_example(items) else list(items)
    if question is None or context is None:
        raise ValueError("question and context must both be given")
    questions = [question] if isinstance(question, str) else question
    contexts = [context] * len(questions) if isinstance(context, str) else context
    if len(questions) != len(contexts):
        raise ValueError("Questions and contexts don't have the same lengths")
    return [{"question": q, "context": c} for q, c in zip(questions, contexts, strict=True)]


def _is_squad_example(item: Any) -> bool:
    """One of Transformers, which is not imported for it."""
    return hasattr(item, "question_text") and hasattr(item, "context_text")


def _example(item: Any, where: str) -> Question:
    if _is_squad_example(item):
        item = {"question": item.question_text, "context": item.context_text}
    if not isinstance(item, Mapping):
        raise ValueError(f"{where}{item!r} must be a dictionary with the keys question and context")
    for key in Question._fields:
        if key not in item:
            raise KeyError(
                f"{where}You need to provide a dictionary with keys {{question:..., context:...}}"
            )
        if item[key] is None:
            raise ValueError(f"{where}`{key}` cannot be None")
        check_text(f"{where}{key}", item[key])
    return Question(item["question"], item["context"])

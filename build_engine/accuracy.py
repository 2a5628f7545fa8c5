"""EM and F1 of a bundle on its engine, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from electra_qa.bundle import Bundle
from electra_qa.engines import Engine, batches_by_length
from electra_qa.merge import merge
from electra_qa.spans import DecodedWindow, DecodeOptions, Prediction, row
from electra_qa.squad import SquadQuestion, read_squad, squad_metrics
from electra_qa.tokenization import TokenizedContext, Tokenizer
from electra_qa.windows import Window, WindowBatch, WindowSettings, make_windows


def measure(bundle: Bundle, engine: Engine, data: Path, console: Console) -> dict[str, Any]:
    """The official metrics on a SQuAD file, with "data" naming it. Raises SquadError."""
    questions = read_squad(data)
    predictions = predict(bundle, engine, questions, console)
    metrics = squad_metrics(
        questions,
        {id_: "" if p.is_impossible else p.answers[0].text for id_, p in predictions.items()},
        na_probs={id_: p.null_score_diff for id_, p in predictions.items()},
        na_prob_thresh=float("inf"),
    )
    console.print(f"  EM {metrics['exact']:.2f}, F1 {metrics['f1']:.2f} on {data.name}")
    return {"data": data.name, **metrics}


def predict(
    bundle: Bundle, engine: Engine, questions: Sequence[SquadQuestion], console: Console
) -> dict[str, Prediction]:
    """Predictions by question id, with the bundle's defaults."""
    manifest = bundle.manifest
    return predict_with(
        Tokenizer(bundle.read_tokenizer(), manifest.special_tokens),
        engine,
        questions,
        manifest.window_settings,
        DecodeOptions(
            max_answer_length=manifest.max_answer_length,
            null_score_diff_threshold=manifest.null_score_diff_threshold,
        ),
        console,
    )


def predict_with(
    tokenizer: Tokenizer,
    engine: Engine,
    questions: Sequence[SquadQuestion],
    settings: WindowSettings,
    options: DecodeOptions,
    console: Console,
) -> dict[str, Prediction]:
    """Predictions by question id; windows are batched by length."""
    contexts: dict[str, TokenizedContext] = {}
    windows: list[tuple[int, Window]] = []
    for index, question in enumerate(questions):
        if question.context not in contexts:
            contexts[question.context] = tokenizer.context(question.context)
        windows += [
            (index, window)
            for window in make_windows(
                tokenizer.question(question.question),
                contexts[question.context].ids,
                settings=settings,
                cls_id=tokenizer.cls_id,
                sep_id=tokenizer.sep_id,
            )
        ]
    decoded: list[list[tuple[Window, DecodedWindow]]] = [[] for _ in questions]
    with Progress(console=console) as progress:
        task = progress.add_task("Measuring", total=len(windows))
        lengths = [window.length for _, window in windows]
        for length, places in batches_by_length(lengths, engine.buckets, engine.batch_tokens):
            batch = [windows[place] for place in places]
            results = engine.run(
                WindowBatch.pad(
                    [window for _, window in batch],
                    [options.max_answer_length] * len(batch),
                    length=length,
                    pad_id=tokenizer.pad_id,
                )
            )
            for place, (index, window) in enumerate(batch):
                decoded[index].append((window, row(results, place)))
            progress.advance(task, len(batch))
    return {
        question.id: merge(
            contexts[question.context],
            [window for window, _ in pairs],
            [result for _, result in pairs],
            options,
        )
        for question, pairs in zip(questions, decoded, strict=True)
    }

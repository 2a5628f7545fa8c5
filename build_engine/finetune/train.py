"""The training loop."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from electra_qa.bundle import sha256_of
from electra_qa.squad import write_squad
from electra_qa.tokenization import Tokenizer

from ..errors import BuildError
from . import state
from .batches import collate, epoch_batches
from .data import Feature, make_features
from .evaluation import Evaluation, evaluate
from .examples import Examples, read_examples
from .losses import distillation_loss, span_loss
from .model import QaModel, load_model, save_checkpoint, span_logits
from .optimizer import make_optimizer, set_learning_rate
from .progress import Progress
from .pruning import check_prunable, prune
from .settings import FinetuneData, FinetuneSettings
from .teacher import pad_logits, teacher_logits

# What no step has seen: `build` can measure its bundle on it.
HELD_OUT = "held_out.json"

# May change from one part of a run to the next.
FREE = ("logging_steps", "save_steps", "eval_steps", "half_weights")


@dataclass(frozen=True, slots=True)
class _Run:
    settings: FinetuneSettings
    device: torch.device
    model: QaModel
    tokenizer: Tokenizer
    features: Sequence[Feature]
    teacher: Sequence[torch.Tensor]
    examples: Examples


def finetune(
    data: FinetuneData,
    settings: FinetuneSettings,
    output: Path,
    console: Console,
    *,
    resume: bool = False,
) -> None:
    """Train, and write a checkpoint with its threshold into the folder `output`.

    With `resume` a run that was stopped in `output` goes on to the result that it would have had.
    Raises BuildError, and SquadError for a file that is none of SQuAD's.
    """
    device = _device(settings)
    prunes = settings.prunes
    started = time.monotonic()
    identity = _identity(data, settings)
    checkpoint = state.check(output, identity, resume=resume)
    examples = read_examples(data, settings)
    torch.manual_seed(settings.seed)  # the span head begins at random
    model = load_model(
        data.model,
        do_lower_case=settings.do_lower_case,
        hidden_dropout_prob=settings.hidden_dropout_prob,
        attention_probs_dropout_prob=settings.attention_probs_dropout_prob,
    )
    if prunes:
        check_prunable(model)
    if settings.max_seq_length > model.longest_input:
        raise BuildError(
            f"max_seq_length must be at most {model.longest_input}, the positions of the model, "
            f"got {settings.max_seq_length}"
        )
    tokenizer = model.make_tokenizer()
    windows = settings.windows(model.special_tokens)
    features = make_features(examples.train, tokenizer, windows)
    if not features:
        raise BuildError("the training files have no question with a context")
    _describe(examples, features, console)
    state.begin(output, identity)
    teacher: list[torch.Tensor] = []
    if name := _teacher(data, settings):
        teacher = teacher_logits(
            name,
            model,
            features,
            max_length=settings.max_seq_length,
            autocast=settings.autocast,
            device=device,
            output=output,
            console=console,
        )
    torch.nn.Module.to(model.network, device)  # Transformers' own `to` has no types
    if prunes:
        model = prune(model, features, settings, output, console)
    run = _Run(settings, device, model, tokenizer, features, teacher, examples)
    evaluation = _train(run, output, checkpoint, console)
    save_checkpoint(
        model,
        output,
        null_score_diff_threshold=evaluation.threshold if evaluation else 0.0,
        half=settings.half_weights,
    )
    if examples.held_out and not data.predict_file:
        write_squad(output / HELD_OUT, examples.held_out)
    _report(run, data, evaluation, time.monotonic() - started, output)
    state.clear(output)


def _train(run: _Run, output: Path, checkpoint: Path | None, console: Console) -> Evaluation | None:
    settings = run.settings
    lengths = [feature.length for feature in run.features]
    batches = -(-len(lengths) // settings.per_gpu_train_batch_size)
    epoch_steps = -(-batches // settings.gradient_accumulation_steps)
    total = settings.max_steps or max(1, round(settings.num_train_epochs * epoch_steps))
    scaler = torch.amp.GradScaler(run.device.type, enabled=settings.autocast == "fp16")
    learner = state.Learner(run.model.network, make_optimizer(run.model, settings), scaler)
    first = state.load(checkpoint, learner) if checkpoint else 0
    order: list[list[int]] = []
    evaluation: Evaluation | None = None
    progress = Progress(console, output / "logs", settings.logging_steps, first, total)
    with closing(progress):
        for step in range(first, total):
            epoch, place = divmod(step, epoch_steps)
            if place == 0 or not order:
                order = epoch_batches(
                    lengths, settings.per_gpu_train_batch_size, seed=settings.seed, epoch=epoch
                )
            share = set_learning_rate(learner.optimizer, step, total, settings.warmup_proportion)
            accumulated = settings.gradient_accumulation_steps
            group = order[place * accumulated : (place + 1) * accumulated]
            loss, tokens = _step(run, learner, step, group)
            done = step + 1
            progress.step(done, loss, tokens, settings.learning_rate * share)
            if done % settings.save_steps == 0 and done < total:
                state.save(output, done, learner)
            due = done % (settings.eval_steps or epoch_steps) == 0 or done == total
            if run.examples.held_out and due:
                evaluation = evaluate(
                    run.model,
                    run.tokenizer,
                    run.examples.held_out,
                    run.examples.threshold_questions,
                    settings,
                )
                progress.evaluated(done, evaluation.exact, evaluation.f1, evaluation.threshold)
    return evaluation


def _step(
    run: _Run, learner: state.Learner, step: int, group: Sequence[Sequence[int]]
) -> tuple[float, int]:
    """One step of the optimizer; (mean loss, tokens)."""
    settings = run.settings
    run.model.network.train()
    # Dropout's numbers depend on the seed and the step alone: a resumed run draws the same ones.
    torch.manual_seed(settings.seed * 1_000_003 + step)
    total_loss = torch.zeros((), device=run.device)
    tokens = 0
    for indices in group:
        batch = collate(
            [run.features[index] for index in indices],
            run.tokenizer.pad_id,
            settings.max_seq_length,
        )
        tokens += batch.tokens
        batch = batch.to(run.device)
        logits = span_logits(
            run.model,
            batch.input_ids,
            batch.attention_mask,
            batch.token_type_ids,
            settings.autocast,
        )
        loss = span_loss(logits, batch)
        if run.teacher:
            wanted = pad_logits([run.teacher[i] for i in indices], logits.shape[1])
            apart = distillation_loss(
                logits, wanted.to(run.device), batch, settings.distillation_temperature
            )
            weight = settings.distillation_weight
            loss = (1 - weight) * loss + weight * apart
        loss = loss / len(group)
        learner.scaler.scale(loss).backward()
        total_loss += loss.detach()
    learner.scaler.unscale_(learner.optimizer)
    if settings.max_grad_norm:
        torch.nn.utils.clip_grad_norm_(run.model.network.parameters(), settings.max_grad_norm)
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    learner.optimizer.zero_grad()
    return total_loss.item(), tokens


def _device(settings: FinetuneSettings) -> torch.device:
    cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not cuda:
        raise BuildError("device is cuda, but PyTorch finds no GPU")
    if settings.device == "cpu" or not cuda:
        if settings.autocast == "fp16":
            raise BuildError("autocast fp16 is for a GPU; on a CPU take bf16")
        return torch.device("cpu")
    return torch.device("cuda")


def _teacher(data: FinetuneData, settings: FinetuneSettings) -> str | None:
    """What is left of a pruned model learns from the whole one."""
    return data.teacher or (data.model if settings.prunes else None)


def _identity(data: FinetuneData, settings: FinetuneSettings) -> dict[str, Any]:
    """What two parts of one run have in common."""
    files = {
        "train_file": [sha256_of(path) for path in data.train_files],
        "predict_file": data.predict_file and sha256_of(data.predict_file),
        "question_edits": data.question_edits and sha256_of(data.question_edits),
        "model_name_or_path": data.model,
        "teacher": data.teacher,
    }
    return files | {
        name: value for name, value in dataclasses.asdict(settings).items() if name not in FREE
    }


def _describe(examples: Examples, features: Sequence[Feature], console: Console) -> None:
    answerable = sum(1 for question in examples.train if question.answers)
    tokens = sum(feature.length for feature in features)
    console.print(
        f"{len(examples.train):,} questions, {answerable:,} of them with an answer; "
        f"{len(features):,} windows of {tokens / len(features):.0f} tokens; "
        f"{len(examples.held_out):,} questions held out",
        highlight=False,
    )
    for kind, count in sorted(examples.made.items(), key=lambda pair: -pair[1]):
        console.print(f"  made negatives: {kind:<10} {count:>7,}", highlight=False)


def _report(
    run: _Run,
    data: FinetuneData,
    evaluation: Evaluation | None,
    seconds: float,
    output: Path,
) -> None:
    """training.json: what was run on what, and what came of it. Of files the names alone."""
    import transformers

    teacher = _teacher(data, run.settings)
    content = {
        "model_name_or_path": Path(data.model).name if Path(data.model).is_dir() else data.model,
        "train_file": [path.name for path in data.train_files],
        "question_edits": data.question_edits and data.question_edits.name,
        "teacher": teacher and Path(teacher).name,
        "settings": dataclasses.asdict(run.settings),
        "attention_heads_by_layer": run.model.architecture.attention_heads_by_layer,
        "intermediate_size_by_layer": run.model.architecture.intermediate_size_by_layer,
        "questions": len(run.examples.train),
        "windows": len(run.features),
        "made_negatives": dict(run.examples.made),
        "held_out_questions": len(run.examples.held_out),
        "threshold_questions": len(run.examples.threshold_questions),
        "held_out": dict(evaluation.metrics)
        | {
            "null_score_diff_threshold": evaluation.threshold,
            "exact_at_threshold": evaluation.exact,
            "f1_at_threshold": evaluation.f1,
            "f1_at_0": evaluation.f1_at_0,
        }
        if evaluation
        else None,
        "seconds": round(seconds),
        "threads": torch.get_num_threads(),
        "device": str(run.device),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    (output / "training.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from electra_qa.build_engine.finetune.batches import collate
from electra_qa.build_engine.finetune.data import Feature, make_features
from electra_qa.build_engine.finetune.model import QaModel, load_model, span_logits
from electra_qa.build_engine.finetune.settings import FinetuneSettings
from electra_qa.build_engine.finetune.teacher import teacher_logits
from electra_qa.squad import SquadQuestion, read_squad

SMALL = Path(__file__).parents[2] / "data" / "small.json"
MAX_LENGTH = 64


@pytest.fixture(scope="module")
def teacher(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint("bert", vocab_size=30522)


@pytest.fixture(scope="module")
def features() -> list[Feature]:
    rng = np.random.default_rng(0)
    return [
        Feature(rng.integers(1000, 2000, length, dtype=np.int32), 3, 0, 0)
        for length in (9, 64, 33, 20, 64, 7)
    ]


def ask(teacher: Path, features: list[Feature], output: Path) -> list[torch.Tensor]:
    return teacher_logits(
        str(teacher),
        load_model(str(teacher)),
        features,
        max_length=MAX_LENGTH,
        autocast="no",
        device=torch.device("cpu"),
        output=output,
        console=Console(file=io.StringIO()),
    )


def test_each_window_has_the_logits_that_it_has_alone(
    teacher: Path, features: list[Feature], tmp_path: Path
) -> None:
    found = ask(teacher, features, tmp_path)
    model = load_model(str(teacher))
    model.network.eval()
    for feature, logits in zip(features, found, strict=True):
        alone = collate([feature], 0, MAX_LENGTH)
        with torch.inference_mode():
            wanted = span_logits(
                model, alone.input_ids, alone.attention_mask, alone.token_type_ids, "no"
            )
        torch.testing.assert_close(logits, wanted[0, : feature.length].half(), rtol=2e-3, atol=2e-3)
    for kept, logits in zip(ask(teacher, features, tmp_path), found, strict=True):
        assert torch.equal(kept, logits)


def test_the_logits_of_all_windows_are_one_block_of_memory(
    teacher: Path, features: list[Feature], tmp_path: Path
) -> None:
    """Small blocks among those of the batches had the process grow to 24 GB on 55,801 windows."""
    found = ask(teacher, features, tmp_path)
    assert len({logits.untyped_storage().data_ptr() for logits in found}) == 1


@pytest.mark.parametrize(("student_type", "teacher_type"), [("bert", "mpnet"), ("mpnet", "bert")])
def test_a_teacher_reads_the_windows_in_its_own_way(
    whole_checkpoint: Callable[[str], Path], tmp_path: Path, student_type: str, teacher_type: str
) -> None:
    """An MPNet has BERT's pieces under other ids, and one separator more before the context."""
    student = load_model(str(whole_checkpoint(student_type)))
    teacher = load_model(str(whole_checkpoint(teacher_type)))
    teacher.network.eval()
    ours, theirs = student.special_tokens.separators, teacher.special_tokens.separators
    [question, *_] = read_squad(SMALL)
    # Long contexts become several windows: of the same pieces, if the teacher's may be longer.
    settings = FinetuneSettings(max_seq_length=60, max_query_length=16, doc_stride=30)
    longer = dataclasses.replace(settings, max_seq_length=60 + theirs - ours)
    windows = features_of(student, question, settings)
    expected = features_of(teacher, question, longer)
    assert len(windows) == len(expected) > 1

    found = teacher_logits(
        str(whole_checkpoint(teacher_type)),
        student,
        windows,
        max_length=settings.max_seq_length,
        autocast="no",
        device=torch.device("cpu"),
        output=tmp_path,
        console=Console(file=io.StringIO()),
    )
    for window, its_window, logits in zip(windows, expected, found, strict=True):
        alone = collate([its_window], teacher.make_tokenizer().pad_id, 128)
        with torch.inference_mode():
            whole = span_logits(
                teacher, alone.input_ids, alone.attention_mask, alone.token_type_ids, "no"
            )[0, : its_window.length].half()
        start = its_window.context_start
        torch.testing.assert_close(
            logits[window.context_start :], whole[start:], rtol=2e-3, atol=2e-3
        )
        question_end = start - theirs
        torch.testing.assert_close(
            logits[:question_end], whole[:question_end], rtol=2e-3, atol=2e-3
        )


def features_of(
    model: QaModel, question: SquadQuestion, settings: FinetuneSettings
) -> list[Feature]:
    windows = settings.windows(model.special_tokens)
    return make_features([question], model.make_tokenizer(), windows)

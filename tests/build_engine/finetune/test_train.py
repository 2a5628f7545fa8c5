"""Whole runs, on a tiny model."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from rich.console import Console
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from electra_qa.build_engine.build import BuildData, BuildSettings, build_bundle
from electra_qa.build_engine.errors import BuildError
from electra_qa.build_engine.finetune.settings import FinetuneData, FinetuneSettings
from electra_qa.build_engine.finetune.train import finetune
from electra_qa.cli import main
from electra_qa.squad import SquadError, read_squad, squad_metrics

NAMES = ("Abel", "Berta", "Cyril", "Dora", "Emil", "Frida", "Gustav", "Hanna")
QUICK = FinetuneSettings(
    max_seq_length=64,
    max_query_length=16,
    doc_stride=16,
    per_gpu_train_batch_size=4,
    learning_rate=1e-3,
    max_steps=6,
    hidden_dropout_prob=0.2,
    held_out=0.25,
    save_steps=2,
    logging_steps=1,
)


@pytest.fixture(scope="module")
def squad_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 questions on 8 paragraphs: three with an answer and one without for each."""
    data = []
    for index, name in enumerate(NAMES):
        facts = {"born": f"{1801 + 7 * index}", "town": f"{name}stadt", "boat": f"Star {index}"}
        context = (
            f"{name} was born in {facts['born']} in the town of {facts['town']} and had a boat "
            f"called {facts['boat']}."
        )
        qas: list[dict[str, Any]] = [
            {
                "id": f"{name}-{key}",
                "question": question.format(name=name),
                "answers": [{"text": facts[key], "answer_start": context.index(facts[key])}],
            }
            for key, question in (
                ("born", "When was {name} born?"),
                ("town", "In which town was {name} born?"),
                ("boat", "What was the boat of {name} called?"),
            )
        ]
        qas.append({"id": f"{name}-no", "question": f"Who married {name}?", "answers": []})
        paragraph = {"context": context, "qas": qas}
        data.append({"title": name, "paragraphs": [paragraph]})
    path = tmp_path_factory.mktemp("squad") / "train.json"
    path.write_text(json.dumps({"version": "v2.0", "data": data}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint("bert", hidden_size=64, intermediate_size=128, vocab_size=30522)


def run(
    data: FinetuneData, settings: FinetuneSettings, output: Path, *, resume: bool = False
) -> dict[str, torch.Tensor]:
    finetune(data, settings, output, Console(file=io.StringIO()), resume=resume)
    weights: dict[str, torch.Tensor] = load_file(output / "model.safetensors")
    return weights


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_seed_makes_two_runs_equal(model: Path, squad_file: Path, tmp_path: Path) -> None:
    data = FinetuneData(str(model), (squad_file,))
    first = run(data, QUICK, tmp_path / "a")
    assert equal(first, run(data, QUICK, tmp_path / "b"))
    assert not equal(first, run(data, dataclasses.replace(QUICK, seed=7), tmp_path / "c"))


def test_the_held_out_questions_are_written(model: Path, squad_file: Path, tmp_path: Path) -> None:
    run(FinetuneData(str(model), (squad_file,)), QUICK, tmp_path / "a")
    held_out = read_squad(tmp_path / "a" / "held_out.json")
    whole = {question.id: question for question in read_squad(squad_file)}
    assert len(held_out) == 8
    for question in held_out:
        of_the_file = dataclasses.replace(question, article=question.article.split("/")[1])
        assert of_the_file == whole[question.id]
    named = FinetuneData(str(model), (squad_file,), predict_file=squad_file)
    run(named, dataclasses.replace(QUICK, max_steps=1), tmp_path / "b")
    assert not (tmp_path / "b" / "held_out.json").exists()


def test_accumulated_batches_are_one_larger_batch(
    model: Path, squad_file: Path, tmp_path: Path
) -> None:
    data = FinetuneData(str(model), (squad_file,))
    # Without dropout, whose numbers differ; all windows have one length after padding.
    settings = dataclasses.replace(QUICK, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    settings = dataclasses.replace(settings, num_train_epochs=1, max_steps=None, held_out=0.0)
    whole = run(data, dataclasses.replace(settings, per_gpu_train_batch_size=32), tmp_path / "a")
    parts = run(
        data,
        dataclasses.replace(settings, per_gpu_train_batch_size=8, gradient_accumulation_steps=4),
        tmp_path / "b",
    )
    for name, weight in whole.items():
        # A softmax is the same whatever is added to all of its inputs: what these learn is noise.
        if not name.endswith(("qa_outputs.bias", "key.bias")):
            torch.testing.assert_close(parts[name], weight, rtol=1e-3, atol=1e-4)


def test_a_killed_run_goes_on_to_the_same_result(
    model: Path, squad_file: Path, tmp_path: Path
) -> None:
    data = FinetuneData(str(model), (squad_file,), teacher=str(model))
    settings = dataclasses.replace(QUICK, max_steps=150, save_steps=10, logging_steps=50)
    never_stopped = run(data, settings, tmp_path / "whole")
    output = tmp_path / "killed"
    options = [
        f"--{name}={value}"
        for name, value in (
            ("model_name_or_path", model),
            ("train_file", squad_file),
            ("teacher", model),
            ("output_dir", output),
            ("max_seq_length", 64),
            ("max_query_length", 16),
            ("doc_stride", 16),
            ("per_gpu_train_batch_size", 4),
            ("learning_rate", 1e-3),
            ("max_steps", 150),
            ("hidden_dropout_prob", 0.2),
            ("held_out", 0.25),
            ("save_steps", 10),
            ("logging_steps", 50),
        )
    ]
    command = [sys.executable, "-m", "electra_qa", "finetune", *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    until = time.monotonic() + 300
    while not list(output.glob("checkpoint-*")) and time.monotonic() < until:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (checkpoint,) = [p for p in output.glob("checkpoint-*") if (p / "step.json").is_file()][-1:]
    assert 0 < int(checkpoint.name.removeprefix("checkpoint-")) < 150
    assert not (output / "model.safetensors").exists()
    with pytest.raises(BuildError, match=r"killed holds a run: --resume it, or --overwrite"):
        run(data, settings, output)
    with pytest.raises(BuildError, match=r"can't resume: this run differs in learning_rate, seed"):
        run(data, dataclasses.replace(settings, seed=1, learning_rate=1.0), output, resume=True)
    assert equal(never_stopped, run(data, settings, output, resume=True))
    assert not list(output.glob("checkpoint-*"))
    with pytest.raises(BuildError, match="killed has no run to resume"):
        run(data, settings, output, resume=True)


def test_32_questions_are_learnt_by_heart_and_served(
    model: Path, squad_file: Path, tmp_path: Path
) -> None:
    settings = dataclasses.replace(
        QUICK,
        per_gpu_train_batch_size=16,
        learning_rate=2e-3,
        max_steps=400,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        save_steps=1000,
        logging_steps=100,
    )
    data = FinetuneData(str(model), (squad_file,), predict_file=squad_file)
    run(data, settings, tmp_path / "checkpoint")
    report = json.loads((tmp_path / "checkpoint" / "training.json").read_text(encoding="utf-8"))
    assert report["held_out"]["exact"] == 100
    threshold = report["held_out"]["null_score_diff_threshold"]
    bundle = build_bundle(
        str(tmp_path / "checkpoint"),
        tmp_path / "bundle",
        BuildSettings(max_seq_length=64, doc_stride=16, max_query_length=16),
        BuildData(),
        Console(file=io.StringIO()),
    )
    assert bundle.manifest.null_score_diff_threshold == threshold
    predictions = tmp_path / "predictions.json"
    result = CliRunner().invoke(
        main,
        [
            "eval",
            f"--data={squad_file}",
            f"--bundle={bundle.path}",
            f"--predictions={predictions}",
            "--json",
        ],
    )
    assert result.exit_code == 0, result.output
    texts = json.loads(predictions.read_text(encoding="utf-8"))
    metrics = squad_metrics(read_squad(squad_file), texts)
    assert (metrics["exact"], metrics["total"]) == (100, 32)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_teacher_has_its_share(
    model: Path,
    squad_file: Path,
    tmp_path: Path,
    tiny_checkpoint: Callable[..., Path],
    weight: float,
) -> None:
    teacher = tiny_checkpoint(num_hidden_layers=3)
    taught = FinetuneData(str(model), (squad_file,), teacher=str(teacher))
    alone = dataclasses.replace(taught, teacher=None)
    settings = dataclasses.replace(QUICK, distillation_weight=weight)
    with_teacher = run(taught, settings, tmp_path / "a")
    assert equal(with_teacher, run(alone, QUICK, tmp_path / "b")) == (weight == 0)


def test_an_mpnet_can_be_trained_and_teach(
    whole_checkpoint: Callable[[str], Path], squad_file: Path, tmp_path: Path
) -> None:
    encoder, model = whole_checkpoint("mpnet"), whole_checkpoint("bert")
    settings = dataclasses.replace(QUICK, autocast="bf16")
    run(FinetuneData(str(encoder), (squad_file,)), settings, tmp_path / "teacher")
    run(
        FinetuneData(str(model), (squad_file,), teacher=str(tmp_path / "teacher")),
        settings,
        tmp_path / "student",
    )
    types = [
        json.loads((tmp_path / name / "config.json").read_text(encoding="utf-8"))["model_type"]
        for name in ("teacher", "student")
    ]
    assert types == ["mpnet", "electra"]


def test_a_teacher_that_can_not_read_the_windows_is_refused(
    model: Path, squad_file: Path, tmp_path: Path, tiny_checkpoint: Callable[..., Path]
) -> None:
    teacher = tiny_checkpoint()
    serialized = json.loads((teacher / "tokenizer.json").read_text(encoding="utf-8"))
    serialized["model"]["vocab"]["unheard-of"] = serialized["model"]["vocab"].pop("lighthouse")
    (teacher / "tokenizer.json").write_text(json.dumps(serialized), encoding="utf-8")
    data = FinetuneData(str(model), (squad_file,), teacher=str(teacher))
    with pytest.raises(
        BuildError, match="has another vocabulary than the model: it lacks 'lighthouse'"
    ):
        run(data, QUICK, tmp_path / "a")
    short = tiny_checkpoint(max_position_embeddings=32)
    data = FinetuneData(str(model), (squad_file,), teacher=str(short))
    with pytest.raises(BuildError, match="at most 32, the positions of the teacher, got 64"):
        run(data, QUICK, tmp_path / "b")


def test_bf16_autocast_trains_on_a_cpu(model: Path, squad_file: Path, tmp_path: Path) -> None:
    data = FinetuneData(str(model), (squad_file,))
    exact = run(data, QUICK, tmp_path / "a")
    rounded = run(data, dataclasses.replace(QUICK, autocast="bf16"), tmp_path / "b")
    assert not equal(exact, rounded)
    for name, weight in exact.items():
        torch.testing.assert_close(rounded[name], weight, rtol=0, atol=0.02)


def test_tensorboard_and_the_report_say_what_happened(
    model: Path, squad_file: Path, tmp_path: Path
) -> None:
    settings = dataclasses.replace(QUICK, make_negatives=True, eval_steps=3)
    run(FinetuneData(str(model), (squad_file,)), settings, tmp_path)
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events.Scalars("held_out/f1")] == [3, 6]
    report = json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))
    assert report["train_file"] == ["train.json"]
    assert report["questions"] == 24
    assert report["held_out_questions"] == 8
    assert str(tmp_path) not in json.dumps(report)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["null_score_diff_threshold"] == report["held_out"]["null_score_diff_threshold"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_seq_length": 384}, "max_seq_length must be at most 128"),
        ({"autocast": "fp16", "device": "cpu"}, "autocast fp16 is for a GPU"),
        ({"negative_kinds": "word,nam", "make_negatives": True}, "negative_kinds has 'nam'; there"),
        ({"max_seq_length": 8}, "max_seq_length must be at least"),
    ],
)
def test_bad_settings_are_named(
    model: Path, squad_file: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    data = FinetuneData(str(model), (squad_file,))
    with pytest.raises((BuildError, ValueError), match=message):
        run(data, dataclasses.replace(QUICK, **change), tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_said(model: Path, squad_file: Path, tmp_path: Path) -> None:
    data = FinetuneData(str(model), (squad_file,))
    with pytest.raises(BuildError, match="PyTorch finds no GPU"):
        run(data, dataclasses.replace(QUICK, device="cuda"), tmp_path)


def test_a_file_that_is_none_of_squads_is_an_error_of_one_line(tmp_path: Path, model: Path) -> None:
    result = finetune_broken_file(model, tmp_path)
    assert result.exit_code == 1
    assert result.output.splitlines()[-1] == "Error: broken.json is not a SQuAD file: no 'data'"
    assert not issubclass(SquadError, BuildError)
    assert not (tmp_path / "out").exists()  # the corrected command finds nothing in its way


def test_overwriting_forgets_the_teachers_answers_too(tmp_path: Path, model: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    for name in ("run.json", "teacher.safetensors"):
        (output / name).touch()
    finetune_broken_file(model, tmp_path, "--overwrite_output_dir")
    assert list(output.iterdir()) == []


def test_a_run_is_not_resumed_and_overwritten(tmp_path: Path, model: Path) -> None:
    result = finetune_broken_file(model, tmp_path, "--resume", "--overwrite_output_dir")
    assert "set one, not both" in result.output


def finetune_broken_file(model: Path, folder: Path, *options: str) -> Result:
    path = folder / "broken.json"
    path.write_text("{}", encoding="utf-8")
    files = [f"--train_file={path}", f"--output_dir={folder / 'out'}"]
    return CliRunner().invoke(main, ["finetune", f"--model_name_or_path={model}", *files, *options])

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file

from electra_qa.bundle import FORMAT, Bundle, load_bundle
from electra_qa.cli import main
from electra_qa.tokenization import SpecialTokens

SETTINGS = {
    "max-seq-length": 96,
    "doc-stride": 40,
    "max-query-length": 16,
    "max-answer-length": 12,
    "max-answer-length-limit": 20,
    "n-best-size": 8,
}


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint("electra", max_position_embeddings=128)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A SQuAD file of three questions; the second text makes several windows."""
    long = "The Normans gave their name to Normandy, a region in France. " * 12
    asked = [
        ("Rollo came from Denmark.", [("a", "Who came?", ["Rollo"]), ("b", "Who left?", [])]),
        (long, [("c", "What did they give?", ["their name", "name"])]),
    ]
    paragraphs = [
        {
            "context": context,
            "qas": [
                {"id": id_, "question": question, "answers": [{"text": text} for text in answers]}
                for id_, question, answers in questions
            ],
        }
        for context, questions in asked
    ]
    path = tmp_path / "three.json"
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}), encoding="utf-8")
    return path


def build(checkpoint: Path | str, output: Path, *more: str, **settings: object) -> Result:
    """`electra-qa build` with SETTINGS, and with `settings` instead where they name the same."""
    arguments = ["build", "--checkpoint", str(checkpoint), "--output", str(output), *more]
    changed = {name.replace("_", "-"): value for name, value in settings.items()}
    for name, value in (SETTINGS | changed).items():
        arguments += [f"--{name}", str(value)]
    return CliRunner().invoke(main, arguments)


def built(checkpoint: Path, output: Path, *more: str, **settings: object) -> Bundle:
    result = build(checkpoint, output, *more, **settings)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{output}\n"
    return load_bundle(output)


def refusal(result: Result) -> str:
    """What a build that can't be says: the last line, after what was done."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)  # nothing else got through
    assert result.stdout == ""
    return result.stderr.strip().splitlines()[-1]


def test_a_build_says_in_the_manifest_what_it_made(tiny: Path, tmp_path: Path) -> None:
    manifest = built(tiny, tmp_path / "bundle").manifest
    assert manifest.format == FORMAT
    assert manifest.source == tiny.name
    weights = (tiny / "model.safetensors").read_bytes()
    assert manifest.source_sha256 == hashlib.sha256(weights).hexdigest()
    assert manifest.architecture["model_type"] == "electra"
    assert manifest.architecture["embedding_size"] == 16
    assert (manifest.precision, manifest.opset) == ("fp32", 20)
    assert (manifest.max_seq_length, manifest.max_seq_length_limit) == (96, 128)
    assert (manifest.doc_stride, manifest.max_query_length) == (40, 16)
    assert (manifest.max_answer_length, manifest.max_answer_length_limit) == (12, 20)
    assert (manifest.n_best_size, manifest.null_score_diff_threshold) == (8, 0.0)
    assert manifest.special_tokens == SpecialTokens("[CLS]", "[SEP]", "[PAD]", "[UNK]", 1)
    assert manifest.calibration is None
    assert manifest.metrics is None
    assert sorted(manifest.files) == ["model.fp32.onnx", "tokenizer.json"]


def test_the_tokenizer_is_the_checkpoints_own(tiny: Path, tmp_path: Path) -> None:
    bundle = built(tiny, tmp_path / "bundle")
    assert bundle.tokenizer_path.read_bytes() == (tiny / "tokenizer.json").read_bytes()


def test_a_bert_checkpoint_is_built_too(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = built(tiny_checkpoint("bert"), tmp_path / "bundle").manifest
    assert manifest.architecture["model_type"] == "bert"


def test_a_build_can_be_repeated_bit_by_bit(tiny: Path, tmp_path: Path) -> None:
    first, second = (built(tiny, tmp_path / name) for name in ("first", "second"))
    assert first.sha256 == second.sha256
    assert first.graph_path.read_bytes() == second.graph_path.read_bytes()
    # … and what is different has another sum.
    assert built(tiny, tmp_path / "other", n_best_size=9).sha256 != first.sha256


def test_a_build_with_data_measures(tiny: Path, data: Path, tmp_path: Path) -> None:
    metrics = built(tiny, tmp_path / "bundle", "--data", str(data)).manifest.metrics
    assert metrics is not None
    assert metrics["data"] == "three.json"
    assert (metrics["total"], metrics["HasAns_total"], metrics["NoAns_total"]) == (3, 2, 1)
    for name in ("exact", "f1", "best_exact", "best_f1"):
        assert 0.0 <= metrics[name] <= 100.0
    assert {"best_exact_thresh", "best_f1_thresh"} <= metrics.keys()


@pytest.mark.parametrize(("threshold", "no_answer"), [(-1e9, 100.0), (1e9, 0.0)])
def test_the_threshold_is_measured_and_kept(
    threshold: float, no_answer: float, tiny: Path, data: Path, tmp_path: Path
) -> None:
    manifest = built(
        tiny, tmp_path / "bundle", "--data", str(data), null_score_diff_threshold=threshold
    ).manifest
    assert manifest.null_score_diff_threshold == threshold
    assert manifest.metrics is not None
    assert manifest.metrics["NoAns_exact"] == no_answer


def test_the_threshold_of_the_checkpoint_is_the_default(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_checkpoint("electra", null_score_diff_threshold=-2.5)
    assert built(folder, tmp_path / "a").manifest.null_score_diff_threshold == -2.5
    chosen = built(folder, tmp_path / "b", null_score_diff_threshold=0).manifest
    assert chosen.null_score_diff_threshold == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"max_seq_length": 129},
            "max_seq_length must be at most 128 (the checkpoint's positions), got 129",
        ),
        (
            {"max_answer_length": 21},
            "max_answer_length must be at most 20 (max_answer_length_limit), got 21",
        ),
        (
            {"max_answer_length_limit": 32769},
            "max_answer_length_limit must be at most 32768 for windows of up to 128 tokens, "
            "got 32769",
        ),
        (
            {"max_query_length": 93},
            "max_seq_length must be at least 97 for a max_query_length of 93, got 96",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_named(
    settings: dict[str, int], message: str, tiny: Path, tmp_path: Path
) -> None:
    result = build(tiny, tmp_path / "bundle", **settings)
    assert refusal(result) == f"Error: {message}"
    assert not (tmp_path / "bundle").exists()


def test_the_largest_settings_that_fit_are_taken(tiny: Path, tmp_path: Path) -> None:
    manifest = built(
        tiny, tmp_path / "bundle", max_seq_length=128, max_query_length=124, max_answer_length=20
    ).manifest
    assert (manifest.max_seq_length, manifest.max_query_length) == (128, 124)


def test_a_checkpoint_that_is_none_is_named(tmp_path: Path) -> None:
    result = build(tmp_path, tmp_path / "bundle")
    assert refusal(result) == "Error: config.json can't be read: No such file or directory"


def test_a_tokenizer_that_is_none_is_refused(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_checkpoint("electra")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    result = build(folder, tmp_path / "bundle")
    assert refusal(result) == "Error: tokenizer.json can't be read: it has no model"


@pytest.mark.parametrize(
    "config",
    [
        {"num_hidden_layers": 3},  # a KeyError
        {"num_hidden_layers": 1},
        {"num_attention_heads": 3},
        {"num_attention_heads": 0},  # a ZeroDivisionError
        {"embedding_size": 32},  # a ValidationError of onnx
        {"intermediate_size": 1},
        {"max_position_embeddings": 256},
        {"vocab_size": 30000},
        {"null_score_diff_threshold": "high"},  # a ValueError
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_the_weights_is_refused(
    config: dict[str, object], tiny: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "checkpoint"))
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(content | config), encoding="utf-8")
    refusal(build(folder, tmp_path / "bundle"))


@pytest.mark.parametrize("name", ["qa_outputs.bias", "electra.embeddings.LayerNorm.weight"])
def test_missing_weights_are_named(name: str, tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "checkpoint"))
    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, folder / "model.safetensors")
    assert name.removeprefix("electra.") in refusal(build(folder, tmp_path / "bundle"))


def test_a_vocabulary_larger_than_the_embeddings_is_refused(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_checkpoint("electra", vocab_size=1000)
    assert "vocab" in refusal(build(folder, tmp_path / "bundle"))


@pytest.mark.parametrize("context", ["", " \u200b"])
def test_a_context_without_a_token_has_no_answer(context: str, tiny: Path, tmp_path: Path) -> None:
    qas = [{"id": "a", "question": "Who?", "answers": []}]
    data = tmp_path / "empty.json"
    content = {"data": [{"paragraphs": [{"context": context, "qas": qas}]}]}
    data.write_text(json.dumps(content), encoding="utf-8")
    metrics = built(tiny, tmp_path / "bundle", "--data", str(data)).manifest.metrics
    assert metrics is not None
    assert metrics["NoAns_exact"] == 100.0


def test_data_that_is_no_squad_file_is_named(tiny: Path, tmp_path: Path) -> None:
    data = tmp_path / "other.json"
    data.write_text("{}", encoding="utf-8")
    result = build(tiny, tmp_path / "bundle", "--data", str(data))
    assert refusal(result) == "Error: other.json is not a SQuAD file: no 'data'"


def test_an_output_that_cannot_be_written_is_named(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    output = tmp_path / "file" / "bundle"
    assert refusal(build(tiny, output)) == f"Error: {output} can't be written: Not a directory"

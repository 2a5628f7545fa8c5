from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from electra_qa.build_engine.calibration import BUILT_IN, calibration_windows, observe
from electra_qa.build_engine.checkpoint import Checkpoint, load_checkpoint
from electra_qa.build_engine.choosing import (
    CANDIDATES,
    Answers,
    Linears,
    Measured,
    answers,
    best,
    compare,
    quantize_candidates,
)
from electra_qa.build_engine.quantization import (
    SMOOTHINGS,
    Observed,
    QuantizationSettings,
    quantize,
)
from electra_qa.bundle import Bundle, load_bundle
from electra_qa.cli import main
from electra_qa.tokenization import Tokenizer
from electra_qa.windows import Window, WindowSettings

SMALL = Path(__file__).parents[1] / "data" / "small.json"


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint("electra", vocab_size=30522, max_position_embeddings=128)


@pytest.fixture(scope="module")
def loaded(tiny: Path) -> Checkpoint:
    return load_checkpoint(str(tiny))


def windows_of(checkpoint: Checkpoint, count: int) -> list[Window]:
    tokenizer = Tokenizer(checkpoint.tokenizer, checkpoint.special_tokens)
    return calibration_windows([BUILT_IN], tokenizer, WindowSettings(96, 40, 32), count)


def made(checkpoint: Checkpoint, seconds: float) -> dict[QuantizationSettings, Linears]:
    layers = observe(checkpoint, windows_of(checkpoint, 20), lambda: None)
    count = checkpoint.architecture.num_hidden_layers + 1
    return quantize_candidates(checkpoint, layers, count, seconds, lambda: None)


def build(checkpoint: Path, output: Path, *options: str) -> Bundle:
    arguments = ["build", "--checkpoint", str(checkpoint), "--output", str(output)]
    arguments += ["--precision", "int8", "--max-seq-length", "96", "--doc-stride", "40"]
    result = CliRunner().invoke(main, [*arguments, "--max-query-length", "32", *options])
    assert result.exit_code == 0, result.output
    return load_bundle(output)


def test_side_by_side_is_as_one_by_one(loaded: Checkpoint) -> None:
    all_of_them = made(loaded, seconds=3600)
    assert tuple(all_of_them) == CANDIDATES
    seen = dict(observe(loaded, windows_of(loaded, 20), lambda: None))
    for settings, linears in all_of_them.items():
        for layer, observed in seen.items():
            alone = quantize(loaded, layer, observed, settings, lambda: None)
            for name, linear in alone.items():
                np.testing.assert_array_equal(linears[name].weight, linear.weight)
                np.testing.assert_array_equal(linears[name].bias, linear.bias)
                assert linears[name].input.scale == linear.input.scale


@pytest.mark.parametrize("seconds", [0, 1e-9])
def test_without_the_time_the_usual_settings_are_taken(seconds: float, loaded: Checkpoint) -> None:
    only = made(loaded, seconds)
    assert list(only) == [QuantizationSettings()]
    layers = {name.rsplit(".", 1)[0] for name in only[QuantizationSettings()]}
    assert any(".layer.0." in name for name in layers)
    assert any(".layer.1." in name for name in layers)


def uneven(site: Observed) -> Observed:
    """With one channel that is far larger than the others, which only the weights can take over."""
    times = np.where(np.arange(len(site.reach)) == 5, 300, 1).astype(np.float32)
    return Observed(site.reach * times, site.sample * times)


def test_each_input_may_have_the_smoothing_that_suits_it(loaded: Checkpoint) -> None:
    seen = dict(observe(loaded, windows_of(loaded, 20), lambda: None))
    for layer, plain in seen.items():
        observed = {name: uneven(site) for name, site in plain.items()}
        ways = {
            smoothing: quantize(
                loaded,
                layer,
                observed,
                QuantizationSettings(split_neurons=0, smoothing=smoothing),
                lambda: None,
            )
            for smoothing in (None, *SMOOTHINGS)
        }
        for name, site in observed.items():
            weight = loaded.weights[f"{name}.weight"].T.astype(np.float32)
            bias = loaded.weights[f"{name}.bias"].astype(np.float32)
            errors = {}
            for smoothing, linears in ways.items():
                linear = linears[name]
                steps = np.clip(
                    np.rint(site.sample * linear.input.factor / linear.input.scale), -128, 127
                )
                said = steps * linear.input.scale @ (linear.weight * linear.weight_scale)
                apart = said + linear.bias - (site.sample @ weight + bias)
                errors[smoothing] = float(np.mean(np.square(apart)))
            fixed = [errors[smoothing] for smoothing in SMOOTHINGS]
            assert errors[None] in fixed
            assert errors[None] <= 1.2 * min(fixed) < max(fixed)


def test_how_far_a_candidate_is_from_float32() -> None:
    wanted = Answers(np.array([1, -2, 0], np.float32), np.array([[5, 6], [7, 7], [9, 12]]))
    said = Answers(np.array([1, -2, 3], np.float32), np.array([[5, 6], [7, 8], [9, 12]]))
    measured = compare(CANDIDATES[0], said, wanted)
    assert measured.null_score_diff_rms == pytest.approx(math.sqrt(3))
    assert measured.same_best_span == pytest.approx(2 / 3)
    assert compare(CANDIDATES[0], wanted, wanted) == Measured(CANDIDATES[0], 0.0, 1.0)


def test_spans_decide_only_beyond_chance() -> None:
    few_errors = Measured(CANDIDATES[0], 0.30, 0.97)
    steady = Measured(CANDIDATES[1], 0.20, 0.955)
    other_spans = Measured(CANDIDATES[2], 0.10, 0.90)
    assert best([few_errors, steady, other_spans], windows=300) == steady
    assert best([few_errors, steady, other_spans], windows=15) == other_spans
    assert best([few_errors, steady, other_spans], windows=100_000) == few_errors


@given(
    st.lists(st.tuples(st.floats(0, 5), st.floats(0, 1)), min_size=1, max_size=len(CANDIDATES)),
    st.integers(50, 1000),
)
def test_no_other_is_better_in_both(figures: list[tuple[float, float]], windows: int) -> None:
    measured = [Measured(CANDIDATES[i], *pair) for i, pair in enumerate(figures)]
    chosen = best(measured, windows)
    for other in measured:
        better = other.null_score_diff_rms < chosen.null_score_diff_rms
        assert not (better and other.same_best_span >= chosen.same_best_span)


def test_the_manifest_says_what_was_chosen_and_why(tiny: Path, tmp_path: Path) -> None:
    bundle = build(tiny, tmp_path / "chosen", "--quantization-seconds", "3600")
    how = bundle.manifest.quantization
    assert how is not None
    assert how["windows"] == 300
    candidates = [
        Measured(
            QuantizationSettings(one["split_neurons"], one["smoothing"]),
            one["null_score_diff_rms"],
            one["same_best_span"],
        )
        for one in how["candidates"]
    ]
    assert [one.settings for one in candidates] == list(CANDIDATES)
    chosen = best(candidates, 300)
    assert chosen.settings == QuantizationSettings(how["split_neurons"], how["smoothing"])
    # It is the one that was written: its graph has these errors, and not another's.
    plain = load_checkpoint(str(tiny))
    asked = windows_of(plain, 600)[300:]
    fp32 = tmp_path / "fp32"
    options = ["--max-seq-length", "96", "--doc-stride", "40", "--max-query-length", "32"]
    arguments = ["build", "--checkpoint", str(tiny), "--output", str(fp32), *options]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    again = compare(
        chosen.settings, answers(bundle, asked, 0), answers(load_bundle(fp32), asked, 0)
    )
    assert again.null_score_diff_rms == pytest.approx(chosen.null_score_diff_rms, abs=1e-3)
    assert again.same_best_span == pytest.approx(chosen.same_best_span, abs=5e-3)


def test_nothing_is_compared_without_time_or_other_windows(tiny: Path, tmp_path: Path) -> None:
    usual = {"split_neurons": 64, "smoothing": 0.95}
    no_time = build(tiny, tmp_path / "a", "--quantization-seconds", "0")
    assert no_time.manifest.quantization == usual
    no_windows = build(tiny, tmp_path / "b", "--calibration", str(SMALL))
    assert no_windows.manifest.quantization == usual

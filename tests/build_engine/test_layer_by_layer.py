"""The encoder layer by layer against the whole graph and against Transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_qa.build_engine import calibration
from electra_qa.build_engine.calibration import observe
from electra_qa.build_engine.checkpoint import Checkpoint, load_checkpoint
from electra_qa.build_engine.quantization import Observed
from electra_qa.windows import Window, WindowSettings, make_windows

FAMILIES: dict[str, dict[str, Any]] = {
    "electra": {},
    "bert": {},
    "distilbert": {},
    "roberta": {},
    "mpnet": {},
    "albert": {"num_hidden_layers": 4, "num_hidden_groups": 2},
}


def windows_of(checkpoint: Checkpoint) -> list[Window]:
    """Of 40 to 120 tokens."""
    random = np.random.default_rng(0)
    special_tokens = checkpoint.special_tokens.separators + 2
    return [
        window
        for tokens in (30, 100, 60, 90)
        for window in make_windows(
            random.integers(1000, 30522, 7, dtype=np.int32),
            random.integers(1000, 30522, tokens, dtype=np.int32),
            settings=WindowSettings(120, 40, 10, special_tokens),
            cls_id=101,
            sep_id=102,
        )
    ]


def seen_in_pytorch(
    folder: Path, checkpoint: Checkpoint, windows: list[Window]
) -> dict[str, list[np.ndarray]]:
    """The inputs of every nn.Linear, by our names: a [tokens, in] for each call."""
    import torch
    from transformers import AutoModelForQuestionAnswering

    model: Any = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    ours = {
        checkpoint.family.prefix + checkpoint.family.stored_name(name): name.removesuffix(".weight")
        for name in checkpoint.family.shapes(checkpoint.architecture)
    }
    seen: dict[str, list[np.ndarray]] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(_: Any, inputs: Any) -> None:
            seen.setdefault(name, []).append(inputs[0][0].numpy())

        return hook

    for stored, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and f"{stored}.weight" in ours:
            module.register_forward_pre_hook(watch(ours[f"{stored}.weight"]))
    for window in windows:
        ids = torch.from_numpy(window.input_ids)[None].long()
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if checkpoint.architecture.type_vocab_size:
            inputs["token_type_ids"] = (torch.arange(ids.shape[1]) >= window.context_start)[
                None
            ].long()
        with torch.no_grad():
            model(**inputs)
    return seen


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_site_sees_what_it_sees_in_transformers(
    model_type: str, tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "SAMPLED_TOKENS", 10_000)  # all of them
    folder = tiny_checkpoint(model_type, **FAMILIES[model_type])
    checkpoint = load_checkpoint(str(folder))
    windows = windows_of(checkpoint)
    expected = seen_in_pytorch(folder, checkpoint, windows)
    ticks: list[None] = []
    observed = dict(observe(checkpoint, windows, lambda: ticks.append(None)))

    assert len(ticks) == len(windows) * (checkpoint.architecture.num_hidden_layers + 1)
    layers = checkpoint.family.layer_names(checkpoint.architecture)
    assert list(observed) == [None, *layers]
    seen = {name: site for part in observed.values() for name, site in part.items()}
    assert len(seen) == 4 * len(layers) + checkpoint.family.projects(checkpoint.architecture)
    for name, site in seen.items():
        calls = expected[name]
        reach = np.max([np.abs(tokens).max(axis=0) for tokens in calls], axis=0)
        np.testing.assert_allclose(site.reach, reach, atol=1e-4)
        uses = len(calls) // len(windows)
        assert_sampled(site, [calls[i * uses + i % uses] for i in range(len(windows))])


def assert_sampled(site: Observed, expected: list[np.ndarray]) -> None:
    """All tokens of these calls and no other, in whatever order."""
    tokens = np.concatenate(expected)
    assert site.sample.shape == tokens.shape
    np.testing.assert_allclose(site.sample.mean(axis=0), tokens.mean(axis=0), atol=1e-4)
    moment, expected_moment = site.sample.T @ site.sample, tokens.T @ tokens
    np.testing.assert_allclose(moment, expected_moment, atol=1e-4 * np.abs(expected_moment).max())


def test_of_each_window_a_share_is_sampled_and_always_its_first_token(
    tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "SAMPLED_TOKENS", 40)
    checkpoint = load_checkpoint(str(tiny_checkpoint()))
    windows = windows_of(checkpoint)
    each = -(-40 // len(windows))
    observed = dict(observe(checkpoint, windows, lambda: None))
    again = dict(observe(checkpoint, windows, lambda: None))
    for layer, part in observed.items():
        for name, site in part.items():
            assert len(site.sample) == each * len(windows)
            np.testing.assert_array_equal(site.sample, again[layer][name].sample)
    # [CLS] is the same word at the same place in all of them.
    before_first_layer = observed[None]["embeddings_project"].sample
    counts = np.unique(before_first_layer.round(4), axis=0, return_counts=True)[1]
    assert counts.max() == len(windows)


def test_float16_weights_are_observed_in_float32(tiny_checkpoint: Callable[..., Path]) -> None:
    half = load_checkpoint(str(tiny_checkpoint(dtype="float16")))
    full = dataclasses.replace(
        half, weights={name: array.astype(np.float32) for name, array in half.weights.items()}
    )
    windows = windows_of(half)
    one, other = (dict(observe(c, windows, lambda: None)) for c in (half, full))
    for layer, part in one.items():
        for name, site in part.items():
            np.testing.assert_allclose(site.reach, other[layer][name].reach, rtol=1e-4, atol=1e-4)

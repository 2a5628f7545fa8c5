from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from electra_qa.build_engine.tokenizer_classes import BY_MODEL_TYPE
from electra_qa.spans import Answer, Prediction
from electra_qa.squad import SquadQuestion

from ...hub import vocabularies


def asked(
    diffs: list[float], answerable: list[bool], said: str = "x"
) -> tuple[list[SquadQuestion], dict[str, Prediction]]:
    questions = [
        SquadQuestion(str(i), "?", "x", ("x",) if has else ()) for i, has in enumerate(answerable)
    ]
    answer = Answer(said, 0, 1, 1.0, 0.0, 0.0)
    predictions = {
        str(i): Prediction((answer,), diff > 0, diff, diff, 0.5) for i, diff in enumerate(diffs)
    }
    return questions, predictions


@pytest.fixture(scope="session")
def whole_checkpoint(tiny_checkpoint: Callable[..., Path]) -> Callable[[str], Path]:
    """Makes a tiny checkpoint with a vocabulary, in the files that such ones have it in."""

    def make(model_type: str) -> Path:
        if model_type not in BY_MODEL_TYPE:  # its tokenizer.json is taken as it is
            return tiny_checkpoint(model_type, pad_token_id=0)
        folder = tiny_checkpoint(model_type)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink()
        for name, content in vocabularies.files(model_type).items():
            (folder / name).write_bytes(content)
        if model_type == "mpnet":  # whose tokenizer.json says so, of a piece that no text has
            special = '{"additional_special_tokens": ["<unk>"]}'
            (folder / "tokenizer_config.json").write_text(special, encoding="utf-8")
        return folder

    return make

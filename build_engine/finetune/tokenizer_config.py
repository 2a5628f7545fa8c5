"""The `tokenizer_config.json` of a checkpoint that was trained."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..tokenizer_classes import BY_NAME, Flags
from ..tokenizer_files import class_of
from ..tokenizer_settings import read_flags, read_object, read_settings


def tokenizer_config(
    folder: Path,
    tokenizer: str,
    *,
    do_lower_case: bool,
    model_max_length: int,
    segments: bool,
) -> dict[str, Any]:
    """What must stand beside a `tokenizer.json` for it to be read as it is.

    tokenizer: its content, which `read_tokenizer` made of the files in `folder`. With this beside
    it `read_tokenizer` makes the same of it, and so does Transformers' AutoTokenizer, which sets a
    tokenizer up from its class, the flags and the special tokens. Raises BuildError.
    """
    settings = read_settings(folder, read_object(folder / "tokenizer.json"))
    said = settings.content
    kind = class_of(folder, settings)
    named = said.get("tokenizer_class")
    if kind is not None and BY_NAME.get(str(named).removesuffix("Fast")) is not kind:
        named = next(name for name, known in BY_NAME.items() if known is kind)
    inputs = ["input_ids", *(["token_type_ids"] if segments else ()), "attention_mask"]
    content: dict[str, Any] = {
        "tokenizer_class": named or "PreTrainedTokenizerFast",
        "model_max_length": model_max_length,
        "model_input_names": inputs,
    }
    content |= {flag.name: said[flag.name] for flag in fields(Flags) if flag.name in said}
    if kind is not None and kind.model == "WordPiece":
        content["do_lower_case"] = read_flags(settings, kind, do_lower_case).do_lower_case
    special = {**(kind.special_tokens if kind else {}), **settings.special}
    content |= {role: str(token) for role, token in special.items() if role.endswith("_token")}
    added = json.loads(tokenizer)["added_tokens"]
    # Also where there are none: of some classes there would be some else.
    content["additional_special_tokens"] = [
        token["content"]
        for token in added
        if token["special"] and token["content"] not in content.values()
    ]
    content["added_tokens_decoder"] = {str(token.pop("id")): token for token in added}
    return content

"""What the small files beside a vocabulary say of a tokenizer: flags, special and added tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from .config import read_json
from .errors import BuildError
from .tokenizer_classes import Flags, TokenizerClass

TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
# The special tokens' roles, in the order in which Transformers adds those that a vocabulary lacks.
ROLES = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))

Token = str | AddedToken


@dataclass(frozen=True, slots=True)
class TokenizerSettings:
    """content: tokenizer_config.json with special_tokens_map.json over it.
    special: the special tokens that have a role, by it.
    added: tokens beside the vocabulary, by their ids.
    extra: special tokens without a role; None where nothing is said.
    """

    content: dict[str, Any]
    special: dict[str, Token]
    added: dict[int, AddedToken]
    extra: list[Token] | None


def read_settings(folder: Path, serialized: dict[str, Any] | None) -> TokenizerSettings:
    """serialized: what is in the tokenizer.json, if there is one. Raises BuildError."""
    content = read_object(folder / SETTINGS) or {}
    if content.get("additional_special_tokens") and not content.get("extra_special_tokens"):
        content["extra_special_tokens"] = content.pop("additional_special_tokens")
    source = SETTINGS  # for the message, if something in it is no token
    try:
        special, extra = _special(content), _extra(content)
        if "added_tokens_decoder" in content:
            stored = content["added_tokens_decoder"]
            added = {int(token_id): _token(token) for token_id, token in stored.items()}
        else:
            source = "special_tokens_map.json"
            for name, value in (read_object(folder / source) or {}).items():
                # These are special, whatever is said of them.
                is_token = isinstance(value, dict) and name != "extra_special_tokens"
                content[name] = _token(value | {"special": True}) if is_token else value
            special, extra = _special(content), _extra(content)
            source = "added_tokens.json"
            known = {str(token) for token in (*special.values(), *(extra or ()))}
            added = {
                int(token_id): AddedToken(name, normalized=name not in known, special=name in known)
                for name, token_id in (read_object(folder / source) or {}).items()
            }
            source = TOKENIZER
            for entry in (serialized or {}).get("added_tokens", ()):
                token = {name: value for name, value in entry.items() if name != "id"}
                added[int(entry["id"])] = _token(token)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BuildError(f"{source}: its special tokens can't be read: {error}") from error
    by_name = {str(token): token for token in added.values()}
    special = {role: by_name.get(str(token), token) for role, token in special.items()}
    return TokenizerSettings(content, special, added, extra)


def _special(content: dict[str, Any]) -> dict[str, Token]:
    """Those that have a role, then those that a model has of its own."""
    special = {role: _token(content[role]) for role in ROLES if content.get(role) is not None}
    special |= {
        name: value
        for name, value in content.items()
        if name.endswith("_token") and name not in ROLES and isinstance(value, str | AddedToken)
    }
    extra = content.get("extra_special_tokens")
    if isinstance(extra, dict):
        special |= {name: _token(token) for name, token in extra.items()}
    return special


def _extra(content: dict[str, Any]) -> list[Token] | None:
    extra = content.get("extra_special_tokens", content.get("additional_special_tokens"))
    if extra is None or isinstance(extra, dict):
        return None
    return [_token(token) for token in extra]


def _token(value: Any) -> Any:
    """A str or an AddedToken, of what stands in a file."""
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        return AddedToken(**{name: item for name, item in value.items() if name != "__type"})
    if not isinstance(value, str | AddedToken):
        raise TypeError(f"{value!r} is no token")
    return value


def read_flags(settings: TokenizerSettings, kind: TokenizerClass, do_lower_case: bool) -> Flags:
    """do_lower_case: of BERT's kind, where nothing is said. Raises BuildError."""

    def flag(name: str, default: bool) -> bool:
        value = settings.content.get(name)
        if value is not None and not isinstance(value, bool):
            raise BuildError(f"{SETTINGS}: {name} must be true or false, got {value!r}")
        return default if value is None else value

    lowercase = do_lower_case if kind.model == "WordPiece" else kind.do_lower_case
    accents_said = settings.content.get("strip_accents") is not None
    return Flags(
        do_lower_case=flag("do_lower_case", lowercase),
        # Where nothing is said they are stripped if letters are lowercased.
        strip_accents=flag("strip_accents", False) if accents_said else None,
        tokenize_chinese_chars=flag("tokenize_chinese_chars", True),
        keep_accents=flag("keep_accents", False),
        split_by_punct=flag("split_by_punct", False),
        add_prefix_space=flag("add_prefix_space", kind.add_prefix_space),
        trim_offsets=flag("trim_offsets", True),
    )


def read_object(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no file. Raises BuildError."""
    return read_json(path) if path.is_file() else None

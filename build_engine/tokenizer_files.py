"""A `tokenizer.json` from whichever files a checkpoint has its tokenizer in.

The ids, offsets and word numbers are those that Transformers' AutoTokenizer gives for the same
files; what is read here in which order is what it reads (`PreTrainedTokenizerBase._from_pretrained`
and `AutoTokenizer.from_pretrained` of Transformers 5.24).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE, WordPiece

from .errors import BuildError
from .tokenizer_classes import (
    BY_MODEL_TYPE,
    BY_NAME,
    Flags,
    TokenizerClass,
    Vocabulary,
    special_token,
)

TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
# In the order in which Transformers adds those to the vocabulary that it lacks.
NAMED = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# Without these no window can be made.
NEEDED = ("cls_token", "sep_token", "pad_token", "unk_token")
# Those that take a `tokenizer.json` as it is.
GENERIC_CLASSES = ("TokenizersBackend", "PreTrainedTokenizer", "PreTrainedTokenizerFast")
# Of these Transformers knows that what their repositories name is wrong.
GENERIC_MODEL_TYPES = ("modernbert",)
INSTALL_SENTENCEPIECE = "pip install sentencepiece"

Token = str | AddedToken


@dataclass(frozen=True, slots=True)
class _Settings:
    """What the files beside the vocabulary say.

    content: tokenizer_config.json with special_tokens_map.json over it.
    special: the named special tokens in it.
    added: tokens beside the vocabulary, by their ids.
    extra: special tokens without a name of their own; None where nothing is said.
    """

    content: dict[str, Any]
    special: dict[str, Token]
    added: dict[int, AddedToken]
    extra: list[Token] | None


def read_tokenizer(
    folder: Path, *, model_type: str | None = None, do_lower_case: bool = True
) -> str:
    """The content of a `tokenizer.json`. Raises BuildError.

    model_type: as in config.json, which is read if it is None.
    do_lower_case: of a tokenizer of BERT's kind where no tokenizer_config.json says it.
    """
    settings = _read_settings(folder)
    kind = _class(folder, settings, model_type)
    content = _read_object(folder / TOKENIZER) if (folder / TOKENIZER).is_file() else None
    if kind is None or (
        content is not None and _model(content).get("type", kind.model) != kind.model
    ):
        if content is None:
            raise BuildError(
                f"the checkpoint has no {TOKENIZER}, and its vocabulary is of a kind that is not "
                f"read (tokenizer_class {settings.content.get('tokenizer_class')!r}); "
                "AutoTokenizer.from_pretrained(…).save_pretrained(…) of Transformers writes it"
            )
        return _as_it_is(folder / TOKENIZER, settings)
    names = dict(kind.special_tokens) | {
        name: str(token) for name, token in settings.special.items()
    }
    if content is not None:
        source = TOKENIZER
        vocabulary = _from_json(content)
    else:
        source = _vocabulary_file(folder, kind)
        vocabulary = _from_files(folder, kind, names)
    _check_names(vocabulary, settings, names, source)
    try:
        tokenizer = kind.build(vocabulary, names, _flags(settings, kind, do_lower_case))
        extra: list[Token] | None = settings.extra
        if vocabulary.symbols and "extra_special_tokens" not in settings.content:
            extra = list(vocabulary.symbols)
        elif extra is None:
            extra = list(kind.extra)
        special = dict(kind.special_tokens) | settings.special
        _add_tokens(tokenizer, settings, special, extra, kind.special_token)
        kind.finish(tokenizer, names, _flags(settings, kind, do_lower_case))
    except BuildError:
        raise
    except Exception as error:  # tokenizers raises bare Exception, and TypeError
        raise BuildError(f"{source} can't be read: {error}") from error
    return str(tokenizer.to_str())


def special_token_names(folder: Path) -> dict[str, str]:
    """The names of the cls, sep, pad and unk tokens, such as {"cls": "<s>"}, as far as
    tokenizer_config.json and special_tokens_map.json say them. Raises BuildError."""
    special = _read_settings(folder).special
    return {
        name: str(special[f"{name}_token"])
        for name in ("cls", "sep", "pad", "unk")
        if f"{name}_token" in special
    }


def _class(folder: Path, settings: _Settings, model_type: str | None) -> TokenizerClass | None:
    """How Transformers would choose; None where it would take a tokenizer.json as it is."""
    config = _read_object(folder / "config.json") if (folder / "config.json").is_file() else {}
    model_type = config.get("model_type") if model_type is None else model_type
    named = settings.content.get("tokenizer_class") or config.get("tokenizer_class")
    if model_type in GENERIC_MODEL_TYPES:
        return None
    if named is None or (named in GENERIC_CLASSES and not (folder / TOKENIZER).is_file()):
        return BY_MODEL_TYPE.get(str(model_type))
    return BY_NAME.get(str(named).removesuffix("Fast"))


def _as_it_is(path: Path, settings: _Settings) -> str:
    try:
        tokenizer = Tokenizer.from_file(str(path))
        _add_tokens(tokenizer, settings, settings.special, settings.extra or [], special_token)
    except Exception as error:  # tokenizers raises bare Exception
        raise BuildError(f"{path.name} can't be read: {error}") from error
    return str(tokenizer.to_str())


def _read_settings(folder: Path) -> _Settings:
    content = _read_object(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    if content.get("additional_special_tokens") and not content.get("extra_special_tokens"):
        content["extra_special_tokens"] = content.pop("additional_special_tokens")
    source = SETTINGS
    added: dict[int, AddedToken] = {}
    try:
        _special_tokens(content)
        if "added_tokens_decoder" in content:
            added = {
                int(token_id): _token(token)
                for token_id, token in content["added_tokens_decoder"].items()
            }
        else:
            source = "special_tokens_map.json"
            if (folder / source).is_file():
                # These are special, whatever is said of them.
                for name, value in _read_object(folder / source).items():
                    content[name] = (
                        _token(value | {"special": True}) if isinstance(value, dict) else value
                    )
        special = _special_tokens(content)
        extra = content.get("extra_special_tokens", content.get("additional_special_tokens"))
        if isinstance(extra, dict):
            special |= {name: _token(token) for name, token in extra.items()}
            extra = None
        extra = None if extra is None else [_token(token) for token in extra]
        if "added_tokens_decoder" not in content:
            source = "added_tokens.json"
            known = {str(token) for token in (*special.values(), *(extra or ()))}
            if (folder / source).is_file():
                for token, token_id in _read_object(folder / source).items():
                    added[int(token_id)] = AddedToken(
                        token, normalized=token not in known, special=token in known
                    )
            source = TOKENIZER
            if (folder / source).is_file():
                for entry in _read_object(folder / source).get("added_tokens", ()):
                    token = {name: value for name, value in entry.items() if name != "id"}
                    added[int(entry["id"])] = _token(token)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BuildError(f"{source}: its special tokens can't be read: {error}") from error
    by_content = {str(token): token for token in added.values()}
    special = {name: by_content.get(str(token), token) for name, token in special.items()}
    return _Settings(content, special, added, extra)


def _special_tokens(content: dict[str, Any]) -> dict[str, Token]:
    """The named ones by their roles, then those that a model has of its own."""
    named = [f"{name}_token" for name in NAMED]
    own = [name for name in content if name.endswith("_token") and name not in named]
    return {name: _token(content[name]) for name in named if content.get(name) is not None} | {
        name: content[name] for name in own if isinstance(content[name], str | AddedToken)
    }


def _token(value: Any) -> Any:
    """A str or an AddedToken, of what stands in a file."""
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        return AddedToken(**{name: item for name, item in value.items() if name != "__type"})
    if not isinstance(value, str | AddedToken):
        raise TypeError(f"{value!r} is no token")
    return value


def _add_tokens(
    tokenizer: Tokenizer,
    settings: _Settings,
    special: dict[str, Token],
    extra: list[Token],
    make: Callable[[str, str], AddedToken],
) -> None:
    """Add them in Transformers' order, which gives those that the vocabulary lacks their ids."""
    tokens: list[Token] = [settings.added[index] for index in sorted(settings.added)]
    known = {str(token) for token in tokens}
    known |= {str(token) for token in tokenizer.get_added_tokens_decoder().values()}
    roles: dict[int, str] = {}
    for role, token in [
        *((role, special[role]) for role in _in_order(special)),
        *((("", t)) for t in extra),
    ]:
        # A name of two roles is added twice where a file says more of it in one of them: what is
        # said last counts, as in Transformers.
        if str(token) not in known and token not in tokens:
            roles[len(tokens)] = role
            tokens.append(token)
    named = {str(token) for token in special.values()}
    made = [
        make(roles.get(index, ""), token) if isinstance(token, str) else token
        for index, token in enumerate(tokens)
    ]
    for token in made:
        token.special = token.special or str(token) in named
    tokenizer.add_tokens(made)


def _in_order(special: dict[str, Token]) -> list[str]:
    named = [f"{name}_token" for name in NAMED]
    return [*(name for name in named if name in special), *(n for n in special if n not in named)]


def _flags(settings: _Settings, kind: TokenizerClass, do_lower_case: bool) -> Flags:
    def flag(name: str, default: bool) -> bool:
        value = settings.content.get(name, default)
        if not isinstance(value, bool):
            raise BuildError(f"{SETTINGS}: {name} must be true or false, got {value!r}")
        return value

    strip_accents = settings.content.get("strip_accents")
    if kind.model == "WordPiece":
        lower = flag("do_lower_case", do_lower_case)
    else:
        lower = flag("do_lower_case", kind.do_lower_case)
    return Flags(
        do_lower_case=lower,
        # null: strip them where letters are lowercased.
        strip_accents=None if strip_accents is None else flag("strip_accents", False),
        tokenize_chinese_chars=flag("tokenize_chinese_chars", True),
        keep_accents=flag("keep_accents", False),
        split_by_punct=flag("split_by_punct", False),
        add_prefix_space=flag("add_prefix_space", kind.add_prefix_space),
        trim_offsets=flag("trim_offsets", True),
    )


def _model(content: dict[str, Any]) -> dict[str, Any]:
    model = content.get("model")
    if not isinstance(model, dict):
        raise BuildError(f"{TOKENIZER} can't be read: it has no model")
    return model


def _from_json(content: dict[str, Any]) -> Vocabulary:
    model = _model(content)
    pieces = model.get("vocab")
    if not isinstance(pieces, dict | list):
        raise BuildError(f"{TOKENIZER} can't be read: its model has no vocab")
    merges = [
        tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge)
        for merge in model.get("merges", ())
    ]
    return Vocabulary(
        pieces if isinstance(pieces, dict) else [tuple(piece) for piece in pieces],
        merges,
        _charsmap(content.get("normalizer")),
    )


def _charsmap(normalizer: Any) -> bytes | None:
    if not isinstance(normalizer, dict):
        return None
    for step in normalizer.get("normalizers", [normalizer]):
        if step.get("type") == "Precompiled" and step.get("precompiled_charsmap"):
            return base64.b64decode(step["precompiled_charsmap"])
    return None


def _vocabulary_file(folder: Path, kind: TokenizerClass) -> str:
    if missing := [name for name in kind.files if not (folder / name).is_file()]:
        if len(missing) < len(kind.files):
            raise BuildError(f"the checkpoint has no {missing[0]} beside its {kind.files[0]}")
        raise BuildError(
            f"the checkpoint has neither {TOKENIZER} nor {' with '.join(kind.files)}; "
            "tokenizer.save_pretrained(folder) of Transformers writes them"
        )
    return kind.files[0]


def _from_files(folder: Path, kind: TokenizerClass, names: dict[str, str]) -> Vocabulary:
    first, *others = [folder / name for name in kind.files]
    try:
        if kind.model == "WordPiece":
            return Vocabulary(WordPiece.read_file(str(first)))
        if kind.model == "BPE":
            return Vocabulary(*BPE.read_file(str(first), str(others[0])))
    except Exception as error:  # tokenizers raises bare Exception
        raise BuildError(f"{first.name} can't be read: {error}") from error
    return _from_sentencepiece(first, kind, names)


def _from_sentencepiece(path: Path, kind: TokenizerClass, names: dict[str, str]) -> Vocabulary:
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        raise BuildError(f"{path.name} needs sentencepiece: {INSTALL_SENTENCEPIECE}") from error
    model = sentencepiece_model_pb2.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's DecodeError, of one implementation or another
        raise BuildError(f"{path.name} can't be read: it is no sentencepiece model") from error
    if not model.pieces:
        raise BuildError(f"{path.name} can't be read: it has no pieces")
    types = type(model.pieces[0])
    return Vocabulary(
        kind.from_sentencepiece([(piece.piece, piece.score) for piece in model.pieces], names),
        charsmap=model.normalizer_spec.precompiled_charsmap or None,
        unk_id=model.trainer_spec.unk_id,
        symbols=tuple(
            AddedToken(piece.piece, normalized=False, special=piece.type == types.CONTROL)
            for piece in model.pieces
            if piece.type in (types.CONTROL, types.USER_DEFINED)
        ),
    )


def _check_names(
    vocabulary: Vocabulary, settings: _Settings, names: dict[str, str], source: str
) -> None:
    """Transformers would give those that are missing new ids, beyond the model's embeddings."""
    pieces = vocabulary.pieces
    known = set(pieces) if isinstance(pieces, dict) else {piece for piece, _ in pieces}
    known |= {str(token) for token in settings.added.values()}
    for name in NEEDED:
        if names[name] not in known:
            mark = (
                " (the file begins with a byte order mark)"
                if f"\ufeff{names[name]}" in known
                else ""
            )
            raise BuildError(f"{source} has no {names[name]}, the {name}{mark}")


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BuildError(f"{path.name} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BuildError(f"{path.name} can't be read: it is not UTF-8") from error
    except ValueError as error:
        raise BuildError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise BuildError(f"{path.name} holds no JSON object")
    return content

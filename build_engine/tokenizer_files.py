"""A `tokenizer.json` from whichever files a checkpoint has its tokenizer in.

The ids, offsets and word numbers are those that Transformers' AutoTokenizer gives for the same
files; what is read here in which order is what it reads (`PreTrainedTokenizerBase._from_pretrained`
and `AutoTokenizer.from_pretrained` of Transformers 5.24).
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE, WordPiece

from .errors import BuildError
from .tokenizer_classes import BY_MODEL_TYPE, BY_NAME, TokenizerClass, Vocabulary, special_token
from .tokenizer_settings import (
    ROLES,
    TOKENIZER,
    Token,
    TokenizerSettings,
    read_flags,
    read_object,
    read_settings,
)

# Without these no window can be made.
NEEDED = ("cls_token", "sep_token", "pad_token", "unk_token")
# Those that take a `tokenizer.json` as it is.
GENERIC_CLASSES = ("TokenizersBackend", "PreTrainedTokenizer", "PreTrainedTokenizerFast")
# Of these Transformers knows that what their repositories name is wrong.
GENERIC_MODEL_TYPES = ("modernbert",)
INSTALL_SENTENCEPIECE = "pip install sentencepiece"


def read_tokenizer(
    folder: Path, *, model_type: str | None = None, do_lower_case: bool = True
) -> str:
    """The content of a `tokenizer.json`. Raises BuildError.

    model_type: as in config.json, which is read if it is None.
    do_lower_case: of a tokenizer of BERT's kind where no tokenizer_config.json says it.
    """
    serialized = read_object(folder / TOKENIZER)
    settings = read_settings(folder, serialized)
    kind = class_of(folder, settings, model_type)
    if serialized is not None:
        model = _model(serialized)
        if kind is None or model.get("type", kind.model) != kind.model:
            return _as_it_is(folder / TOKENIZER, settings)
    if kind is None:
        raise BuildError(
            f"the checkpoint has no {TOKENIZER}, and its vocabulary is of a kind that is not read "
            f"(tokenizer_class {settings.content.get('tokenizer_class')!r}); "
            "AutoTokenizer.from_pretrained(…).save_pretrained(…) of Transformers writes it"
        )
    special = {**kind.special_tokens, **settings.special}
    names = {role: str(token) for role, token in special.items()}
    if serialized is not None:
        source = TOKENIZER
        vocabulary = _from_json(serialized)
    else:
        source = _vocabulary_file(folder, kind)
        vocabulary = _from_files(folder, kind, names)
    _check_names(vocabulary, settings, names, source)
    flags = read_flags(settings, kind, do_lower_case)
    extra: list[Token] = list(kind.extra) if settings.extra is None else settings.extra
    if vocabulary.symbols and "extra_special_tokens" not in settings.content:
        extra = list(vocabulary.symbols)
    try:
        tokenizer = kind.build(vocabulary, names, flags)
        _add_tokens(tokenizer, settings, special, extra, kind)
        kind.finish(tokenizer, names, flags)
    except Exception as error:  # tokenizers raises bare Exception, and TypeError
        raise BuildError(f"{source} can't be read: {error}") from error
    return tokenizer.to_str()


def special_token_names(folder: Path) -> dict[str, str]:
    """The names of the cls, sep, pad and unk tokens, such as {"cls": "<s>"}, as far as
    tokenizer_config.json and special_tokens_map.json say them. Raises BuildError."""
    special = read_settings(folder, None).special
    return {
        name: str(special[f"{name}_token"])
        for name in ("cls", "sep", "pad", "unk")
        if f"{name}_token" in special
    }


def class_of(
    folder: Path, settings: TokenizerSettings, model_type: str | None = None
) -> TokenizerClass | None:
    """How Transformers would choose; None where it would take a tokenizer.json as it is.

    model_type: as in config.json, which is read if it is None. Raises BuildError.
    """
    config = read_object(folder / "config.json") or {}
    model_type = config.get("model_type") if model_type is None else model_type
    named = settings.content.get("tokenizer_class") or config.get("tokenizer_class")
    if model_type in GENERIC_MODEL_TYPES:
        return None
    if named is None or (named in GENERIC_CLASSES and not (folder / TOKENIZER).is_file()):
        return BY_MODEL_TYPE.get(str(model_type))
    return BY_NAME.get(str(named).removesuffix("Fast"))


def _as_it_is(path: Path, settings: TokenizerSettings) -> str:
    try:
        tokenizer = Tokenizer.from_file(str(path))
        _add_tokens(tokenizer, settings, settings.special, settings.extra or [], None)
    except Exception as error:  # tokenizers raises bare Exception
        raise BuildError(f"{path.name} can't be read: {error}") from error
    return tokenizer.to_str()


def _add_tokens(
    tokenizer: Tokenizer,
    settings: TokenizerSettings,
    special: dict[str, Token],
    extra: list[Token],
    kind: TokenizerClass | None,
) -> None:
    """Add them in Transformers' order, which gives those that the vocabulary lacks their ids."""
    make = special_token if kind is None else kind.special_token
    tokens: list[Token] = [settings.added[token_id] for token_id in sorted(settings.added)]
    made: list[AddedToken] = [settings.added[token_id] for token_id in sorted(settings.added)]
    known = {str(token) for token in tokens}
    known |= {str(token) for token in tokenizer.get_added_tokens_decoder().values()}
    roles = [role for role in ROLES if role in special]
    roles += [role for role in special if role not in ROLES]
    for role, token in [*((role, special[role]) for role in roles), *(("", t) for t in extra)]:
        # The same name as a str and as an AddedToken comes twice, and then what is said last
        # counts, as in Transformers.
        if str(token) not in known and token not in tokens:
            tokens.append(token)
            made.append(make(role, token) if isinstance(token, str) else token)
    named = {str(token) for token in special.values()}
    for token in made:
        token.special = token.special or str(token) in named
    tokenizer.add_tokens(made)


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
    merges: list[Any] = [
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
        from sentencepiece import sentencepiece_model_pb2 as messages
    except ImportError as error:
        raise BuildError(f"{path.name} needs sentencepiece: {INSTALL_SENTENCEPIECE}") from error
    model: Any = vars(messages)["ModelProto"]()  # which protobuf makes while it is imported
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
    vocabulary: Vocabulary, settings: TokenizerSettings, names: dict[str, str], source: str
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

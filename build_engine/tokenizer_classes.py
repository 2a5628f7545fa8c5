"""The tokenizers of Transformers, each built as its class of Transformers 5 builds it.

That class, not the `tokenizer.json`, says how a text is normalized and split: of the file
Transformers takes the vocabulary and the added tokens, and sets up the rest from the flags in
`tokenizer_config.json`. (Transformers 5.2 did so with mistakes, which later ones mended: it did not
lowercase for BERT unless told to, and left out sentencepiece's table of characters.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.processors import RobertaProcessing, TemplateProcessing

METASPACE = "▁"
BERT_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
ROBERTA_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a tokenizer's files say, whichever they are.

    pieces: ids by piece of WordPiece and BPE; (piece, score) in the order of ids of Unigram.
    charsmap: sentencepiece's table of how to replace characters.
    unk_id: what a sentencepiece file says it is.
    symbols: the control and user-defined symbols of a sentencepiece file.
    """

    pieces: Any
    merges: list[tuple[str, str]] = field(default_factory=list)
    charsmap: bytes | None = None
    unk_id: int = 1
    symbols: tuple[AddedToken, ...] = ()


@dataclass(frozen=True, slots=True)
class Flags:
    """Of `tokenizer_config.json`, with Transformers' defaults; of each class only some count."""

    do_lower_case: bool
    strip_accents: bool | None
    tokenize_chinese_chars: bool
    keep_accents: bool
    split_by_punct: bool
    add_prefix_space: bool
    trim_offsets: bool


def special_token(_role: str, name: str) -> AddedToken:
    return AddedToken(name, special=True)


@dataclass(frozen=True, slots=True)
class TokenizerClass:
    """One of Transformers' tokenizer classes.

    model: the type of the model in a `tokenizer.json`.
    files: where the vocabulary is if there is no `tokenizer.json`.
    special_tokens: their names where no file says others.
    build: of a vocabulary, the names of the special tokens, and flags.
    finish: sets the post-processor, once the special tokens have their ids.
    from_sentencepiece: what becomes of the (piece, score) of a sentencepiece file.
    extra: special tokens without a role, where no file names any.
    special_token: of which role ("mask_token") and what name, where no file says more of it.
    """

    model: str
    files: tuple[str, ...]
    special_tokens: Mapping[str, str]
    build: Callable[[Vocabulary, Mapping[str, str], Flags], Tokenizer]
    finish: Callable[[Tokenizer, Mapping[str, str], Flags], None]
    do_lower_case: bool = False
    add_prefix_space: bool = True
    from_sentencepiece: Callable[[list[tuple[str, float]], Mapping[str, str]], Any] = (
        lambda pieces, _: pieces
    )
    extra: tuple[str, ...] = ()
    special_token: Callable[[str, str], AddedToken] = special_token


def _wordpiece(vocabulary: Vocabulary, names: Mapping[str, str], flags: Flags) -> Tokenizer:
    tokenizer = Tokenizer(WordPiece(vocabulary.pieces, unk_token=names["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=flags.tokenize_chinese_chars,
        strip_accents=flags.strip_accents,
        lowercase=flags.do_lower_case,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def _byte_level(vocabulary: Vocabulary, _: Mapping[str, str], flags: Flags) -> Tokenizer:
    tokenizer = Tokenizer(
        BPE(
            vocab=vocabulary.pieces,
            merges=vocabulary.merges,
            continuing_subword_prefix="",
            end_of_word_suffix="",
            fuse_unk=False,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=flags.add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _xlm_roberta(vocabulary: Vocabulary, _: Mapping[str, str], flags: Flags) -> Tokenizer:
    return _split_at_spaces(Unigram(vocabulary.pieces, 3), vocabulary, [], flags)


def _camembert(vocabulary: Vocabulary, names: Mapping[str, str], flags: Flags) -> Tokenizer:
    pieces = [piece for piece, _ in vocabulary.pieces]
    unk = pieces.index(names["unk_token"]) if names["unk_token"] in pieces else 0
    return _split_at_spaces(Unigram(vocabulary.pieces, unk), vocabulary, [], flags)


def _albert(vocabulary: Vocabulary, _: Mapping[str, str], flags: Flags) -> Tokenizer:
    steps: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not flags.keep_accents:
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if flags.do_lower_case:
        steps.append(normalizers.Lowercase())
    return _split_at_spaces(Unigram(vocabulary.pieces, 1), vocabulary, steps, flags)


def _split_at_spaces(
    model: Unigram, vocabulary: Vocabulary, steps: list[Any], flags: Flags
) -> Tokenizer:
    tokenizer = Tokenizer(model)
    if vocabulary.charsmap:
        steps = [*steps, normalizers.Precompiled(vocabulary.charsmap)]
    if steps:
        tokenizer.normalizer = steps[0] if len(steps) == 1 else normalizers.Sequence(steps)
    scheme = "always" if flags.add_prefix_space else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(METASPACE, scheme)]
    )
    tokenizer.decoder = decoders.Metaspace(METASPACE, scheme)
    return tokenizer


def _deberta_v2(vocabulary: Vocabulary, names: Mapping[str, str], flags: Flags) -> Tokenizer:
    unk = (names["unk_token"], 0.0)
    pieces = vocabulary.pieces
    tokenizer = Tokenizer(
        Unigram(pieces, pieces.index(unk) if unk in pieces else vocabulary.unk_id)
    )
    steps: list[Any] = [normalizers.Lowercase()] if flags.do_lower_case else []
    steps += [
        normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "),
        normalizers.NFC(),
        normalizers.Strip(left=False, right=True),
    ]
    tokenizer.normalizer = normalizers.Sequence(steps)
    scheme = "always" if flags.add_prefix_space else "first"
    split: list[Any] = (
        [pre_tokenizers.Punctuation(behavior="isolated")] if flags.split_by_punct else []
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*split, pre_tokenizers.Metaspace(METASPACE, scheme)]
    )
    tokenizer.decoder = decoders.Metaspace(METASPACE, scheme)
    return tokenizer


def _bert_pair(tokenizer: Tokenizer, names: Mapping[str, str], _: Flags) -> None:
    cls, sep = names["cls_token"], names["sep_token"]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(name, _id(tokenizer, name)) for name in (cls, sep)],
    )


def _roberta_pair(tokenizer: Tokenizer, names: Mapping[str, str], flags: Flags) -> None:
    cls, sep = names["cls_token"], names["sep_token"]
    # Not for its special tokens alone: it takes the spaces out of the offsets.
    tokenizer.post_processor = RobertaProcessing(
        (sep, _id(tokenizer, sep)),
        (cls, _id(tokenizer, cls)),
        trim_offsets=flags.trim_offsets,
        add_prefix_space=flags.add_prefix_space,
    )


def _id(tokenizer: Tokenizer, token: str) -> int:
    token_id = tokenizer.token_to_id(token)
    assert token_id is not None, f"{token} was added"
    return token_id


def _sentencepiece_pair(tokenizer: Tokenizer, names: Mapping[str, str], _: Flags) -> None:
    bos, eos = names["bos_token"], names["eos_token"]
    tokenizer.post_processor = TemplateProcessing(
        single=[bos, "$A", eos],
        pair=[bos, "$A", eos, eos, "$B", eos],
        special_tokens=[(name, _id(tokenizer, name)) for name in (bos, eos)],
    )


def _fairseq_ids(pieces: list[tuple[str, float]], names: Mapping[str, str]) -> Any:
    """fairseq's own first four ids in place of sentencepiece's first three, and a mask."""
    first = [(names[f"{name}_token"], 0.0) for name in ("bos", "pad", "eos", "unk")]
    return [*first, *pieces[3:], (names["mask_token"], 0.0)]


def _camembert_ids(pieces: list[tuple[str, float]], names: Mapping[str, str]) -> Any:
    first = [
        ("<s>NOTUSED", 0.0),
        (names["pad_token"], 0.0),
        ("</s>NOTUSED", 0.0),
        (names["unk_token"], 0.0),
        ("<unk>NOTUSED", -100.0),
    ]
    return [*first, *pieces[1:], (names["mask_token"], 0.0)]


def _mask_takes_space(role: str, name: str) -> AddedToken:
    return AddedToken(name, lstrip=role == "mask_token", special=True)


def _mpnet_token(role: str, name: str) -> AddedToken:
    token = AddedToken(name, lstrip=role == "mask_token")
    token.special = True  # only now: MPNet's are looked for in the normalized text
    return token


BERT = TokenizerClass(
    "WordPiece", ("vocab.txt",), BERT_TOKENS, _wordpiece, _bert_pair, do_lower_case=True
)
MPNET = TokenizerClass(
    "WordPiece",
    ("vocab.txt",),
    ROBERTA_TOKENS | {"unk_token": "[UNK]"},
    _wordpiece,
    _roberta_pair,
    do_lower_case=True,
    add_prefix_space=False,
    special_token=_mpnet_token,
)
ROBERTA = TokenizerClass(
    "BPE",
    ("vocab.json", "merges.txt"),
    ROBERTA_TOKENS,
    _byte_level,
    _roberta_pair,
    add_prefix_space=False,
)
XLM_ROBERTA = TokenizerClass(
    "Unigram",
    ("sentencepiece.bpe.model",),
    ROBERTA_TOKENS,
    _xlm_roberta,
    _sentencepiece_pair,
    from_sentencepiece=_fairseq_ids,
)
CAMEMBERT = TokenizerClass(
    "Unigram",
    ("sentencepiece.bpe.model",),
    ROBERTA_TOKENS,
    _camembert,
    _sentencepiece_pair,
    from_sentencepiece=_camembert_ids,
    extra=("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"),
    special_token=_mask_takes_space,
)
ALBERT = TokenizerClass(
    "Unigram",
    ("spiece.model",),
    BERT_TOKENS
    | {"bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "<unk>", "pad_token": "<pad>"},
    _albert,
    _bert_pair,
    do_lower_case=True,
)
DEBERTA_V2 = TokenizerClass(
    "Unigram",
    ("spm.model",),
    BERT_TOKENS | {"bos_token": "[CLS]", "eos_token": "[SEP]"},
    _deberta_v2,
    _bert_pair,
)

# By the `tokenizer_class` of a config, less the "Fast" that some have at their end.
BY_NAME = {
    "BertTokenizer": BERT,
    "DistilBertTokenizer": BERT,
    "ElectraTokenizer": BERT,
    "MobileBertTokenizer": BERT,
    "MPNetTokenizer": MPNET,
    "RobertaTokenizer": ROBERTA,
    "XLMRobertaTokenizer": XLM_ROBERTA,
    "CamembertTokenizer": CAMEMBERT,
    "AlbertTokenizer": ALBERT,
    "DebertaV2Tokenizer": DEBERTA_V2,
}
# By the `model_type` of a config, where nothing names a class.
BY_MODEL_TYPE = {
    "bert": BERT,
    "camembert": CAMEMBERT,
    "deberta-v2": DEBERTA_V2,
    "distilbert": BERT,
    "electra": BERT,
    "albert": ALBERT,
    "mpnet": MPNET,
    "roberta": ROBERTA,
    "xlm-roberta": XLM_ROBERTA,
}

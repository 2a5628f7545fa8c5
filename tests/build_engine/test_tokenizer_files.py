"""What comes of a checkpoint's tokenizer files, against Transformers' own tokenizer of them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from transformers import AutoTokenizer

from electra_qa.build_engine.errors import BuildError
from electra_qa.build_engine.tokenizer_files import read_tokenizer, special_token_names

from ..hub import vocabularies

TEXTS = [
    "The Normans (Norman: Nourmands) gave their name to Normandy, in the 10th century.",
    "Café São Übermäßig naïve, coöperating: ÉCOLE İstanbul cafe\u0301 ﬁn x²",
    "東京は首都です 한국어 नमस्ते",
    "  two  spaces\tand\nlines\r\n ``quoted'' (in-between) £5–6 €7 ",
    "[CLS] <s> [SEP] </s> [MASK] <mask> [PAD] <pad> [UNK] <unk> <new> other",
    "\u200b\xad\x00 👩\u200d👧 \ufffd " + "a" * 120,
    "▁ ▁▁x",
    "",
]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Makes a checkpoint's folder, less its weights, with the other files as named."""

    def write(model_type: str, **files: Any) -> Path:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        for name, content in vocabularies.files(model_type).items():
            (tmp_path / name).write_bytes(content)
        for stem, content in files.items():
            (tmp_path / f"{stem}.json").write_text(json.dumps(content), encoding="utf-8")
        return tmp_path

    return write


def assert_as_transformers(folder: Path) -> RustTokenizer:
    """All of it, not only what a few texts show; and what those show."""
    expected = AutoTokenizer.from_pretrained(folder)
    serialized = read_tokenizer(folder)
    made = RustTokenizer.from_str(serialized)
    ours, theirs = json.loads(serialized), json.loads(expected.backend_tokenizer.to_str())
    for part in ("truncation", "padding"):
        del ours[part], theirs[part]
    assert ours == theirs
    for text in TEXTS:
        encoding = made.encode(text, add_special_tokens=False)
        reference = expected(text, add_special_tokens=False, return_offsets_mapping=True)
        assert encoding.ids == reference["input_ids"]
        assert encoding.offsets == reference["offset_mapping"]
        assert encoding.word_ids == reference.word_ids()
    assert made.encode("one", "two").ids == expected("one", "two")["input_ids"]
    return made


BOOLEANS = (False, True)
WORDPIECE_FLAGS = [
    {"do_lower_case": lower, "strip_accents": strip, "tokenize_chinese_chars": chinese}
    for lower in BOOLEANS
    for strip in (*BOOLEANS, None)
    for chinese in BOOLEANS
]
# A model type, and what its tokenizer_config.json may say.
LAYOUTS: list[tuple[str, dict[str, Any]]] = [
    *(("bert", flags) for flags in ({}, *WORDPIECE_FLAGS)),
    ("electra", {"do_lower_case": True, "tokenizer_class": "ElectraTokenizer"}),
    ("distilbert", {"do_lower_case": False, "tokenizer_class": "DistilBertTokenizerFast"}),
    ("mpnet", {}),
    ("mpnet", {"do_lower_case": False, "strip_accents": True}),
    *(("roberta", {"add_prefix_space": prefix}) for prefix in BOOLEANS),
    ("roberta", {"trim_offsets": False}),
    ("xlm-roberta", {}),
    ("camembert", {}),
    ("camembert", {"additional_special_tokens": ["<s>NOTUSED", "</s>NOTUSED"]}),
    ("albert", {}),
    ("albert", {"do_lower_case": False}),
    ("albert", {"keep_accents": True}),
    ("deberta-v2", {}),
    ("deberta-v2", {"do_lower_case": True, "split_by_punct": True}),
]


@pytest.mark.parametrize(("model_type", "flags"), LAYOUTS)
def test_the_tokenizer_is_that_of_transformers(
    write: Write, model_type: str, flags: dict[str, Any]
) -> None:
    folder = write(model_type, tokenizer_config=flags)
    if model_type == "deberta-v2":
        write(model_type, added_tokens={"[MASK]": vocabularies.SIZE})
    assert_as_transformers(folder)


@pytest.mark.parametrize(("model_type", "flags"), LAYOUTS)
def test_a_tokenizer_json_is_set_up_by_the_flags_beside_it(
    write: Write, tmp_path_factory: pytest.TempPathFactory, model_type: str, flags: dict[str, Any]
) -> None:
    """As Transformers does it: saved with other flags, the file itself says otherwise."""
    saved = tmp_path_factory.mktemp("saved")
    AutoTokenizer.from_pretrained(write(model_type)).save_pretrained(saved)
    shutil.copy(write(model_type) / "config.json", saved)
    (saved / "tokenizer_config.json").write_text(json.dumps(flags), encoding="utf-8")
    assert_as_transformers(saved)


def test_the_flags_of_a_vocab_txt_are_kept_to(write: Write) -> None:
    flags = {"do_lower_case": True, "strip_accents": False, "tokenize_chinese_chars": False}
    tokenizer = RustTokenizer.from_str(read_tokenizer(write("bert", tokenizer_config=flags)))
    assert tokenizer.normalizer.normalize_str("Café São 東京") == "café são 東京"


@pytest.mark.parametrize("model_type", vocabularies.FILES)
def test_what_transformers_saved_is_read_as_it_reads_it(
    write: Write, tmp_path_factory: pytest.TempPathFactory, model_type: str
) -> None:
    saved = tmp_path_factory.mktemp("saved")
    AutoTokenizer.from_pretrained(write(model_type)).save_pretrained(saved)
    shutil.copy(write(model_type) / "config.json", saved)
    assert_as_transformers(saved)


@pytest.mark.parametrize(
    ("model_type", "named"),
    [
        ("bert", "PreTrainedTokenizerFast"),
        ("bert", "NoTokenizer"),
        ("modernbert", "BertTokenizer"),
        ("modernbert", None),
    ],
)
def test_a_tokenizer_of_no_class_is_taken_as_it_is(
    write: Write, model_type: str, named: str | None
) -> None:
    """ModernBERT's, and those that people made themselves."""
    folder = write("bert", tokenizer_config={})
    made = RustTokenizer.from_str(read_tokenizer(folder))
    made.normalizer = None
    (folder / "tokenizer.json").write_text(made.to_str(), encoding="utf-8")
    (folder / "vocab.txt").unlink()
    settings = {"tokenizer_class": named, "cls_token": "[CLS]", "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    tokenizer = assert_as_transformers(folder)
    assert tokenizer.normalizer is None
    assert tokenizer.token_to_id("<end>") == len(made.get_vocab())


SPECIAL_TOKENS: list[tuple[str, dict[str, Any]]] = [
    (
        "bert",
        {
            "special_tokens_map": {
                "cls_token": {"content": "[unused1]", "lstrip": False, "normalized": True},
                "sep_token": "[unused2]",
                "additional_special_tokens": ["[unused3]", "<extra>"],
            },
            "tokenizer_config": {"cls_token": "[CLS]", "do_lower_case": False},
        },
    ),
    (
        "bert",
        {
            "tokenizer_config": {
                "pad_token": {"__type": "AddedToken", "content": "[unused5]"},
                "query_token": "[unused6]",
                "additional_special_tokens": ["<extra>"],
            },
            "added_tokens": {"<new>": 9000, "<extra>": 9001},
        },
    ),
    (
        "bert",
        {
            "tokenizer_config": {
                "added_tokens_decoder": {
                    "0": {"content": "[PAD]", "special": True, "normalized": False},
                    "9000": {"content": "<new>", "special": False, "lstrip": True},
                },
            },
            "special_tokens_map": {"cls_token": "not looked at"},
        },
    ),
    (
        "roberta",
        {
            "special_tokens_map": {
                "mask_token": {"content": "<mask>", "lstrip": True, "normalized": True},
                "bos_token": {"content": "<s>", "normalized": True},
            },
            "added_tokens": {"<new>": 9000},
        },
    ),
    ("xlm-roberta", {"special_tokens_map": {"mask_token": {"content": "<mask>", "lstrip": True}}}),
    ("albert", {"tokenizer_config": {"additional_special_tokens": ["<new>"]}}),
]


@pytest.mark.parametrize(("model_type", "files"), SPECIAL_TOKENS)
def test_special_and_added_tokens_are_those_of_transformers(
    write: Write, model_type: str, files: dict[str, Any]
) -> None:
    assert_as_transformers(write(model_type, **files))


@given(text=st.text(max_size=60))
def test_any_text_is_split_as_transformers_splits_it(text: str, everything: Any) -> None:
    for made, expected in everything:
        encoding = made.encode(text, add_special_tokens=False)
        reference = expected(text, add_special_tokens=False, return_offsets_mapping=True)
        assert encoding.ids == reference["input_ids"]
        assert encoding.offsets == reference["offset_mapping"]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[RustTokenizer, Any]]:
    """A tokenizer of each kind: ours and Transformers'."""
    pairs = []
    for model_type in vocabularies.FILES:
        folder = tmp_path_factory.mktemp(model_type)
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        for name, content in vocabularies.files(model_type).items():
            (folder / name).write_bytes(content)
        made = RustTokenizer.from_str(read_tokenizer(folder))
        pairs.append((made, AutoTokenizer.from_pretrained(folder)))
    return pairs


def test_windows_line_ends_are_no_part_of_the_vocabulary(write: Write) -> None:
    folder = write("bert")
    expected = read_tokenizer(folder)
    unix = (folder / "vocab.txt").read_bytes()
    (folder / "vocab.txt").write_bytes(unix.replace(b"\n", b"\r\n"))
    assert read_tokenizer(folder) == expected
    assert_as_transformers(folder)


def test_the_casing_that_is_asked_for_holds_where_no_file_says_it(write: Write) -> None:
    folder = write("bert")
    cased = RustTokenizer.from_str(read_tokenizer(folder, do_lower_case=False))
    assert cased.normalizer.normalize_str("Café") == "Café"
    write("bert", tokenizer_config={"do_lower_case": True})
    told = RustTokenizer.from_str(read_tokenizer(folder, do_lower_case=False))
    assert told.normalizer.normalize_str("Café") == "cafe"


def test_the_names_of_the_special_tokens_are_read(write: Write) -> None:
    folder = write("bert")
    assert special_token_names(folder) == {}
    write("bert", tokenizer_config={"cls_token": "<a>", "sep_token": None, "pad_token": "<b>"})
    assert special_token_names(folder) == {"cls": "<a>", "pad": "<b>"}
    write("bert", special_tokens_map={"pad_token": {"content": "<c>"}, "unk_token": "<d>"})
    assert special_token_names(folder) == {"cls": "<a>", "pad": "<c>", "unk": "<d>"}


def refusal(folder: Path) -> str:
    with pytest.raises(BuildError) as caught:
        read_tokenizer(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        ("bert", "the checkpoint has neither tokenizer.json nor vocab.txt; "),
        ("roberta", "the checkpoint has neither tokenizer.json nor vocab.json with merges.txt; "),
        ("albert", "the checkpoint has neither tokenizer.json nor spiece.model; "),
        ("deberta-v2", "the checkpoint has neither tokenizer.json nor spm.model; "),
    ],
)
def test_a_vocabulary_that_is_missing_is_named(write: Write, model_type: str, message: str) -> None:
    folder = write(model_type)
    for name in vocabularies.files(model_type):
        (folder / name).unlink()
    assert refusal(folder).startswith(message)


def test_merges_that_are_missing_are_named(write: Write) -> None:
    folder = write("roberta")
    (folder / "merges.txt").unlink()
    assert refusal(folder) == "the checkpoint has no merges.txt beside its vocab.json"


@pytest.mark.parametrize(
    ("model_type", "name", "content", "message"),
    [
        ("bert", "vocab.txt", b"\xff\xfe", "vocab.txt can't be read: "),
        ("bert", "vocab.txt", b"[PAD]\n[UNK]\n[CLS]\nNorse\n", "vocab.txt has no [SEP], "),
        ("bert", "tokenizer.json", b"\xff\xfe", "tokenizer.json can't be read: it is not UTF-8"),
        ("bert", "tokenizer.json", b"{", "tokenizer.json is not JSON: "),
        ("bert", "tokenizer.json", b"[]", "tokenizer.json holds no JSON object"),
        ("bert", "tokenizer.json", b"{}", "tokenizer.json can't be read: it has no model"),
        ("bert", "tokenizer.json", b'{"model": {}}', "tokenizer.json can't be read: its model"),
        (
            "bert",
            "tokenizer.json",
            b'{"model": {"vocab": {"[PAD]": "x"}}}',
            "tokenizer.json has no [CLS]",
        ),
        ("bert", "tokenizer_config.json", b"do_lower_case", "tokenizer_config.json is not JSON: "),
        (
            "bert",
            "tokenizer_config.json",
            b'{"do_lower_case": "yes"}',
            "tokenizer_config.json: do_lower_case must be true or false, got 'yes'",
        ),
        ("bert", "tokenizer_config.json", b'{"cls_token": 7}', "tokenizer_config.json: its "),
        ("bert", "special_tokens_map.json", b'{"cls_token": {}}', "special_tokens_map.json: its "),
        ("bert", "added_tokens.json", b'{"<new>": "x"}', "added_tokens.json: its special tokens"),
        ("roberta", "vocab.json", b"\xff\xfe", "vocab.json can't be read: "),
        ("roberta", "merges.txt", b"one-word\n", "vocab.json can't be read: "),
        ("albert", "spiece.model", b"no such thing", "spiece.model can't be read: it is no "),
        ("albert", "spiece.model", b"", "spiece.model can't be read: it has no pieces"),
        ("deberta-v2", "spm.model", vocabularies.xlm_roberta, "spm.model has no [CLS], "),
    ],
)
def test_a_file_that_is_none_is_named(
    write: Write, model_type: str, name: str, content: Any, message: str
) -> None:
    folder = write(model_type)
    (folder / name).write_bytes(content() if callable(content) else content)
    assert refusal(folder).startswith(message)


def test_a_byte_order_mark_is_named(write: Write) -> None:
    """Transformers takes it for a part of [PAD], and gives [PAD] an id past the embeddings."""
    folder = write("bert")
    (folder / "vocab.txt").write_bytes(b"\xef\xbb\xbf" + (folder / "vocab.txt").read_bytes())
    assert AutoTokenizer.from_pretrained(folder).pad_token_id != 0
    assert refusal(folder).startswith("vocab.txt has no [PAD], the pad_token (the file begins ")


def test_a_kind_that_is_not_read_is_named(write: Write) -> None:
    folder = write("bert", tokenizer_config={"tokenizer_class": "BertJapaneseTokenizer"})
    assert "tokenizer_class 'BertJapaneseTokenizer'" in refusal(folder)


def test_without_sentencepiece_it_is_asked_for(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    message = refusal(write("xlm-roberta"))
    assert message == "sentencepiece.bpe.model needs sentencepiece: pip install sentencepiece"

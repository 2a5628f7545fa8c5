from __future__ import annotations

import json
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_qa.tokenization import TokenizedContext, Tokenizer

ACCENT = "\u0301"
JOINER = "\u200d"

# Plain letters, and whatever normalizers treat in their own way: accents, spaces of all widths,
# controls, joiners, Hangul (taken apart into jamo), CJK (a word a character), special tokens.
AWKWARD = st.sampled_from(
    [
        *"aÉİßǅﬁ한が漢नि1.-' \n\x00\x85\xad",
        *(ACCENT, JOINER, "\u200b", "\u3000", "\ufe0f", "\ufeff", "\ufffd"),
        *("👩", "🏽", "🇫", "\U000e0001", "\U0010ffff", "[SEP]", "##s"),
    ]
)
TEXTS = st.one_of(st.text(max_size=40), st.lists(AWKWARD, max_size=20).map("".join))


def cut(context: TokenizedContext, first: int, last: int) -> str:
    start, end = context.characters(first, last)
    return context.text[start:end]


@given(text=TEXTS, align_to_words=st.booleans())
def test_every_span_of_tokens_is_a_piece_of_the_text(
    text: str, align_to_words: bool, tokenizer: Tokenizer
) -> None:
    context = tokenizer.context(text)
    for first, last in combinations_with_replacement(range(len(context.ids)), 2):
        start, end = context.characters(first, last, align_to_words=align_to_words)
        assert 0 <= start < end <= len(text)


@given(text=TEXTS)
def test_tokens_stand_in_the_order_of_the_text(text: str, tokenizer: Tokenizer) -> None:
    context = tokenizer.context(text)
    starts = [context.characters(token, token)[0] for token in range(len(context.ids))]
    assert starts == sorted(starts)


@given(text=TEXTS)
def test_a_text_holds_no_special_tokens_but_unknown_ones(text: str, tokenizer: Tokenizer) -> None:
    special = {tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id}
    assert special.isdisjoint(tokenizer.context(text).ids.tolist())
    assert special.isdisjoint(tokenizer.question(text).tolist())


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (f"The cafe{ACCENT} is shut", f"The cafe{ACCENT}"),
        (f"The cafe{ACCENT}", f"The cafe{ACCENT}"),
        (f"The cafe{ACCENT}\u0323\u20dd!", f"The cafe{ACCENT}\u0323\u20dd"),
        ("The café!", "The café"),
        ("The 👩\u200d👩\u200d👧\ufe0f!", "The 👩\u200d👩\u200d👧\ufe0f"),
        (f"The end{JOINER}", f"The end{JOINER}"),
        ("The\x00 \x00end\x00 .", "The\x00 \x00end"),
        ("The漢字", "The漢"),
        ("The [SEP]", "The ["),
    ],
)
def test_the_text_of_two_tokens_keeps_what_belongs_to_the_last_character(
    text: str, answer: str, tokenizer: Tokenizer
) -> None:
    assert cut(tokenizer.context(text), 0, 1) == answer


@pytest.mark.parametrize("token", ["[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]"])
def test_a_special_token_written_out_is_text(token: str, tokenizer: Tokenizer) -> None:
    context = tokenizer.context(token)
    pieces = [cut(context, i, i) for i in range(len(context.ids))]
    assert len(pieces) >= 3
    assert "".join(pieces) == token
    assert context.ids.tolist() == tokenizer.question(token).tolist()


def test_a_word_stands_for_its_pieces_when_aligned(tokenizer: Tokenizer) -> None:
    context = tokenizer.context("Norse Normanni!")
    assert [cut(context, i, i) for i in range(len(context.ids))] == ["Norse", "Norman", "ni", "!"]
    assert context.characters(1, 1, align_to_words=True) == (6, 14)
    assert context.characters(2, 2, align_to_words=True) == (6, 14)
    assert context.characters(0, 1, align_to_words=True) == (0, 14)
    assert context.characters(2, 2) == (12, 14)


def test_ids_are_not_cut_padded_or_framed(tokenizer: Tokenizer) -> None:
    ids = tokenizer.context("the " * 3000).ids
    assert len(ids) == 3000
    assert len(set(ids.tolist())) == 1
    assert tokenizer.question("").tolist() == []


def edited(checkpoint: Path, **changes: Any) -> str:
    content = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    return json.dumps({**content, **changes})


@pytest.mark.parametrize("serialized", ["", "{}", "[]", "null", "not JSON", '{"model": {}}'])
def test_what_is_no_tokenizer_json_is_refused(serialized: str) -> None:
    with pytest.raises(ValueError, match=r"^not a tokenizer.json: "):
        Tokenizer(serialized)


def test_a_tokenizer_that_is_cut_short_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"^not a tokenizer.json: "):
        Tokenizer(edited(checkpoint)[:-2])


def test_a_tokenizer_without_the_special_tokens_is_refused(checkpoint: Path) -> None:
    model = {"type": "WordPiece", "unk_token": "[UNK]", "vocab": {"[UNK]": 0, "[CLS]": 1}}
    model |= {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    with pytest.raises(ValueError, match=r"tokenizer.json has no \[SEP\] token"):
        Tokenizer(edited(checkpoint, model=model, added_tokens=[], post_processor=None))


def test_truncation_and_padding_in_the_file_are_ignored(
    checkpoint: Path, tokenizer: Tokenizer
) -> None:
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    other = Tokenizer(edited(checkpoint, truncation=truncation, padding=padding))
    text = "Rollo swore fealty"
    assert other.context(text).ids.tolist() == tokenizer.context(text).ids.tolist()
    assert len(other.context(text).ids) == len(tokenizer.question(text)) > 2

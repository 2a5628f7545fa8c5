"""Text to token ids and back to characters, on the checkpoint's own `tokenizer.json`."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding
from tokenizers import Tokenizer as RustTokenizer

ZERO_WIDTH_JOINER = "\u200d"


@dataclass(frozen=True, slots=True)
class TokenizedContext:
    """A context and its tokens, without special tokens.

    text: the caller's own string, untouched.
    ids: int32 [tokens].
    """

    text: str
    ids: npt.NDArray[np.int32]
    _encoding: Encoding

    def characters(self, first: int, last: int, *, align_to_words: bool = False) -> tuple[int, int]:
        """Characters [start, end) of `text` that the tokens first..last (inclusive) cover.

        Offsets count code points, as Python's `str` does. The end is moved over combining marks
        and joiners that belong to the last character: the normalizer drops accents, and a cut
        between a letter and its accent would change the text.

        With `align_to_words` a token inside a word stands for the whole word, as in
        Transformers' question-answering pipeline.
        """
        start, end = self._span(first, align_to_words)[0], self._span(last, align_to_words)[1]
        return start, _past_combining_marks(self.text, end)

    def _span(self, token: int, align_to_words: bool) -> tuple[int, int]:
        word = self._encoding.token_to_word(token) if align_to_words else None
        span = None if word is None else self._encoding.word_to_chars(word)
        start, end = self._encoding.offsets[token] if span is None else span
        return start, end


def _past_combining_marks(text: str, end: int) -> int:
    while end < len(text) and (
        text[end] == ZERO_WIDTH_JOINER or unicodedata.category(text[end]).startswith("M")
    ):
        end += 1
    return end


class Tokenizer:
    """Encodes questions and contexts by themselves; windows put them together.

    Special tokens written out in a text ("[SEP]") are text here, never the special token, so that
    a caller can't forge the borders of a window. Safe to call from several threads; the Rust code
    releases the GIL.
    """

    def __init__(self, serialized: str) -> None:
        """`serialized`: the content of a `tokenizer.json`. Raises ValueError if it is not one."""
        try:
            self._tokenizer: RustTokenizer = RustTokenizer.from_str(serialized)
        except Exception as error:  # tokenizers raises bare Exception
            raise ValueError(f"not a tokenizer.json: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self.cls_id = self._special("[CLS]")
        self.sep_id = self._special("[SEP]")
        self.pad_id = self._special("[PAD]")
        try:
            self.context("\ue000")  # a character that no vocabulary has
        except Exception as error:
            raise ValueError(f"tokenizer.json can't encode every text: {error}") from error

    def _special(self, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise ValueError(f"tokenizer.json has no {token} token: not an ELECTRA or BERT one")
        return int(token_id)

    @property
    def vocab_size(self) -> int:
        """One more than the highest token id."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def question(self, text: str) -> npt.NDArray[np.int32]:
        """Token ids of a question, int32 [tokens], not yet cut to max_query_length."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return np.array(encoding.ids, dtype=np.int32)

    def context(self, text: str) -> TokenizedContext:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return TokenizedContext(text, np.array(encoding.ids, dtype=np.int32), encoding)

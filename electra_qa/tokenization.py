"""Text to token ids and back to characters, on the checkpoint's own `tokenizer.json`."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from itertools import chain
from sys import getsizeof

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding
from tokenizers import Tokenizer as RustTokenizer

ZERO_WIDTH_JOINER = "\u200d"
FIRST_MARK = 0x300  # no code point below it is a combining mark


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """What a window is put together with: cls question sep context sep.

    separators: how many seps stand between question and context.
    """

    cls: str = "[CLS]"
    sep: str = "[SEP]"
    pad: str = "[PAD]"
    unk: str = "[UNK]"
    separators: int = 1


BERT = SpecialTokens()


@dataclass(frozen=True, slots=True)
class TokenizedContext:
    """A context and its tokens, without special tokens.

    text: the caller's own string, untouched.
    ids: int32 [tokens].
    offsets: int32 [tokens, 2], the characters [start, end) of each token. The end is behind the
        combining marks and joiners that belong to the token's last character: the normalizer drops
        accents, and a cut between a letter and its accent would change the text.
    words: int32 [tokens], the number of the word that each token is a part of, rising.
    """

    text: str
    ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int32]
    words: npt.NDArray[np.int32]

    @property
    def nbytes(self) -> int:
        """The memory that it holds, in bytes."""
        return getsizeof(self.text) + self.ids.nbytes + self.offsets.nbytes + self.words.nbytes

    def characters(
        self,
        first: int,
        last: int,
        *,
        align_to_words: bool = False,
        within: tuple[int, int] | None = None,
    ) -> tuple[int, int]:
        """Characters [start, end) of `text` that the tokens first..last (inclusive) cover.

        Offsets count code points, as Python's `str` does.

        With `align_to_words` a token inside a word stands for the whole word, as in
        Transformers' question-answering pipeline; `within` is how far it may: tokens [start, end).
        """
        if align_to_words:
            lowest, highest = within or (0, len(self.words))
            words = self.words  # they rise, and a word may be as long as the context
            first = max(int(words.searchsorted(words[first], "left")), lowest)
            last = min(int(words.searchsorted(words[last], "right")), highest) - 1
        return self.offsets.item(first, 0), self.offsets.item(last, 1)


def _past_combining_marks(text: str, ends: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Each end moved behind the combining marks and joiners that stand there."""
    if text.isascii():
        return ends
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    marks = [code for code in np.unique(codes[codes >= FIRST_MARK]).tolist() if _is_mark(chr(code))]
    if not marks:
        return ends
    places = np.arange(len(codes) + 1, dtype=np.int32)
    places[:-1][np.isin(codes, marks)] = len(codes)
    # From each place on, the first that no mark is at.
    return np.minimum.accumulate(places[::-1])[::-1][ends]


def _is_mark(character: str) -> bool:
    return character == ZERO_WIDTH_JOINER or unicodedata.category(character).startswith("M")


class Tokenizer:
    """Encodes questions and contexts by themselves; windows put them together.

    Special tokens written out in a text ("[SEP]") are text here, never the special token, so that
    a caller can't forge the borders of a window. Safe to call from several threads; the Rust code
    releases the GIL.
    """

    def __init__(self, serialized: str, special_tokens: SpecialTokens = BERT) -> None:
        """`serialized`: the content of a `tokenizer.json`. Raises ValueError if it is not one, or
        has not these special tokens."""
        try:
            self._tokenizer: RustTokenizer = RustTokenizer.from_str(serialized)
        except Exception as error:  # tokenizers raises bare Exception
            raise ValueError(f"not a tokenizer.json: {error}") from error
        self.serialized = serialized
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self.cls_id = self._special(special_tokens.cls)
        self.sep_id = self._special(special_tokens.sep)
        self.pad_id = self._special(special_tokens.pad)
        self._unk_id = self._special(special_tokens.unk)
        self._borders = np.array([self.cls_id, self.sep_id, self.pad_id], dtype=np.int32)
        try:
            self.context("\ue000")  # a character that no vocabulary has
        except Exception as error:
            raise ValueError(f"tokenizer.json can't encode every text: {error}") from error

    def _special(self, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise ValueError(f"tokenizer.json has no {token} token")
        return int(token_id)

    @property
    def vocab_size(self) -> int:
        """One more than the highest token id."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def question(self, text: str) -> npt.NDArray[np.int32]:
        """Token ids of a question, int32 [tokens], not yet cut to max_query_length."""
        return self._ids(self._tokenizer.encode(text, add_special_tokens=False))

    def context(self, text: str) -> TokenizedContext:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        tokens = len(encoding)
        # Twice as fast as np.array, which holds the interpreter all the while.
        flat = chain.from_iterable(encoding.offsets)
        offsets = np.fromiter(flat, np.int32, 2 * tokens).reshape(tokens, 2)
        offsets[:, 1] = _past_combining_marks(text, offsets[:, 1])
        return TokenizedContext(
            text,
            ids=self._ids(encoding),
            offsets=offsets,
            # Without special tokens every token is a part of some word.
            words=np.array(encoding.word_ids, dtype=np.int32),
        )

    def _ids(self, encoding: Encoding) -> npt.NDArray[np.int32]:
        """A unigram model finds special tokens in a text, as pieces like any other."""
        ids = np.array(encoding.ids, dtype=np.int32)
        ids[np.isin(ids, self._borders)] = self._unk_id
        return ids

"""Small vocabularies in the files that checkpoints have them in, trained on this project's prose.

The real ones can't be had here; these come from the trainers that made those, with the same
special symbols at the same ids.
"""

from __future__ import annotations

import io
import json
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import sentencepiece
from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer

DOCS = Path(__file__).parents[2] / "docs"
# What English prose has too little of.
FOREIGN = (
    "Où est le café de São Paulo ? L'été dernier, à Noël, nous étions naïfs.",
    "Die Größe der Straße überrascht; ÄRGER mit Übermut, İstanbul und Ωmega.",
    "東京は日本の首都です。漢字とかなを混ぜて書く。한국어 नमस्ते עברית العربية",
)
SIZE = 1500


def prose() -> list[str]:
    lines = [line for page in sorted(DOCS.glob("*.md")) for line in page.read_text().splitlines()]
    return [*(line for line in lines if len(line) > 40), *FOREIGN * 5]


def cased_wordpiece() -> bytes:
    """vocab.txt of a cased BERT: [PAD] is 0, [UNK], [CLS], [SEP] and [MASK] from 100 on."""
    trainer = BertWordPieceTokenizer(lowercase=False)
    trainer.train_from_iterator(prose(), vocab_size=SIZE, show_progress=False)
    special = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = trainer.get_vocab()
    learned = [piece for piece in sorted(vocab, key=vocab.__getitem__) if piece not in special]
    learned.remove("[PAD]")
    pieces = ["[PAD]", *(f"[unused{i}]" for i in range(1, 100)), *special, *learned]
    return "".join(f"{piece}\n" for piece in pieces).encode()


def byte_level() -> dict[str, bytes]:
    """vocab.json and merges.txt of a RoBERTa, <mask> at the end."""
    trainer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer.train_from_iterator(
        prose(), vocab_size=SIZE, special_tokens=special, show_progress=False
    )
    with TemporaryDirectory() as folder:
        trainer.save_model(folder)
        vocab = json.loads((Path(folder) / "vocab.json").read_text(encoding="utf-8"))
        merges = (Path(folder) / "merges.txt").read_bytes()
    vocab["<mask>"] = len(vocab)
    return {"vocab.json": json.dumps(vocab).encode(), "merges.txt": merges}


def _sentencepiece(**options: object) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(prose()),
        model_writer=model,
        vocab_size=SIZE,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def xlm_roberta() -> bytes:
    """sentencepiece.bpe.model of fairseq's models: <unk>, <s>, </s>, then the pieces."""
    return _sentencepiece()


def albert() -> bytes:
    """spiece.model, with the symbols that ALBERT's was trained with."""
    return _sentencepiece(
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
        user_defined_symbols=["(", ")", '"', "-", ".", "–", "£", "€"],
        normalization_rule_name="nmt_nfkc",
    )


def deberta_v3() -> bytes:
    """spm.model: [PAD], [CLS], [SEP], [UNK], then the pieces; [MASK] is in added_tokens.json."""
    return _sentencepiece(
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        pad_piece="[PAD]",
        bos_piece="[CLS]",
        eos_piece="[SEP]",
        unk_piece="[UNK]",
    )


def mpnet() -> bytes:
    """vocab.txt of an MPNet: its own special tokens before BERT's vocabulary, its mask behind."""
    own = "".join(f"{token}\n" for token in ("<s>", "<pad>", "</s>", "<unk>"))
    return own.encode() + files("bert")["vocab.txt"] + b"<mask>\n"


FILES = {
    "bert": lambda: {"vocab.txt": cased_wordpiece()},
    "mpnet": lambda: {"vocab.txt": mpnet()},
    "roberta": byte_level,
    "xlm-roberta": lambda: {"sentencepiece.bpe.model": xlm_roberta()},
    "camembert": lambda: {"sentencepiece.bpe.model": xlm_roberta()},
    "albert": lambda: {"spiece.model": albert()},
    "deberta-v2": lambda: {"spm.model": deberta_v3()},
}


def files(model_type: str) -> dict[str, bytes]:
    """The vocabulary's files that a checkpoint has; BERT's of a model type that has none here."""
    return _made(model_type if model_type in FILES else "bert")


@lru_cache
def _made(model_type: str) -> dict[str, bytes]:
    return FILES[model_type]()

"""Small checkpoints of every family, with random weights and a real tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .hub import vocabularies
from .hub.repositories import UNCASED_VOCAB
from .random_weights import randomize

BERT_SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
}
ROBERTA_SHAPE = BERT_SHAPE | {"max_position_embeddings": 514, "type_vocab_size": 1}
DISTILBERT_SHAPE = {"dim": 64, "n_layers": 3, "n_heads": 4, "hidden_dim": 128}
DEBERTA_SHAPE = BERT_SHAPE | {
    "relative_attention": True,
    "position_buckets": 32,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
}


def uncased() -> dict[str, bytes]:
    return {"vocab.txt": UNCASED_VOCAB.read_bytes()}


def mpnet() -> dict[str, bytes]:
    """BERT's pieces behind the special tokens of MPNet."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *UNCASED_VOCAB.read_text().splitlines(), "<mask>"]
    return {"vocab.txt": "".join(f"{piece}\n" for piece in pieces).encode()}


def modernbert() -> dict[str, bytes]:
    """Byte-level BPE with BERT's special tokens, in a tokenizer.json alone."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabularies.SIZE,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(vocabularies.prose(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    names = {f"{name[1:-1].lower()}_token": name for name in special}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    return {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(settings).encode(),
    }


# Of each model_type: the vocabulary's files, and the config.
KINDS: dict[str, tuple[Callable[[], dict[str, bytes]], dict[str, Any]]] = {
    "albert": (
        lambda: {"spiece.model": vocabularies.albert()},
        BERT_SHAPE | {"embedding_size": 32},
    ),
    "bert": (uncased, BERT_SHAPE),
    "camembert": (lambda: {"sentencepiece.bpe.model": vocabularies.xlm_roberta()}, ROBERTA_SHAPE),
    "deberta-v2": (lambda: {"spm.model": vocabularies.deberta_v3()}, DEBERTA_SHAPE),
    "distilbert": (lambda: {"vocab.txt": vocabularies.cased_wordpiece()}, DISTILBERT_SHAPE),
    "electra": (uncased, BERT_SHAPE | {"embedding_size": 32}),
    "modernbert": (modernbert, BERT_SHAPE | {"local_attention": 32, "pad_token_id": 3}),
    "mpnet": (mpnet, BERT_SHAPE | {"max_position_embeddings": 514}),
    "roberta": (vocabularies.byte_level, ROBERTA_SHAPE),
    "xlm-roberta": (lambda: {"sentencepiece.bpe.model": vocabularies.xlm_roberta()}, ROBERTA_SHAPE),
}


def make_checkpoint(model_type: str, folder: Path) -> Path:
    """In Hugging Face's layout, with a tokenizer.json."""
    from transformers import AutoConfig, AutoModelForQuestionAnswering, AutoTokenizer

    files, shape = KINDS[model_type]
    for name, content in files().items():
        (folder / name).write_bytes(content)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = AutoConfig.for_model(model_type, **shape | {"vocab_size": len(tokenizer)})
    model = AutoModelForQuestionAnswering.from_config(config)
    randomize(model)
    model.save_pretrained(folder)
    return folder

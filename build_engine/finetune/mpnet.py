"""MPNet as a teacher: the same pieces of words as BERT's, under BERT's ids."""

from __future__ import annotations

import json

import torch
from tokenizers import BertWordPieceTokenizer
from tokenizers import Tokenizer as RustTokenizer
from transformers import MPNetForQuestionAnswering

# MPNet's own special tokens, and whose places they take. The rest of its vocabulary is BERT's, in
# BERT's order, with BERT's special tokens as pieces that no text has.
SPECIAL = {"<s>": "[CLS]", "</s>": "[SEP]", "<pad>": "[PAD]", "<unk>": None, "<mask>": "[MASK]"}
# Positions are counted from the one behind the padding's.
FIRST_POSITION = 2


def bert_vocabulary(model: MPNetForQuestionAnswering, tokenizer: str) -> str:
    """Put the rows of the model's embeddings into the order of BERT's vocabulary.

    tokenizer: the content of the model's tokenizer.json. Returns the one that goes with it now; of
    a model that has BERT's vocabulary already, the same.
    """
    vocabulary: dict[str, int] = RustTokenizer.from_str(tokenizer).get_vocab()
    if "<s>" not in vocabulary:
        return tokenizer
    pieces = sorted(vocabulary.keys() - SPECIAL.keys(), key=vocabulary.__getitem__)
    stand_ins = {new: old for old, new in SPECIAL.items() if new}
    rows = torch.tensor([vocabulary[stand_ins.get(piece, piece)] for piece in pieces])
    old = model.mpnet.embeddings.word_embeddings
    model.set_input_embeddings(
        torch.nn.Embedding.from_pretrained(old.weight.detach()[rows], freeze=False)
    )
    model.config.vocab_size = len(pieces)
    ids = {piece: index for index, piece in enumerate(pieces)}
    model.config.pad_token_id = ids["[PAD]"]
    model.config.bos_token_id = model.config.eos_token_id = None
    lowercase = bool(json.loads(tokenizer)["normalizer"].get("lowercase", True))
    return str(BertWordPieceTokenizer(ids, lowercase=lowercase).to_str())

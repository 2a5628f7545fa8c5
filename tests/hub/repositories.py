"""Repositories of the hub in small: the files that these have there, with random weights.

Which files: of the first seven from a dump of the hub's own API (`siblings` of /api/models/ID, with
their commits, of early 2022), of deepset/deberta-v3-base-squad2 from a listing of somebody's cache
of its commit eea39c60 with the files' sizes. What has changed there since could not be looked up,
but that deepset/roberta-base-squad2 and the DistilBERT have a model.safetensors besides now.

What is in the small files could not be looked up. The configs have the fields that Transformers
wrote at that time, with smaller sizes; the settings of the tokenizers are what its version of the
time wrote for such a model, those of DeBERTa to the byte as long as the real ones. Of the mrm8488
models the weights are in the format of PyTorch before 1.6, as their time suggests. What must not be
fetched holds no weights.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..random_weights import randomize
from . import vocabularies
from .server import HubRepository

UNCASED_VOCAB = Path(__file__).parents[2] / "models" / "electra-minilm-squad2" / "vocab.txt"
NOT_FETCHED = b"not for this program"
DISTILBERT = "distilbert/distilbert-base-cased-distilled-squad"

BERT = {
    "architectures": ["BertForQuestionAnswering"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": 30522,
}
ELECTRA = {name: value for name, value in BERT.items() if name != "pad_token_id"} | {
    "architectures": ["ElectraForQuestionAnswering"],
    "embedding_size": 16,
    "model_type": "electra",
}
ROBERTA = BERT | {
    "architectures": ["RobertaForQuestionAnswering"],
    "bos_token_id": 0,
    "eos_token_id": 2,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 514,
    "model_type": "roberta",
    "pad_token_id": 1,
    "type_vocab_size": 1,
}
BERT_TOKENS = {
    name: f"[{name.upper().removesuffix('_TOKEN')}]"
    for name in ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
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
DEBERTA_TOKENS = {"bos_token": "[CLS]", "eos_token": "[SEP]"} | BERT_TOKENS


@dataclass(frozen=True)
class Model:
    """config: but for vocab_size, which is that of the vocabulary. files: JSON by name. others:
    those that nobody should fetch."""

    hub_id: str
    config: dict[str, Any]
    vocabulary: Callable[[], dict[str, bytes]]
    files: dict[str, Any]
    weights: tuple[str, ...]
    others: tuple[str, ...]
    former_ids: tuple[str, ...] = ()
    legacy_pickle: bool = False
    tokenizer_json: bool = False


def _uncased() -> dict[str, bytes]:
    return {"vocab.txt": UNCASED_VOCAB.read_bytes()}


def _dicts(tokens: dict[str, str]) -> dict[str, Any]:
    """As Transformers 3 and 4 wrote them for RoBERTa."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    return {name: {"content": token} | flags for name, token in tokens.items()} | {
        "mask_token": {"content": tokens["mask_token"]} | flags | {"lstrip": True}
    }


MRM8488_OTHERS = (
    "nbest_predictions_.json",
    "null_odds_.json",
    "predictions_.json",
    "training_args.bin",
)
UNCASED_SETTINGS = {"do_lower_case": True, "model_max_length": 512}
MODELS = [
    Model(
        "mrm8488/electra-small-finetuned-squadv2",  # 04a43d04
        ELECTRA,
        _uncased,
        {"special_tokens_map.json": BERT_TOKENS, "tokenizer_config.json": UNCASED_SETTINGS},
        ("pytorch_model.bin",),
        ("README.md", *MRM8488_OTHERS),
        legacy_pickle=True,
    ),
    Model(
        "mrm8488/electra-base-finetuned-squadv2",  # 2b49f30b
        ELECTRA | {"embedding_size": 32},
        _uncased,
        {"special_tokens_map.json": BERT_TOKENS, "tokenizer_config.json": UNCASED_SETTINGS},
        ("pytorch_model.bin",),
        MRM8488_OTHERS,
        legacy_pickle=True,
    ),
    Model(
        "deepset/roberta-base-squad2",  # a44be103
        ROBERTA | {"language": "english", "name": "Roberta"},
        vocabularies.byte_level,
        {
            "special_tokens_map.json": _dicts(ROBERTA_TOKENS),
            "tokenizer_config.json": {
                "do_lower_case": False,
                "model_max_length": 512,
                "full_tokenizer_file": None,
            },
        },
        ("pytorch_model.bin",),
        ("README.md", "flax_model.msgpack", "rust_model.ot"),
    ),
    Model(
        DISTILBERT,  # 626af316
        {
            "activation": "gelu",
            "architectures": ["DistilBertForQuestionAnswering"],
            "attention_dropout": 0.1,
            "dim": 32,
            "dropout": 0.1,
            "hidden_dim": 48,
            "initializer_range": 0.02,
            "max_position_embeddings": 512,
            "model_type": "distilbert",
            "n_heads": 4,
            "n_layers": 2,
            "output_past": True,
            "pad_token_id": 0,
            "qa_dropout": 0.1,
            "seq_classif_dropout": 0.2,
            "sinusoidal_pos_embds": True,
            "tie_weights_": True,
            "vocab_size": 28996,
        },
        lambda: {"vocab.txt": vocabularies.cased_wordpiece()},
        {"tokenizer_config.json": {"do_lower_case": False, "model_max_length": 512}},
        ("pytorch_model.bin",),
        ("README.md", "rust_model.ot", "saved_model.tar.gz", "tf_model.h5", "tfjs.tar.gz"),
        former_ids=("distilbert-base-cased-distilled-squad",),
        tokenizer_json=True,
    ),
    Model(
        "deepset/minilm-uncased-squad2",  # c28e1a1d
        BERT,
        _uncased,
        {"special_tokens_map.json": BERT_TOKENS, "tokenizer_config.json": UNCASED_SETTINGS},
        ("pytorch_model.bin",),
        ("README.md", "flax_model.msgpack", "training_args.bin"),
    ),
    Model(
        "google-bert/bert-large-uncased-whole-word-masking-finetuned-squad",  # 242d9dbb
        BERT,
        _uncased,
        {"tokenizer_config.json": UNCASED_SETTINGS},
        ("pytorch_model.bin",),
        ("README.md", "flax_model.msgpack", "saved_model.tar.gz", "tf_model.h5"),
        former_ids=("bert-large-uncased-whole-word-masking-finetuned-squad",),
        tokenizer_json=True,
    ),
    Model(
        "deepset/xlm-roberta-base-squad2",  # 9ecd20ab
        ROBERTA
        | {"architectures": ["XLMRobertaForQuestionAnswering"], "model_type": "xlm-roberta"},
        lambda: {"sentencepiece.bpe.model": vocabularies.xlm_roberta()},
        {
            "special_tokens_map.json": ROBERTA_TOKENS,
            "tokenizer_config.json": {"do_lower_case": False, "model_max_length": 512},
        },
        ("pytorch_model.bin",),
        ("README.md",),
    ),
    Model(
        "deepset/deberta-v3-base-squad2",  # eea39c60
        BERT
        | {
            "architectures": ["DebertaV2ForQuestionAnswering"],
            "layer_norm_eps": 1e-07,
            "legacy": True,
            "max_relative_positions": -1,
            "model_type": "deberta-v2",
            "norm_rel_ebd": "layer_norm",
            "pooler_dropout": 0,
            "pooler_hidden_act": "gelu",
            "pooler_hidden_size": 32,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "position_buckets": 256,
            "relative_attention": True,
            "share_att_key": True,
            "type_vocab_size": 0,
        },
        lambda: {"spm.model": vocabularies.deberta_v3()},
        {
            "added_tokens.json": {"[MASK]": vocabularies.SIZE},
            "special_tokens_map.json": DEBERTA_TOKENS,
            "tokenizer_config.json": {
                "do_lower_case": False,
                **DEBERTA_TOKENS,
                "split_by_punct": False,
                "sp_model_kwargs": {},
                "vocab_type": "spm",
                "model_max_length": 512,
                "special_tokens_map_file": None,
                "tokenizer_class": "DebertaV2Tokenizer",
            },
        },
        ("model.safetensors",),
        ("README.md",),
        tokenizer_json=True,
    ),
]


def make_repository(model: Model, folder: Path) -> HubRepository:
    """folder: an empty one, for what Transformers makes of the files."""
    import torch
    from transformers import AutoConfig, AutoModelForQuestionAnswering, AutoTokenizer

    files = model.vocabulary()
    files |= {
        name: (json.dumps(content, indent=2) + "\n").encode()
        for name, content in model.files.items()
    }
    (folder / "config.json").write_text(json.dumps(model.config), encoding="utf-8")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if model.tokenizer_json:
        files["tokenizer.json"] = tokenizer.backend_tokenizer.to_str().encode()
    config = model.config | {"vocab_size": len(tokenizer)}
    files["config.json"] = (json.dumps(config, indent=2) + "\n").encode()
    (folder / "config.json").write_bytes(files["config.json"])
    torch.manual_seed(0)
    network = AutoModelForQuestionAnswering.from_config(AutoConfig.from_pretrained(folder))
    randomize(network)
    for name in model.weights:
        files[name] = _weights(name, network.state_dict(), model.legacy_pickle)
    files |= dict.fromkeys((".gitattributes", *model.others), NOT_FETCHED)
    return HubRepository.of(model.hub_id, files, former_ids=model.former_ids)


def _weights(name: str, tensors: dict[str, Any], legacy_pickle: bool) -> bytes:
    if name.endswith(".safetensors"):
        from safetensors.torch import save

        return bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
    import torch

    file = io.BytesIO()
    torch.save(dict(tensors), file, _use_new_zipfile_serialization=not legacy_pickle)
    return file.getvalue()

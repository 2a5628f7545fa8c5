"""A checkpoint of ELECTRA-small's shape with random weights: for speed, its answers mean nothing.

    python benchmarks/peers/contestants/random_small.py \
        --tokenizer models/electra-minilm-squad2 --output electra-small-random
    electra-qa build --checkpoint electra-small-random --output electra-small-random-bundle \
        --precision int8 --calibration FILE

The shape is that of google/electra-small-discriminator, which the published question-answering
checkpoints have. Needs torch and transformers.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from transformers import ElectraConfig, ElectraForQuestionAnswering

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, required=True, help="a checkpoint that has one")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    config = ElectraConfig(
        vocab_size=30522,
        embedding_size=128,
        hidden_size=256,
        num_hidden_layers=12,
        num_attention_heads=4,
        intermediate_size=1024,
        # The driver reads it: no F1 is told of such a checkpoint.
        random_weights=True,
    )
    ElectraForQuestionAnswering(config).save_pretrained(arguments.output)
    for name in TOKENIZER_FILES:
        if (arguments.tokenizer / name).exists():
            shutil.copy(arguments.tokenizer / name, arguments.output)


if __name__ == "__main__":
    main()

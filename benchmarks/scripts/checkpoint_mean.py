r"""A checkpoint whose weights are the mean of several ones of the same shape.

    python benchmarks/scripts/checkpoint_mean.py --held-out held_out.json --output mean/ one/ two/

Runs that began at the same weights and went different ways are often better together than any of
them ("model soups", Wortsman et al., 2022). Its null_score_diff_threshold comes from the questions
of --held-out, which none of the runs should have seen, by the rule of `finetune`. training.json has
those of the runs, and the scores.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch

from electra_qa.build_engine.finetune.evaluation import evaluate
from electra_qa.build_engine.finetune.model import load_model, save_checkpoint
from electra_qa.build_engine.finetune.settings import FinetuneSettings
from electra_qa.squad import read_squad

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("checkpoints", type=FOLDER, nargs=-1, required=True)
@click.option("--held-out", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), required=True)
def main(checkpoints: tuple[Path, ...], held_out: Path, output: Path) -> None:
    """Write the mean, in float16, and print its scores."""
    model, *others = [load_model(str(checkpoint)) for checkpoint in checkpoints]
    weights = model.network.state_dict()
    for name, tensor in weights.items():
        if tensor.is_floating_point():
            same = [other.network.state_dict()[name] for other in others]
            tensor.copy_(torch.stack([tensor, *same]).mean(0))
    questions = read_squad(held_out)
    settings = FinetuneSettings()
    scores = evaluate(model, model.make_tokenizer(), questions, questions, settings)
    output.mkdir(parents=True, exist_ok=True)
    save_checkpoint(model, output, null_score_diff_threshold=scores.threshold, half=True)
    runs = {
        checkpoint.name: json.loads((checkpoint / "training.json").read_text(encoding="utf-8"))
        for checkpoint in checkpoints
        if (checkpoint / "training.json").exists()
    }
    told = {
        "held_out_questions": len(questions),
        "held_out": dict(scores.metrics)
        | {
            "null_score_diff_threshold": scores.threshold,
            "f1_at_threshold": scores.f1,
            "f1_at_0": scores.f1_at_0,
        },
    }
    content = {"mean_of": runs} | told
    (output / "training.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()

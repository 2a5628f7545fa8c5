"""What a user may set. Names and defaults are those of `run_squad.py` and the published model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from electra_qa.settings import setting
from electra_qa.tokenization import SpecialTokens
from electra_qa.windows import WindowSettings

Autocast = Literal["no", "bf16", "fp16"]

KINDS = ("word", "negation", "name", "number", "paragraph")


@dataclass(frozen=True, slots=True)
class FinetuneSettings:
    """How to train. Every field is an option of `electra-qa finetune`."""

    max_seq_length: int = setting(384, "The longest window, in tokens.", minimum=8)
    doc_stride: int = setting(128, "How far a window moves on, in tokens.", minimum=1)
    max_query_length: int = setting(64, "Tokens of a question; the rest is cut off.", minimum=1)
    max_answer_length: int = setting(30, "Of a predicted answer, in tokens.", minimum=1)
    do_lower_case: bool = setting(
        True, "For a model of BERT's kind of vocabulary whose files don't say it."
    )
    version_2_with_negative: bool = setting(
        True, "Train on questions without an answer too; otherwise they are left out."
    )
    per_gpu_train_batch_size: int = setting(16, "Windows in a batch.", minimum=1)
    gradient_accumulation_steps: int = setting(1, "Batches of one optimizer step.", minimum=1)
    learning_rate: float = setting(3e-5, "At its highest.", minimum=0)
    num_train_epochs: float = setting(10.0, "Passes over the windows.", minimum=0)
    max_steps: int | None = setting(
        None, "Optimizer steps, in place of --num_train_epochs.", minimum=1
    )
    warmup_proportion: float = setting(
        0.1, "Share of the steps in which the learning rate rises; then it falls to 0.", minimum=0
    )
    weight_decay: float = setting(0.0, "Of all weights but biases and layer norms.", minimum=0)
    adam_epsilon: float = setting(1e-8, "Of AdamW.", minimum=0)
    max_grad_norm: float = setting(1.0, "Gradients are scaled down to this norm.", minimum=0)
    layerwise_lr_decay: float = setting(
        1.0, "Each layer learns at this share of the rate of the one above it.", minimum=0
    )
    hidden_dropout_prob: float | None = setting(
        None, "Instead of the model's own. 0 saves a sixth of the time on a CPU.", minimum=0
    )
    attention_probs_dropout_prob: float | None = setting(
        None, "Instead of the model's own. 0 saves a fifth of the time on a CPU.", minimum=0
    )
    seed: int = setting(42, "Two runs with the same seed are equal.", minimum=0)
    autocast: Autocast = setting("no", "Precision of the matrix products.")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: a GPU where there is one.")
    held_out: float = setting(
        0.05,
        "Share of each file's articles that is not trained on: it is evaluated on, and what is of "
        "files with both kinds of questions gives null_score_diff_threshold. A file with a single "
        "article is trained on whole.",
        minimum=0,
    )
    make_negatives: bool = setting(
        False, "Make unanswerable questions from the answerable ones, where a file has none."
    )
    negatives_per_question: float = setting(
        0.67, "Made unanswerable questions for each answerable one, at most 1.", minimum=0
    )
    negative_kinds: str = setting(
        ",".join(KINDS), "Of the made questions; leave a kind out to switch it off."
    )
    typing_slips: float = setting(
        0.0,
        "Share of the training questions that get a typo, that lose their mark, and that lose "
        "their capitals, each by itself.",
        minimum=0,
    )
    distillation_weight: float = setting(
        0.5, "Share of the teacher in the loss, with --teacher.", minimum=0
    )
    distillation_temperature: float = setting(
        2.0, "Both models' logits are divided by this in the teacher's part.", minimum=0.01
    )
    keep_intermediate: float = setting(
        1.0,
        "Share of the feed-forward neurons that are kept, over 0; those that matter least are "
        "taken out before the training. The teacher is the whole model, but for --teacher.",
        minimum=0,
    )
    keep_heads: float = setting(
        1.0, "Share of the attention heads that are kept, likewise.", minimum=0
    )
    logging_steps: int = setting(50, "Steps between two lines of progress.", minimum=1)
    save_steps: int = setting(500, "Steps between two checkpoints to resume from.", minimum=1)
    eval_steps: int | None = setting(
        None,
        "Steps between two evaluations on the held-out part.  [default: once an epoch]",
        minimum=1,
    )
    half_weights: bool = setting(False, "Write the weights in float16: half the size.")

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of made questions. Raises ValueError for one that there isn't."""
        kinds = tuple(kind.strip() for kind in self.negative_kinds.split(",") if kind.strip())
        for kind in kinds:
            if kind not in KINDS:
                raise ValueError(f"negative_kinds has {kind!r}; there are {', '.join(KINDS)}")
        return kinds

    @property
    def prunes(self) -> bool:
        """Whether anything is taken out. Raises ValueError for a share that is none."""
        for name in ("keep_intermediate", "keep_heads"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be over 0 and at most 1, got {getattr(self, name)}")
        return min(self.keep_intermediate, self.keep_heads) < 1

    def windows(self, special_tokens: SpecialTokens) -> WindowSettings:
        """Raises ValueError where no context would fit beside the longest question."""
        return WindowSettings(
            self.max_seq_length,
            self.doc_stride,
            self.max_query_length,
            special_tokens.separators + 2,
        )


@dataclass(frozen=True, slots=True)
class FinetuneData:
    """The files and folders of a run.

    model: a folder or a hub id.
    train_files: SQuAD 1.1 or 2.0 files.
    predict_file: evaluated on in place of a held-out part.
    question_edits: pairs of an answerable and an unanswerable question, a line each, apart by a
        tab: what `make_negatives` learns its edits and their rates from.
    teacher: a question-answering checkpoint to distil from, whose vocabulary has the model's.
    """

    model: str
    train_files: tuple[Path, ...]
    predict_file: Path | None = None
    question_edits: Path | None = None
    teacher: str | None = None

"""What Transformers' pipeline took, in our words.

What means something here means it; what means nothing is taken, with one warning that says so; a
name that it never had is a TypeError with the nearest that there is.
"""

from __future__ import annotations

import dataclasses
import difflib
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from electra_qa.models import Precision

from .cutting import longest_question
from .messages import Options

# Arguments that choose nothing here: the windows of a batch are padded as they come, the tokenizer
# is always a fast one, nothing of a repository is ever run.
IGNORED = frozenset(
    {
        "binary_output",
        "code_revision",
        "config",
        "device_map",
        "feature_extractor",
        "framework",
        "image_processor",
        "model_kwargs",
        "num_workers",
        "padding",
        "processor",
        "trust_remote_code",
        "use_fast",
    }
)
DTYPES: Mapping[str, Precision] = {
    "float32": "fp32",
    "float": "fp32",
    "float16": "fp16",
    "half": "fp16",
    "bfloat16": "fp16",
}
# What a server takes in one message, unless it was told otherwise.
MAX_BATCH_SIZE = 1024


@dataclass(frozen=True, slots=True)
class CallOptions:
    """Of a call, by the names of Transformers; see `QuestionAnsweringPipeline.__call__`."""

    top_k: int = 1
    doc_stride: int | None = None
    max_answer_len: int = 15
    max_seq_len: int | None = None
    max_question_len: int | None = None
    handle_impossible_answer: bool = False
    align_to_words: bool = True
    batch_size: int = 64

    def __post_init__(self) -> None:
        for name in ("top_k", "max_answer_len", "batch_size"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} parameter should be >= 1 (got {value})")

    def updated(self, function: str, given: Mapping[str, Any]) -> CallOptions:
        """With what a caller of `function` gave; None is as good as not given.

        Warns of what means nothing. Raises TypeError for a name that is none.
        """
        values = {name: value for name, value in given.items() if value is not None}
        if "topk" in values:
            # Two frames up is the pipeline's own, three the caller's.
            warnings.warn("topk is deprecated, use top_k instead", FutureWarning, stacklevel=3)
            values.setdefault("top_k", values.pop("topk"))
            values.pop("topk", None)
        names = [field.name for field in dataclasses.fields(self)]
        check_names(function, given, [*names, "topk", *IGNORED])
        if ignored := sorted(values.keys() & IGNORED):
            warnings.warn(
                f"{', '.join(ignored)}: taken as Transformers did, but it changes nothing here",
                UserWarning,
                stacklevel=3,
            )
        return dataclasses.replace(self, **{n: v for n, v in values.items() if n in names})

    def of_the_client(self, max_seq_length: int, max_seq_length_limit: int) -> Options:
        """The same in the words of `Client`, for a model with these lengths of windows."""
        longest = self.max_seq_len or max_seq_length
        room = max(1, longest_question(min(longest, max_seq_length_limit)))
        question = room if self.max_question_len is None else min(self.max_question_len, room)
        overlap = min(longest // 2, 128) if self.doc_stride is None else self.doc_stride
        options: Options = {
            "rules": "pipeline",
            "top_k": self.top_k,
            "max_answer_length": self.max_answer_len,
            "max_query_length": question,
            "align_to_words": self.align_to_words,
            "window_overlap": overlap,
        }
        if self.max_seq_len is not None:
            options["max_seq_length"] = self.max_seq_len
        return options


# How a server's messages name what a caller knows by another name.
NAMES = {
    "options.window_overlap": "doc_stride",
    "options.max_answer_length": "max_answer_len",
    "options.max_query_length": "max_question_len",
    "options.max_seq_length": "max_seq_len",
    "options.top_k": "top_k",
}


def check_names(function: str, given: Collection[str], names: Collection[str]) -> None:
    """Raises TypeError for what is given by another name, with the nearest of them."""
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise TypeError(f"{function} got an unexpected keyword argument {name!r}{hint}")


def server_device(device: Any) -> Literal["cpu", "gpu"]:
    """Of "cpu", "cuda", "cuda:0", -1, 0 and a torch.device. Raises ValueError."""
    text = str(device)
    kind, _, index = text.partition(":")
    if isinstance(device, int):
        kind, index = ("cpu", "") if device < 0 else ("cuda", text)
    if device is None or kind == "cpu":
        return "cpu"
    if kind not in ("cuda", "gpu"):
        raise ValueError(f"device must be 'cpu' or 'cuda', got {text!r}")
    if index not in ("", "0"):
        raise ValueError(
            f"device {text}: a private server takes the first GPU that it sees; set "
            f"CUDA_VISIBLE_DEVICES={index} and device=0"
        )
    return "gpu"


def bundle_precision(
    precision: Precision | None, dtype: Any, torch_dtype: Any, model_kwargs: Mapping[str, Any]
) -> Precision | None:
    """What was asked for in any of these; None where it is left to us. Raises ValueError."""
    asked = {None if precision is None else precision}
    for given in (dtype, torch_dtype, model_kwargs.get("dtype"), model_kwargs.get("torch_dtype")):
        name = str(given).removeprefix("torch.")
        if given is None or name == "auto":
            continue
        if name not in DTYPES:
            raise ValueError(
                f"dtype must be float32, float16, bfloat16 or 'auto', got {name}; "
                "precision='int8' is for integers"
            )
        asked.add(DTYPES[name])
    asked.discard(None)
    if len(asked) > 1:
        raise ValueError(f"precision and dtype ask for {' and '.join(sorted(map(str, asked)))}")
    return asked.pop() if asked else None


@contextmanager
def as_files(model: Any, tokenizer: Any) -> Iterator[tuple[Any, Any]]:
    """Both as a name or a folder: an object of Transformers is saved into one, for the while.

    Raises TypeError for anything else, and for a model without a tokenizer.
    """
    if hasattr(model, "save_pretrained") and tokenizer is None:
        raise TypeError("tokenizer must be given where model is no name: it can't be guessed")
    with tempfile.TemporaryDirectory(prefix="electra-qa-") as folder:
        yield (
            _saved("model", model, Path(folder) / "model"),
            _saved("tokenizer", tokenizer, Path(folder) / "tokenizer"),
        )


def _saved(argument: str, given: Any, folder: Path) -> str | Path | None:
    if given is None or isinstance(given, str | Path):
        return given
    if not hasattr(given, "save_pretrained"):
        raise TypeError(
            f"{argument} must be a folder, a hub id or an object of Transformers, "
            f"got {type(given).__name__}"
        )
    called = Path(getattr(given, "name_or_path", None) or type(given).__name__).name
    given.save_pretrained(folder / called)
    return folder / called

"""What a request asks for: checked against the bundle, with the bundle's defaults filled in."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from electra_qa.bundle import Manifest
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.spans import N_BEST_SIZE, DecodeOptions, Rules
from electra_qa.windows import WindowSettings, doc_stride_from_overlap

from ..errors import InvalidRequestError
from ..settings import ServerSettings


@dataclass(frozen=True, slots=True)
class QuestionOptions:
    """window_overlap, where it is set, takes the place of `windows.doc_stride`."""

    windows: WindowSettings
    window_overlap: int | None
    decode: DecodeOptions

    def window_settings(self, question_tokens: int) -> WindowSettings:
        """Raises InvalidRequestError where the overlap leaves no step beside this question."""
        if self.window_overlap is None:
            return self.windows
        try:
            doc_stride = doc_stride_from_overlap(
                self.window_overlap, self.windows.capacity(question_tokens)
            )
        except ValueError as error:
            raise InvalidRequestError(f"options.{error}") from error
        return dataclasses.replace(self.windows, doc_stride=doc_stride)


def parse_options(
    options: pb.Options, manifest: Manifest, settings: ServerSettings
) -> QuestionOptions:
    """Raises InvalidRequestError, naming the field and the limit."""
    rules = _rules(options.rules)
    max_overlap = options.max_overlap if options.HasField("max_overlap") else None
    if max_overlap is not None and not 0 <= max_overlap <= 1:  # NaN too
        raise InvalidRequestError(f"options.max_overlap must be 0 to 1, got {max_overlap:g}")
    if options.every_place and rules is Rules.PIPELINE:
        raise InvalidRequestError(
            "options.every_place is not of RULES_PIPELINE, which adds up equal texts"
        )
    if options.HasField("n_best_size") and rules is not Rules.READER:
        raise InvalidRequestError("options.n_best_size is of RULES_READER alone")
    n_best_size = min(N_BEST_SIZE, settings.max_top_k)
    n_best_size = _within(options, "n_best_size", n_best_size, 1, settings.max_top_k)
    max_answer_length = _within(
        options,
        "max_answer_length",
        manifest.max_answer_length,
        1,
        manifest.max_seq_length_limit,
    )
    top_k = _within(options, "top_k", 1, 1, settings.max_top_k)
    threshold = manifest.null_score_diff_threshold
    if options.HasField("null_score_diff_threshold"):
        threshold = options.null_score_diff_threshold
        if math.isnan(threshold):
            raise InvalidRequestError("options.null_score_diff_threshold must be a number, got NaN")
    special_tokens = manifest.window_settings.special_tokens
    max_query_length = _within(
        options,
        "max_query_length",
        manifest.max_query_length,
        1,
        manifest.max_seq_length_limit - special_tokens - 1,
    )
    max_seq_length = _within(
        options,
        "max_seq_length",
        manifest.max_seq_length,
        max_query_length + special_tokens + 1,
        manifest.max_seq_length_limit,
    )
    if options.HasField("doc_stride") and options.HasField("window_overlap"):
        raise InvalidRequestError(
            "options.doc_stride and options.window_overlap: set one, not both"
        )
    doc_stride = _within(
        options, "doc_stride", manifest.doc_stride, 1, manifest.max_seq_length_limit
    )
    return QuestionOptions(
        windows=WindowSettings(max_seq_length, doc_stride, max_query_length, special_tokens),
        window_overlap=options.window_overlap if options.HasField("window_overlap") else None,
        decode=DecodeOptions(
            top_k=top_k,
            max_answer_length=max_answer_length,
            null_score_diff_threshold=threshold,
            rules=rules,
            align_to_words=options.align_to_words,
            max_overlap=max_overlap,
            every_place=options.every_place,
            n_best_size=n_best_size,
        ),
    )


def _rules(rules: pb.Rules.ValueType) -> Rules:
    match rules:
        case pb.RULES_UNSPECIFIED | pb.RULES_RUN_SQUAD:
            return Rules.RUN_SQUAD
        case pb.RULES_PIPELINE:
            return Rules.PIPELINE
        case pb.RULES_READER:
            return Rules.READER
    raise InvalidRequestError(f"options.rules has no value {rules}")


def _within(options: pb.Options, field: str, default: int, lowest: int, highest: int) -> int:
    value: int = getattr(options, field) if options.HasField(field) else default  # type: ignore[arg-type]
    if not lowest <= value <= highest:
        raise InvalidRequestError(f"options.{field} must be {lowest} to {highest}, got {value}")
    return value

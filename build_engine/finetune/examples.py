"""What a run trains on and is evaluated on."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from electra_qa.squad import SquadQuestion, read_squad

from .data import hold_out
from .edits import Edits, learn, read_pairs
from .names import Capitals
from .negatives import make_negatives
from .settings import FinetuneData, FinetuneSettings
from .typing_slips import with_slips

# What people do, without a file to learn it from: the rates and the negations that were learnt
# from the pairs of Zhu et al. No words and no names: those are in the file.
DEFAULT_EDITS = Edits(
    rates={"word": 0.61, "negation": 0.125, "name": 0.37, "number": 0.46},
    words={},
    names={},
    negations={"n't": 5, "not": 3, "never": 1},
    year_steps={"10": 3, "-1": 3, "1": 2, "-10": 2, "-2": 1, "2": 1},
)


@dataclass(frozen=True, slots=True)
class Examples:
    """Questions, and how many of the made ones are of which kind.

    threshold_questions: those of `held_out` that tell where the threshold should be.
    """

    train: Sequence[SquadQuestion]
    held_out: Sequence[SquadQuestion]
    threshold_questions: Sequence[SquadQuestion]
    made: Mapping[str, int]


def read_examples(data: FinetuneData, settings: FinetuneSettings) -> Examples:
    """Read the files, hold articles out, and make negatives where they are asked for.

    Held-out questions stay as they are in the files, unless no file has an unanswerable one; then
    made ones join them, since nothing else would tell where the threshold should be. It is chosen
    on the files that have both kinds: where the kinds come from different files, a model can part
    them by what the files look like. A file that is given twice is trained on twice, and held out
    once. Raises SquadError.
    """
    train: list[SquadQuestion] = []
    held: list[SquadQuestion] = []
    of_both_kinds: list[SquadQuestion] = []
    to_change: list[SquadQuestion] = []
    held_to_change: list[SquadQuestion] = []
    share = 0.0 if data.predict_file else settings.held_out
    for index, path in enumerate(data.train_files):
        questions = _unlike_other_files(read_squad(path), path)
        if not settings.version_2_with_negative:
            questions = [question for question in questions if question.answers]
        here, there = hold_out(questions, share, settings.seed)
        if path in data.train_files[:index]:
            there = []
        train += here
        held += there
        if all(question.answers for question in questions):
            to_change += here
            held_to_change += there
        elif any(question.answers for question in questions):
            of_both_kinds += there
    if data.predict_file:
        held = read_squad(data.predict_file)
    made: list[tuple[str, SquadQuestion]] = []
    if settings.make_negatives:
        capitals = Capitals(dict.fromkeys(question.context for question in train))
        edits = DEFAULT_EDITS
        if data.question_edits:
            edits = learn(read_pairs(data.question_edits), capitals.is_name)
        made = _make(to_change, edits, capitals, settings)
        if all(question.answers for question in held):
            held += [question for _, question in _make(held_to_change, edits, capitals, settings)]
    if len({bool(question.answers) for question in of_both_kinds}) < 2:
        of_both_kinds = held
    train += [question for _, question in made]
    if settings.typing_slips:
        train = list(with_slips(train, settings.typing_slips, settings.seed))
    return Examples(
        train,
        held,
        of_both_kinds,
        collections.Counter(kind for kind, _ in made),
    )


def _make(
    questions: Sequence[SquadQuestion],
    edits: Edits,
    capitals: Capitals,
    settings: FinetuneSettings,
) -> list[tuple[str, SquadQuestion]]:
    return list(
        make_negatives(
            questions,
            edits,
            capitals,
            kinds=settings.kinds,
            per_question=settings.negatives_per_question,
            seed=settings.seed,
        )
    )


def _unlike_other_files(questions: Sequence[SquadQuestion], path: Path) -> list[SquadQuestion]:
    """With the file's name before the article's, since two files may have one of the same title."""
    return [
        SquadQuestion(
            question.id,
            question.question,
            question.context,
            question.answers,
            question.answer_starts,
            f"{path.name}/{question.article}",
        )
        for question in questions
    ]

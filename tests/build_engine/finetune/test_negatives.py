from __future__ import annotations

import collections
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_qa.build_engine.finetune.edits import Edits, learn, read_pairs
from electra_qa.build_engine.finetune.names import Capitals
from electra_qa.build_engine.finetune.negatives import (
    Paragraphs,
    change_name,
    change_number,
    change_word,
    make_negatives,
    negate,
)
from electra_qa.build_engine.finetune.settings import KINDS
from electra_qa.squad import SquadError, SquadQuestion

PAIRS = [
    ("what was the first lighthouse ?", "what was the last lighthouse ?"),
    ("which ship was the first ?", "which ship was the last ?"),
    ("who came first ?", "who came second ?"),
    ("what did kereon give ?", "what did n't kereon give ?"),
    ("what is the tower ?", "what is never the tower ?"),
    ("when did work begin in 1907 ?", "when did work begin in 1917 ?"),
    ("what did brittany build ?", "what did normandy build ?"),
    ("a b c", "x b y"),
    ("what is it ?", "which is it ?"),
    ("the same", "the same"),
]
CONTEXT = (
    "The Kereon lighthouse stands between Ushant in the west and Molene, off Brittany. Work "
    "began in 1907 and was finished in 1916 by Le Dall. It cost 585,000 francs."
)
OTHER = "Ushant has a lighthouse of its own, built in 1863. The first keeper was a naval officer."


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def capitals() -> Capitals:
    return Capitals(
        [
            CONTEXT,
            OTHER,
            "They saw it in Normandy: what a work, the first and the last to have a second begin.",
        ]
    )


@pytest.fixture(scope="module")
def edits(capitals: Capitals) -> Edits:
    return learn(PAIRS, capitals.is_name)


def test_what_is_learnt(edits: Edits) -> None:
    # "First" is an ordinal, so that first → last is a word and first → second is a number.
    assert edits.words == {"first": {"last": 2}}
    assert edits.names == {"brittany": {"normandy": 1}}


def test_a_word_that_no_text_has_is_a_name_unless_it_stands_for_one_that_is_none() -> None:
    pairs = [("who made dell ?", "who made ibm ?"), ("who examined it ?", "who avoided it ?")]
    pairs += [("what is the sky ?", "what is the brittany ?")]
    known = {"avoided": False, "sky": False, "brittany": True}
    learnt = learn(pairs, known.get)
    assert learnt.names == {"dell": {"ibm": 1}, "sky": {"brittany": 1}}
    assert learnt.words == {"examined": {"avoided": 1}}


def test_a_text_says_what_is_a_name(capitals: Capitals) -> None:
    assert capitals.is_name("ushant") is True
    assert capitals.is_name("lighthouse") is False
    assert capitals.is_name("xyzzy") is None
    assert capitals.is_name("'s") is None


def test_i_is_no_name_and_the_end_of_a_possessive_is_no_part_of_one(capitals: Capitals) -> None:
    text = "What did I, or I'm not sure, see of Ushant's coast in World War I?"
    assert [text[slice(*span)] for span in capitals.names(text)] == ["Ushant", "World War I"]


def test_edits_in_two_places_and_changes_of_grammar_teach_no_words() -> None:
    learnt = learn([("a b c", "x b y"), ("what is it ?", "which is it ?")], lambda _: False)
    assert learnt.rates == {"word": 1.0}
    assert not learnt.words
    assert not learnt.names


def test_rates_are_of_the_questions_that_have_what_is_edited(edits: Edits) -> None:
    # Ten pairs; four have a number and two a name. Of the eight that differ in one place two are
    # negations (2/10); the two others are shared out over the other six edits (4/3 each).
    assert edits.rates == pytest.approx(
        {"negation": 2 / 10, "word": 3 * 4 / 3 / 10, "number": 2 * 4 / 3 / 4, "name": 4 / 3 / 2}
    )


def test_years_move_as_people_moved_them(edits: Edits) -> None:
    assert edits.year_steps == {"10": 1}
    assert edits.negations == {"n't": 1, "never": 1}


def test_a_file_without_pairs_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "edits.tsv"
    path.write_text("a\tb\nno tab\n", encoding="utf-8")
    with pytest.raises(SquadError, match=r"edits.tsv, line 2"):
        read_pairs(path)
    path.write_text("a ?\tb ?\n", encoding="utf-8")
    assert read_pairs(path) == [("a ?", "b ?")]


def test_pairs_of_a_table_are_split_into_tokens(tmp_path: Path) -> None:
    path = tmp_path / "unanswerable.tsv"
    path.write_text(
        "id\tquestion\ttwin_question\n"
        "1\tWhat didn't \"Kereon's\" cost 1,200?\twhat did kereon 's cost ?\n"
        "2\tWho is it?\t\n",
        encoding="utf-8",
    )
    assert read_pairs(path) == [
        ("what did kereon 's cost ?", "what did n't \" kereon 's \" cost 1 , 200 ?")
    ]


NOTHING = Capitals([])


def test_a_word_becomes_what_people_put_in_its_place() -> None:
    words = {"first": {"last": 3, "second": 1}, "tower": {"old tower": 1}}

    def change(text: str, seed: int) -> str | None:
        return change_word(text, "?", (), NOTHING, words, rng(seed))

    made = collections.Counter(change("Who was the First keeper?", seed) for seed in range(400))
    # Where the paragraph has to give the word and has none, another kind has its turn.
    assert set(made) == {"Who was the Last keeper?", "Who was the Second keeper?", None}
    assert 0.1 < made[None] / 400 < 0.3
    assert 0.6 < made["Who was the Last keeper?"] / (400 - made[None]) < 0.9
    assert change("Who is it?", 0) is None
    assert change("A tower?", 0) == "A old tower?"


def test_a_word_becomes_one_of_the_paragraph_that_ends_alike() -> None:
    context = "They painted doors, and had planted and Painted seeds never before; weeds weren't."
    texts = [f"{context} {number} needed" for number in range(11)]

    def made(text: str, *answers: str, capitals: Capitals = NOTHING) -> set[str | None]:
        return {change_word(text, context, answers, capitals, {}, rng(i)) for i in range(60)}

    assert made("What needed weeds?") == {
        "What painted weeds?", "What planted weeds?", "What needed seeds?",
    }  # fmt: skip
    assert made("What needed it?", "planted") == {"What painted it?"}
    assert made("What Needed it?") == {None}
    # A word of eleven texts is in all of them: nothing is left to be changed.
    assert made("What needed weeds?", capitals=Capitals(texts)) == {None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What did he give?", "What didn't he give?"),
        ("Can it float?", "Can't it float?"),
        ("Which will win?", "Which won't win?"),
        ("What costs most?", None),
    ],
)
def test_a_verb_is_negated(text: str, expected: str | None) -> None:
    assert negate(text, {"n't": 1}, rng()) == expected
    assert negate("What was built?", {"no longer": 1}, rng()) == "What was no longer built?"


COAST = "What is the coast of Brittany near?"


def coasts(capitals: Capitals, swaps: dict[str, dict[str, int]], elsewhere: list[str]) -> set[str]:
    """What 80 seeds make of Brittany."""
    made = set()
    for seed in range(80):
        text = change_name(COAST, CONTEXT, ("Le Dall",), capitals, swaps, elsewhere, rng(seed))
        assert text is not None
        made.add(text.removeprefix("What is the coast of ").removesuffix(" near?"))
    return made


def test_a_name_becomes_another_of_the_paragraph_or_of_the_article_or_what_people_put(
    capitals: Capitals,
) -> None:
    here = {"Kereon", "Ushant", "Molene"}
    assert coasts(capitals, {}, []) == here
    assert coasts(capitals, {}, ["Le Dall", "Ouessant", "Ushant"]) == here | {"Ouessant"}
    swaps = {"brittany": {"normandy": 1, "le dall": 9}}
    assert coasts(capitals, swaps, ["Ouessant"]) == here | {"Normandy"}
    assert coasts(capitals, {"brittany": {"dall": 1}}, []) == here


def test_where_there_is_no_other_name_none_is_changed(capitals: Capitals) -> None:
    assert change_name("What is it near?", CONTEXT, (), capitals, {}, ["A"], rng()) is None
    alone = "it is in Brittany, and nowhere else."
    assert change_name(COAST, alone, (), capitals, {}, [], rng()) is None
    elsewhere = {change_name(COAST, alone, (), capitals, {}, ["Sein"], rng(i)) for i in range(9)}
    assert elsewhere == {"What is the coast of Sein near?"}


@given(seed=st.integers(0, 10_000), number=st.sampled_from(["1907", "12", "3rd", "first", "two"]))
def test_a_number_becomes_another_one(seed: int, number: str) -> None:
    text = f"What began {number} years ago?"
    made = change_number(text, CONTEXT, ("1907",), {"10": 1, "-1": 2}, rng(seed))
    assert made is not None
    assert made != text
    assert made.startswith("What began ")
    assert made.endswith(" years ago?")


def test_a_year_comes_from_the_paragraph_or_moves() -> None:
    made = {
        change_number("Begun in 1907?", CONTEXT, (), {"10": 1}, rng(seed)) for seed in range(50)
    }
    assert made == {"Begun in 1916?", "Begun in 1917?"}
    assert change_number("Begun when?", CONTEXT, (), {}, rng()) is None


def test_the_answer_is_never_put_into_the_question(capitals: Capitals) -> None:
    for seed in range(50):
        made = change_name(
            "Where is Kereon?", CONTEXT, ("Ushant",), capitals, {}, ["Ushant"], rng(seed)
        )
        assert made is not None
        assert "Ushant" not in made
        number = change_number("Not 1907?", CONTEXT, ("1916",), {"10": 1}, rng(seed))
        assert number == "Not 1917?"


def test_the_most_similar_paragraph_has_no_answer(capitals: Capitals) -> None:
    texts = (CONTEXT, OTHER, "Francs are money. It cost them 12 francs.", "Elsewhere.")
    asked = [SquadQuestion(str(i), "?", text, (), (), "a") for i, text in enumerate(texts)]
    paragraphs = Paragraphs(asked, capitals)
    assert paragraphs.names("a") == sorted(paragraphs.names("a"))
    assert {"Brittany", "Le Dall", "Ushant"} < set(paragraphs.names("a"))

    def ask(question: str, answer: str) -> str | None:
        return paragraphs.most_similar(SquadQuestion("q", question, CONTEXT, (answer,), (0,), "a"))

    assert ask("Which lighthouse has Ushant?", "Kereon") == OTHER
    assert ask("How many francs did it cost?", "585,000") == texts[2]
    assert ask("How many francs did it cost?", "francs") is None
    assert ask("Xyzzy?", "585,000") is None


def question(index: int, context: str = CONTEXT) -> SquadQuestion:
    return SquadQuestion(
        str(index), "What did the first officer of Ushant build in 1907?", context, ("cost",), (0,),
        "a",
    )  # fmt: skip


def test_made_questions_depend_on_the_seed_and_their_own_id_alone(
    edits: Edits, capitals: Capitals
) -> None:
    many = [question(i, (CONTEXT, OTHER)[i % 2]) for i in range(200)]

    def made(questions: list[SquadQuestion], seed: int = 0) -> dict[str, tuple[str, str]]:
        found = make_negatives(questions, edits, capitals, kinds=KINDS, per_question=0.5, seed=seed)
        return {q.id.split("-")[0]: (kind, q.question) for kind, q in found}

    every = made(many)
    assert 70 < len(every) < 130
    assert every == made(many)
    assert every != made(many, seed=1)
    part = made(many[50:150])
    assert part == {id_: value for id_, value in every.items() if id_ in part}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_alone_makes_its_own(kind: str, edits: Edits, capitals: Capitals) -> None:
    many = [question(i, (CONTEXT, OTHER)[i % 2]) for i in range(20)]
    words = dataclasses.replace(edits, words={"officer": {"civilian": 1}})
    found = list(make_negatives(many, words, capitals, kinds=(kind,), per_question=1, seed=0))
    assert found
    for made_kind, q in found:
        assert made_kind == kind
        assert not q.answers
        assert (q.question == question(0).question) == (kind == "paragraph")


def test_of_what_has_no_answer_nothing_is_made(edits: Edits, capitals: Capitals) -> None:
    asked = SquadQuestion("q", "What did Kereon give?", CONTEXT, (), (), "a")
    assert not list(make_negatives([asked], edits, capitals, kinds=KINDS, per_question=1, seed=0))


@pytest.mark.parametrize("name", ["question-edits.tsv", "squad2-train-unanswerable-questions.tsv"])
def test_peoples_edits_are_learnt_from_their_file(name: str, squad_folder: Path) -> None:
    learnt = learn(read_pairs(squad_folder / "train" / name), lambda _: False)
    assert learnt.rates["negation"] == pytest.approx(0.125, abs=0.001)
    assert learnt.rates["number"] > 0.3
    assert learnt.words["most"]["least"] >= 69
    assert max(learnt.negations, key=learnt.negations.__getitem__) == "n't"

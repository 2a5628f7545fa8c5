from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from electra_qa.squad import (
    SquadError,
    SquadQuestion,
    exact_match,
    f1_score,
    normalize_answer,
    read_by_id,
    read_squad,
    squad_metrics,
    write_squad,
)


def question(id_: str, *answers: str) -> SquadQuestion:
    return SquadQuestion(id_, "Who?", "Rollo.", answers)


@pytest.fixture(scope="session")
def dev_set(squad_folder: Path) -> list[SquadQuestion]:
    return read_squad(squad_folder / "dev-v2.0.json")


@pytest.mark.parametrize("suffix", ["", "+na_prob"])
@pytest.mark.parametrize("system", ["bert-large", "nlnet", "bidaf-elmo"])
def test_metrics_are_the_official_ones_in_every_digit_and_in_order(
    system: str, suffix: str, dev_set: list[SquadQuestion], squad_folder: Path
) -> None:
    folder = squad_folder / "predictions"
    official = json.loads((folder / "official_metrics.json").read_text(encoding="utf-8"))
    metrics = squad_metrics(
        dev_set,
        read_by_id(folder / f"{system}.json", str),
        na_probs=read_by_id(folder / "na_prob.json", float) if suffix else None,
    )
    # As text, so that 1 and 1.0 differ, and the order counts.
    assert json.dumps(metrics) == json.dumps(official[system + suffix])


def test_the_dev_set_is_read_in_full(dev_set: list[SquadQuestion]) -> None:
    assert len({q.id for q in dev_set}) == len(dev_set) == 11_873
    assert sum(bool(q.answers) for q in dev_set) == 5_928
    assert dev_set[0].question == "When did the 1973 oil crisis begin?"


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Cat, a dog\tand\nAN owl!", "cat dog and owl"),
        ("theatre, banana", "theatre banana"),
        ("a-b", "ab"),  # the hyphen goes first, so this "a" is no article
        ("the-the", "thethe"),
        ("“The” café’s", "“ ” café’s"),  # only ASCII punctuation goes
        ("a.", ""),
        (" ", ""),
    ],
)
def test_normalizing_drops_case_punctuation_articles_and_spaces(text: str, normalized: str) -> None:
    assert normalize_answer(text) == normalized


@pytest.mark.parametrize(
    ("gold", "predicted", "exact", "f1"),
    [
        ("the Norse king", "Norse king.", 1, 1.0),
        ("Norse king", "king Norse", 0, 1.0),
        ("Norse king", "Norse", 0, 2 / 3),
        ("king king", "king", 0, 2 / 3),
        ("king", "king king king", 0, 0.5),
        ("Rollo", "Charles", 0, 0.0),
        ("", "", 1, 1.0),
        ("", "the", 1, 1.0),
        ("Rollo", "", 0, 0.0),
        ("", "Rollo", 0, 0.0),
    ],
)
def test_scores_of_a_pair(gold: str, predicted: str, exact: int, f1: float) -> None:
    assert exact_match(gold, predicted) == exact
    assert f1_score(gold, predicted) == pytest.approx(f1, abs=1e-12)


def test_the_best_gold_answer_counts() -> None:
    golds = [question("q", "in Denmark", "Denmark")]
    metrics = squad_metrics(golds, {"q": "denmark"})
    assert metrics["exact"] == metrics["f1"] == 100.0


def test_empty_golds_are_left_out_of_an_answerable_question() -> None:
    # "The" is empty once normalized. With another gold it counts for nothing; alone it makes the
    # empty prediction right, and the question is still one that has an answer.
    assert squad_metrics([question("q", "The", "Rollo")], {"q": ""})["exact"] == 0.0
    metrics = squad_metrics([question("q", "The")], {"q": ""})
    assert metrics["HasAns_exact"] == 100.0
    assert "NoAns_exact" not in metrics


def test_only_the_questions_with_a_prediction_count() -> None:
    golds = [question("a", "Rollo"), question("b"), question("c", "Rollo")]
    metrics = squad_metrics(golds, {"a": "Rollo", "b": "Rollo", "of another set": "Rollo"})
    assert metrics == {
        "exact": 50.0,
        "f1": 50.0,
        "total": 2,
        "HasAns_exact": 100.0,
        "HasAns_f1": 100.0,
        "HasAns_total": 1,
        "NoAns_exact": 0.0,
        "NoAns_f1": 0.0,
        "NoAns_total": 1,
    }


def test_a_no_answer_score_over_the_threshold_means_no_answer() -> None:
    golds = [question("a", "Rollo"), question("b")]
    predictions = {"a": "Rollo", "b": "Rollo"}
    na_probs = {"a": 0.5, "b": 0.5}
    at = squad_metrics(golds, predictions, na_probs=na_probs, na_prob_thresh=0.5)
    under = squad_metrics(golds, predictions, na_probs=na_probs, na_prob_thresh=0.4)
    assert (at["HasAns_exact"], at["NoAns_exact"]) == (100.0, 0.0)
    assert (under["HasAns_exact"], under["NoAns_exact"]) == (0.0, 100.0)


def test_the_best_threshold_gives_out_the_surest_answers_only() -> None:
    golds = [question("a", "Rollo"), question("b"), question("c", "Rollo"), question("d")]
    predictions = {"a": "Rollo", "b": "Rollo", "c": "Charles", "d": ""}
    na_probs = {"d": 0.9, "c": 0.3, "b": 0.2, "a": 0.1, "of another set": 0.0}
    metrics = squad_metrics(golds, predictions, na_probs=na_probs)
    assert (metrics["best_exact"], metrics["best_exact_thresh"]) == (75.0, 0.1)
    # Where saying nothing is best, the threshold is 0.
    silent = squad_metrics(golds[1:], predictions, na_probs=na_probs)
    assert silent["best_f1"] == pytest.approx(200 / 3)
    assert silent["best_f1_thresh"] == 0.0


def test_predictions_for_none_of_the_questions_are_refused() -> None:
    with pytest.raises(SquadError, match="name none of the questions"):
        squad_metrics([question("a")], {"b": ""})


def test_a_missing_no_answer_score_is_named() -> None:
    with pytest.raises(SquadError, match="no no-answer score for question 'b'"):
        squad_metrics([question("a"), question("b")], {"a": "", "b": ""}, na_probs={"a": 0.5})


def squad_json(**changes: Any) -> str:
    """A SQuAD file of one question. Changes are those of the question, `...` drops a field."""
    qa = {"id": 7, "question": "Who?", "answers": [{"text": "Rollo", "answer_start": 0}], **changes}
    qas = [{name: value for name, value in qa.items() if value is not ...}]
    return json.dumps({"data": [{"paragraphs": [{"context": "Rollo.", "qas": qas}]}]})


def test_a_squad_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "squad.json"
    path.write_text(squad_json(), encoding="utf-8")
    assert read_squad(path) == [SquadQuestion("7", "Who?", "Rollo.", ("Rollo",), (0,))]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "squad.json"
    questions = [
        SquadQuestion("1", "Who?", "Rollo “é”.", ("Rollo", "“é”"), (0, 6), "A"),
        SquadQuestion("2", "When?", "Rollo “é”.", (), (), "A"),
        SquadQuestion("3", "Who?", "Ganger.", ("Ganger",), (-1,), "B"),
    ]
    write_squad(path, questions)
    assert read_squad(path) == questions


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("[]", "no JSON object"),
        ("{}", "no 'data'"),
        ('{"data": 5}', "not a SQuAD file"),
        ('{"data": [{}]}', "no 'paragraphs'"),
        (squad_json(id=...), "no 'id'"),
        (squad_json(question=...), "no 'question'"),
        (squad_json(answers=...), "no 'answers'"),
        (squad_json(answers=None), "not a SQuAD file"),
        (squad_json(answers=[{}]), "no 'text'"),
        (squad_json(answers=["Rollo"]), "not a SQuAD file"),
        (squad_json(question=None), "question is not a text"),
        (squad_json(answers=[{"text": 5}]), "text is not a text"),
    ],
)
def test_a_file_of_another_shape_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "squad.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SquadError, match=f"^squad.json .*{message}"):
        read_squad(path)


def test_a_file_that_is_not_text_or_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "squad.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(SquadError, match=r"squad.json is not UTF-8"):
        read_squad(tmp_path / "squad.json")
    with pytest.raises(SquadError, match=r"nowhere.json can't be read: No such file"):
        read_squad(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        (str, '{"a": 1}', "the value of 'a' is not a text"),
        (str, '{"a": null}', "the value of 'a' is not a text"),
        (float, '{"a": "1"}', "the value of 'a' is not a number"),
        (float, '{"a": true}', "the value of 'a' is not a number"),
        (float, "[]", "holds no JSON object"),
    ],
)
def test_predictions_of_the_wrong_kind_are_named(
    tmp_path: Path, kind: type[str] | type[float], content: str, message: str
) -> None:
    path = tmp_path / "by_id.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SquadError, match=f"^by_id.json.*{message}"):
        read_by_id(path, kind)


def test_whole_numbers_are_scores(tmp_path: Path) -> None:
    path = tmp_path / "by_id.json"
    path.write_text('{"a": 1, "b": 0.5}', encoding="utf-8")
    assert read_by_id(path, float) == {"a": 1, "b": 0.5}

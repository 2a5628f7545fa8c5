from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from electra_qa.engines import EngineError
from electra_qa.engines.forms import Forms

CALLERS = 4


@pytest.fixture
def forms() -> Forms[str]:
    return Forms("latency", ["first", "second"])


def test_calls_one_after_the_other_have_all_threads(forms: Forms[str]) -> None:
    for _ in range(3):
        with forms.one() as member:
            assert member == "latency"


def test_many_calls_share_the_threads_and_never_beside_the_lone_one(forms: Forms[str]) -> None:
    lock = threading.Lock()
    running: list[str] = []
    seen: set[tuple[str, ...]] = set()

    def calls() -> None:
        for _ in range(50):
            with forms.one() as member:
                with lock:
                    running.append(member)
                    seen.add(tuple(sorted(running)))
                time.sleep(0.001)
                with lock:
                    running.remove(member)

    with ThreadPoolExecutor(CALLERS) as threads:
        for done in [threads.submit(calls) for _ in range(CALLERS)]:
            done.result(timeout=60)
    assert ("first", "second") in seen
    assert seen <= {("latency",), ("first",), ("second",), ("first", "second")}
    with forms.one() as member:  # the last one left everything as it was
        assert member == "latency"


def test_a_failure_gives_back_what_it_had(forms: Forms[str]) -> None:
    with pytest.raises(ZeroDivisionError), forms.one():
        1 / 0  # noqa: B018
    with forms.one() as member:
        assert member == "latency"


def test_who_waits_when_it_closes_is_told(forms: Forms[str]) -> None:
    with ThreadPoolExecutor(CALLERS) as threads, forms.one():

        def call() -> None:
            with forms.one():
                pass

        waiting = [threads.submit(call) for _ in range(CALLERS)]
        forms.close()
        errors = [call.exception(timeout=60) for call in waiting]
    assert {str(error) for error in errors} == {"the engine is closed"}
    assert {type(error) for error in errors} == {EngineError}
    with pytest.raises(EngineError), forms.one():
        pass

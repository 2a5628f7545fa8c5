from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from electra_qa.server.engine.batcher import RowRequest, WindowRequest, WindowResult
from electra_qa.server.engine.rows import pad_rows, row_tokens, split_rows
from electra_qa.windows import Window, WindowBatch

from ..conftest import GatedEngine
from .test_batcher import make, request

WINDOWS = st.builds(
    lambda ids, bounds: Window(np.array(ids, np.int32), *bounds),
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=20),
    st.tuples(*[st.integers(0, 2**31 - 1)] * 5),
)
REQUESTS = st.lists(
    st.builds(WindowRequest, st.lists(WINDOWS, min_size=1, max_size=3), st.integers(1, 99)),
    min_size=1,
    max_size=4,
)


@given(REQUESTS, st.integers(0, 3), st.integers(0, 3))
def test_rows_are_padded_as_windows_are(
    requests: list[WindowRequest], more: int, pad_id: int
) -> None:
    windows = [window for request in requests for window in request.windows]
    longest = [request.max_answer_length for request in requests for _ in request.windows]
    length = max(window.length for window in windows) + more
    wanted = WindowBatch.pad(windows, longest, length=length, pad_id=pad_id)
    rows = [row for request in requests for row in request.rows]
    got = pad_rows(rows, length=length, pad_id=pad_id)
    for name in ("input_ids", "bounds"):
        array = getattr(got, name)
        np.testing.assert_array_equal(array, getattr(wanted, name))
        assert array.dtype == np.int32
        assert array.flags.c_contiguous
        assert array.flags.writeable


@given(REQUESTS)
def test_rows_that_were_joined_are_split_again(requests: list[WindowRequest]) -> None:
    rows = [row for request in requests for row in request.rows]
    assert split_rows(b"".join(rows), [row_tokens(row) for row in rows]) == rows


async def test_a_call_of_rows_is_as_one_of_windows(engine: GatedEngine) -> None:
    batcher = make(engine)
    asked = [request(30, 40, token=5), request(20, token=6)]
    of_windows = batcher.submit(asked)
    of_rows = batcher.submit([RowRequest(one.rows) for one in asked])
    for one, other in zip(await of_windows, await of_rows, strict=True):
        assert isinstance(one, WindowResult)
        assert isinstance(other, WindowResult)
        for a, b in zip(one.decoded, other.decoded, strict=True):
            np.testing.assert_array_equal(a.spans, b.spans)
            np.testing.assert_array_equal(a.logits, b.logits)
    assert sum(len(batch.bounds) for batch in engine.batches) == 3


async def test_a_question_without_windows_has_a_result_without_any(engine: GatedEngine) -> None:
    batcher = make(engine)
    assert await batcher.submit([]) == []
    for requests in ([request()], [request(), request(20), request()]):
        results = await batcher.submit(requests)
        assert [len(one.decoded) for one in results if isinstance(one, WindowResult)] == [
            len(one.windows) for one in requests
        ]

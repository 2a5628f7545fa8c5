"""The Open Inference Protocol over the wire: both forms of tensors, every error, deadlines."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import grpc
import numpy as np
import pytest

from electra_qa.bundle import Bundle
from electra_qa.client import AsyncClient
from electra_qa.rpc import open_inference_grpc_pb2 as pb
from electra_qa.rpc.open_inference_grpc_pb2_grpc import GRPCInferenceServiceStub
from electra_qa.server.lifecycle import running
from electra_qa.server.settings import ServerSettings

from ..conftest import GatedEngine, Serving

CONTEXT = "Rome was founded by Romulus in 753 BC, says the legend."
OTHER = "Zeus lived on Olympus, the highest mountain of Greece."
# No answer is ever over it, and none ever under it.
ALWAYS, NEVER = 1e9, -1e9

Parameter = bool | int | float | str


def tensor(name: str, values: list[str] | list[bytes], shape: list[int] | None = None) -> Any:
    made = pb.ModelInferRequest.InferInputTensor(
        name=name, datatype="BYTES", shape=[len(values)] if shape is None else shape
    )
    made.contents.bytes_contents.extend(_bytes(value) for value in values)
    return made


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def typed(
    questions: list[Any] | None = None,
    contexts: list[Any] | None = None,
    *,
    shapes: tuple[list[int] | None, list[int] | None] = (None, None),
    **parameters: Parameter,
) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="electra-qa", id="an id")
    request.inputs.append(tensor("question", questions or ["who?"], shapes[0]))
    request.inputs.append(tensor("context", contexts or [CONTEXT], shapes[1]))
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
        setattr(request.parameters[name], kind[type(value)], value)
    return request


def raw(request: pb.ModelInferRequest) -> pb.ModelInferRequest:
    """The same with raw contents."""
    for one in request.inputs:
        elements = one.contents.bytes_contents
        request.raw_input_contents.append(
            b"".join(struct.pack("<I", len(element)) + element for element in elements)
        )
        one.ClearField("contents")
    return request


def stub(channel: grpc.aio.Channel) -> Any:
    return GRPCInferenceServiceStub(channel)


def columns(response: pb.ModelInferResponse) -> dict[str, tuple[list[int], list[Any]]]:
    """{name: (shape, elements)} of either form."""
    read = {}
    for index, output in enumerate(response.outputs):
        if not response.raw_output_contents:
            ((_, elements),) = output.contents.ListFields()
            values = list(elements)
        else:
            content = response.raw_output_contents[index]
            if output.datatype == "BYTES":
                values = []
                while content:
                    length = int.from_bytes(content[:4], "little")
                    values.append(content[4 : 4 + length])
                    content = content[4 + length :]
            else:
                dtype = {"FP32": "<f4", "INT32": "<i4"}[output.datatype]
                values = np.frombuffer(content, dtype).tolist()
        read[output.name] = (list(output.shape), values)
    return read


async def test_the_server_and_its_model_introduce_themselves(
    serving: Serving, bundle: Bundle
) -> None:
    version = bundle.sha256[:12]
    async with serving() as client, grpc.aio.insecure_channel(client.address) as channel:
        asked = stub(channel)
        assert (await asked.ServerLive(pb.ServerLiveRequest())).live
        assert (await asked.ServerReady(pb.ServerReadyRequest())).ready
        for name, version_asked, ready in [
            ("electra-qa", "", True),
            ("electra-qa", version, True),
            ("electra-qa", "1", False),
            ("bert", "", False),
        ]:
            request = pb.ModelReadyRequest(name=name, version=version_asked)
            assert (await asked.ModelReady(request)).ready is ready
        server = await asked.ServerMetadata(pb.ServerMetadataRequest())
        assert (server.name, list(server.extensions)) == ("electra-qa", ["parameters"])
        model = await asked.ModelMetadata(pb.ModelMetadataRequest(name="electra-qa"))
    assert (model.name, list(model.versions)) == ("electra-qa", [version])
    assert [(one.name, one.datatype, list(one.shape)) for one in model.inputs] == [
        ("question", "BYTES", [-1]),
        ("context", "BYTES", [-1]),
    ]
    assert [(one.name, one.datatype, list(one.shape)) for one in model.outputs] == [
        ("answer", "BYTES", [-1]),
        ("score", "FP32", [-1]),
        ("start", "INT32", [-1]),
        ("end", "INT32", [-1]),
        ("null_score", "FP32", [-1]),
    ]


@pytest.mark.parametrize("is_raw", [False, True])
async def test_both_forms_have_the_answers_of_our_own_protocol(
    serving: Serving, is_raw: bool
) -> None:
    pairs = [("who?", CONTEXT), ("where?", OTHER), ("wo wär's?", "Es wär’ in Łódź – 東京.")]
    questions, contexts = ([pair[side] for pair in pairs] for side in (0, 1))
    request = typed(questions, contexts, null_score_diff_threshold=ALWAYS)
    async with serving() as client, grpc.aio.insecure_channel(client.address) as channel:
        response = await stub(channel).ModelInfer(raw(request) if is_raw else request)
        ours = [
            await client.answer(question, context, null_score_diff_threshold=ALWAYS)
            for question, context in pairs
        ]
    assert (response.id, response.model_name) == ("an id", "electra-qa")
    assert bool(response.raw_output_contents) is is_raw
    assert [output.HasField("contents") for output in response.outputs] == [not is_raw] * 5
    read = columns(response)
    assert {tuple(shape) for shape, _ in read.values()} == {(3,)}
    best = [result.answers[0] for result in ours]
    assert read["answer"][1] == [answer.text.encode() for answer in best]
    assert read["start"][1] == [answer.start for answer in best]
    assert read["end"][1] == [answer.end for answer in best]
    assert read["score"][1] == pytest.approx([answer.score for answer in best])
    assert read["null_score"][1] == pytest.approx([result.null_score for result in ours])


async def test_one_context_serves_all_questions(serving: Serving) -> None:
    questions = ["who?", "where was it founded?", "when?"]
    async with serving() as client, grpc.aio.insecure_channel(client.address) as channel:
        one = await stub(channel).ModelInfer(typed(questions, [CONTEXT]))
        each = await stub(channel).ModelInfer(typed(questions, [CONTEXT] * 3))
    assert columns(one) == columns(each)
    assert columns(one)["answer"][0] == [3]


@pytest.mark.parametrize("is_raw", [False, True])
async def test_one_question_is_put_to_all_contexts(serving: Serving, is_raw: bool) -> None:
    contexts = [CONTEXT, OTHER, "Es wär’ in Łódź – 東京."]
    one = typed(["who?"], contexts, null_score_diff_threshold=ALWAYS)
    each = typed(["who?"] * 3, contexts, null_score_diff_threshold=ALWAYS)
    async with serving() as client, grpc.aio.insecure_channel(client.address) as channel:
        asked = stub(channel)
        answered = columns(await asked.ModelInfer(raw(one) if is_raw else one))
        assert answered == columns(await asked.ModelInfer(each))
    spans = zip(contexts, answered["start"][1], answered["end"][1], strict=True)
    cut = [context[start:end].encode() for context, start, end in spans]
    assert answered["answer"] == ([3], cut)
    assert len(set(cut)) == 3


@pytest.mark.parametrize(
    ("shapes", "parameters", "shape"),
    [
        (([2], [2]), {}, [2]),
        (([2, 1], [2, 1]), {}, [2, 1]),
        (([2, 1], [2]), {}, [2, 1]),
        (([2], [2]), {"top_k": 1}, [2, 1]),
        (([2, 1], [2, 1]), {"top_k": 5}, [2, 5]),
        (([1], [2]), {}, [2]),
        (([1, 1], [2, 1]), {}, [2, 1]),
        (([1], [2]), {"top_k": 5}, [2, 5]),
        (([2], [1]), {}, [2]),
    ],
)
async def test_the_shape_of_the_answers_follows_from_the_question(
    serving: Serving, shapes: Any, parameters: Any, shape: list[int]
) -> None:
    questions, contexts = ["who?", "where?"][: shapes[0][0]], [CONTEXT, OTHER][: shapes[1][0]]
    request = typed(questions, contexts, shapes=shapes, **parameters)
    async with serving() as client, grpc.aio.insecure_channel(client.address) as channel:
        read = columns(await stub(channel).ModelInfer(request))
    assert {name: read[name][0] for name in read} == {
        "answer": shape,
        "score": shape,
        "start": shape,
        "end": shape,
        "null_score": [2],
    }
    assert len(read["answer"][1]) == np.prod(shape)


async def test_no_answer_is_the_empty_one_before_the_best_spans(serving: Serving) -> None:
    async with serving() as client, grpc.aio.insecure_channel(client.address) as channel:
        asked = stub(channel)
        none = columns(await asked.ModelInfer(typed(null_score_diff_threshold=NEVER, top_k=3)))
        single = columns(await asked.ModelInfer(typed(null_score_diff_threshold=NEVER)))
        some = columns(await asked.ModelInfer(typed(null_score_diff_threshold=ALWAYS, top_k=3)))
        ours = await client.answer("who?", CONTEXT, null_score_diff_threshold=NEVER, top_k=3)
    assert ours.is_impossible
    texts = [answer.text.encode() for answer in ours.answers]
    assert some["answer"][1] == texts
    assert none["answer"][1] == [b"", *texts[:2]]
    assert [none[name][1][0] for name in ("start", "end")] == [0, 0]
    assert none["score"][1][0] == pytest.approx(ours.null_probability)
    assert none["score"][1][1] == pytest.approx(ours.answers[0].score)
    assert single["answer"] == ([1], [b""])


async def test_where_there_are_too_few_spans_empty_ones_fill_the_row(serving: Serving) -> None:
    request = typed(["who?"], ["Zeus"], null_score_diff_threshold=ALWAYS, top_k=4)
    async with serving() as client, grpc.aio.insecure_channel(client.address) as channel:
        read = columns(await stub(channel).ModelInfer(request))
    assert read["answer"] == ([1, 4], [b"Zeus", b"", b"", b""])
    assert read["score"][1][1:] == [0, 0, 0]
    assert read["end"][1] == [4, 0, 0, 0]


async def test_only_the_outputs_that_were_asked_for_come(serving: Serving) -> None:
    request = raw(typed())
    for name in ("end", "answer"):
        request.outputs.add(name=name)
    async with serving() as client, grpc.aio.insecure_channel(client.address) as channel:
        response = await stub(channel).ModelInfer(request)
    assert [output.name for output in response.outputs] == ["end", "answer"]
    assert len(response.raw_output_contents) == 2


async def test_answers_that_do_not_overlap_and_answers_of_every_place(serving: Serving) -> None:
    choices: dict[str, Any] = {"top_k": 4, "max_overlap": 0.0, "every_place": True}
    async with serving() as client, grpc.aio.insecure_channel(client.address) as channel:
        asked = stub(channel)
        request = typed(["who?"], [CONTEXT], null_score_diff_threshold=ALWAYS, **choices)
        found = columns(await asked.ModelInfer(request))
        ours = await client.answer("who?", CONTEXT, null_score_diff_threshold=ALWAYS, **choices)
        overlapping = await client.answer("who?", CONTEXT, top_k=4)
    assert found["start"] == ([1, 4], [answer.start for answer in ours.answers])
    places = sorted((answer.start, answer.end) for answer in ours.answers)
    assert all(one[1] <= other[0] for one, other in pairwise(places))
    assert overlapping.answers[1:] != ours.answers[1:]


async def test_parameters_of_triton_that_mean_nothing_here_are_taken(serving: Serving) -> None:
    request = typed(sequence_id=3, sequence_start=True, sequence_end=True, timeout=0)
    request.parameters["priority"].uint64_param = 1
    async with serving() as client, grpc.aio.insecure_channel(client.address) as channel:
        assert (await stub(channel).ModelInfer(request)).id == "an id"


def changed(request: pb.ModelInferRequest, **fields: Any) -> pb.ModelInferRequest:
    for name, value in fields.items():
        setattr(request, name, value)
    return request


def without_context() -> pb.ModelInferRequest:
    request = typed()
    del request.inputs[1]
    return request


def with_input(**fields: Any) -> pb.ModelInferRequest:
    """Another kind of `question`."""
    request = typed()
    question = request.inputs[0]
    for name, value in fields.items():
        if name.endswith("_contents"):
            question.ClearField("contents")
            getattr(question.contents, name).extend(value)
        else:
            setattr(question, name, value)
    return request


def with_raw(*contents: bytes) -> pb.ModelInferRequest:
    request = raw(typed())
    request.raw_input_contents[:] = contents
    return request


def with_extra_input() -> pb.ModelInferRequest:
    request = typed()
    request.inputs.append(tensor("title", ["Rome"]))
    return request


def with_question_twice() -> pb.ModelInferRequest:
    request = typed()
    request.inputs.append(request.inputs[0])
    return request


def with_output(*names: str, **parameters: str) -> pb.ModelInferRequest:
    request = typed()
    for name in names:
        output = request.outputs.add(name=name)
        for key, value in parameters.items():
            output.parameters[key].string_param = value
    return request


def with_shared_memory() -> pb.ModelInferRequest:
    request = typed()
    request.inputs[1].parameters["shared_memory_region"].string_param = "region"
    return request


def with_both_forms() -> pb.ModelInferRequest:
    request = typed()
    request.raw_input_contents.extend([b"\x04\0\0\0who?", b"\x04\0\0\0Zeus"])
    return request


RAW_CONTEXT = struct.pack("<I", len(CONTEXT)) + CONTEXT.encode()
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            without_context(),
            "expected 2 inputs but got 1 inputs for model 'electra-qa'. Got input(s) "
            "['question'], but missing required input(s) ['context']. "
            "Please provide all required input(s).",
        ),
        (with_extra_input(), "unexpected inference input 'title' for model 'electra-qa'"),
        (with_question_twice(), "input 'question' already exists in request"),
        (
            with_input(datatype="FP32"),
            "inference input 'question' data-type is 'FP32', but model 'electra-qa' expects "
            "'BYTES'",
        ),
        (
            with_input(int_contents=[1]),
            "unexpected explicit tensor data (int_contents) for input tensor 'question' for model "
            "'electra-qa' of type 'BYTES'",
        ),
        (
            with_input(bytes_contents=[b"a?", b"b?"]),
            "unexpected number of string elements for inference input 'question', expecting 1",
        ),
        (
            typed(shapes=([1, 2], None)),
            "unexpected shape for input 'question' for model 'electra-qa'. Expected [-1] or "
            "[-1,1], got [1,2]",
        ),
        (
            typed(shapes=([], None)),
            "unexpected shape for input 'question' for model 'electra-qa'. Expected [-1] or "
            "[-1,1], got []",
        ),
        (
            typed(shapes=([-1], None)),
            "unexpected shape for input 'question' for model 'electra-qa'. Expected [-1] or "
            "[-1,1], got [-1]",
        ),
        (
            typed(["a?", "b?", "c?"], [CONTEXT, OTHER]),
            "unexpected shape for input 'context' for model 'electra-qa'. Expected [3] or [1], "
            "got [2]",
        ),
        (
            typed(["a?"], shapes=(None, [1, 2])),
            "unexpected shape for input 'context' for model 'electra-qa'. Expected [-1] or "
            "[-1,1], got [1,2]",
        ),
        (
            typed(shapes=(None, [-1])),
            "unexpected shape for input 'context' for model 'electra-qa'. Expected [-1] or "
            "[-1,1], got [-1]",
        ),
        (typed(["a?"] * 5), "questions must be 1 to 4 (max_batch_questions), got 5"),
        (typed(shapes=([0], None)), "questions must be 1 to 4 (max_batch_questions), got 0"),
        (typed(["a?"], [CONTEXT] * 5), "contexts must be 1 to 4 (max_batch_questions), got 5"),
        (typed(shapes=(None, [0])), "contexts must be 1 to 4 (max_batch_questions), got 0"),
        (
            with_raw(b"\x04\0\0\0who?"),
            "expected 2 raw_input_contents, one for each input, got 1, for model 'electra-qa'",
        ),
        (
            with_raw(b"\x04\0\0", RAW_CONTEXT),
            "incomplete string length indicator for inference input 'question', expecting 4 bytes "
            "but only 3 bytes available",
        ),
        (
            with_raw(b"\x05\0\0\0who?", RAW_CONTEXT),
            "incomplete string data for inference input 'question', expecting string of length 5 "
            "but only 4 bytes available",
        ),
        (
            with_raw(b"\x04\0\0\0who?" * 2, RAW_CONTEXT),
            "unexpected number of string elements for inference input 'question', expecting 1",
        ),
        (
            with_raw(b"", RAW_CONTEXT),
            "unexpected number of string elements for inference input 'question', expecting 1",
        ),
        (
            with_both_forms(),
            "contents field must not be specified when using raw_input_contents for 'question' "
            "for model 'electra-qa'",
        ),
        (typed(["a?", b"\xff?"]), "question[1] is not UTF-8"),
        (raw(typed(["a?"], [b"\xed\xa0\x80"])), "context[0] is not UTF-8"),
        (with_output("logits"), "unexpected inference output 'logits' for model 'electra-qa'"),
        (with_output("end", "end"), "output 'end' already exists in request"),
        (
            with_output("answer", classification="3"),
            "parameter 'classification' of output 'answer' is not supported",
        ),
        (
            with_shared_memory(),
            "parameter 'shared_memory_region' of input 'context' is not supported",
        ),
        (
            typed(topk=3),
            "unexpected parameter 'topk' for model 'electra-qa': it takes top_k, "
            "max_answer_length, null_score_diff_threshold, max_overlap, every_place, timeout",
        ),
        (
            typed(top_k="3"),
            "parameter 'top_k' must be one of int64_param, uint64_param, got string_param",
        ),
        (typed(timeout=-1), "parameter 'timeout' must be 0 or more, got -1"),
        (typed(top_k=0), "options.top_k must be 1 to 256, got 0"),
        (typed(top_k=257), "options.top_k must be 1 to 256, got 257"),
        (typed(top_k=-1), "options.top_k is out of range: -1"),
        (typed(max_answer_length=513), "options.max_answer_length must be 1 to 512, got 513"),
        (
            typed(null_score_diff_threshold=float("nan")),
            "options.null_score_diff_threshold must be a number, got NaN",
        ),
        (typed([" "]), "question is blank"),
        (typed(["a?", "b?"], [CONTEXT, b""]), "question[1]: context is empty"),
        (typed(["a?"], [CONTEXT, OTHER, b""]), "context[2]: context is empty"),
        (
            typed(["a?"], ["a" * 1001]),
            "context must be at most 1000 characters (max_context_length), got 1001",
        ),
    ],
)
async def test_bad_input_is_refused_as_triton_does(
    serving: Serving, request_: pb.ModelInferRequest, message: str
) -> None:
    async with (
        serving(max_batch_questions=4, max_context_length=1000) as client,
        grpc.aio.insecure_channel(client.address) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub(channel).ModelInfer(request_)
    assert (caught.value.code(), caught.value.details()) == (INVALID, message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_name": "bert"}, "Request for unknown model: 'bert' is not found"),
        (
            {"model_version": "7"},
            "Request for unknown model: 'electra-qa' version '7' is not found",
        ),
    ],
)
async def test_another_model_is_not_found(serving: Serving, fields: Any, message: str) -> None:
    async with serving() as client, grpc.aio.insecure_channel(client.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub(channel).ModelInfer(changed(typed(), **fields))
        assert (caught.value.code(), caught.value.details()) == (
            grpc.StatusCode.NOT_FOUND,
            message,
        )
        asked = pb.ModelMetadataRequest(
            name=fields.get("model_name", "electra-qa"), version=fields.get("model_version", "")
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub(channel).ModelMetadata(asked)
        assert caught.value.details() == message


async def test_what_the_engine_says_stays_here(serving: Serving, engine: GatedEngine) -> None:
    async with serving() as client, grpc.aio.insecure_channel(client.address) as channel:
        engine.failing_lengths.update(engine.buckets)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub(channel).ModelInfer(typed())
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "/secret" not in (caught.value.details() or "")


# One question is asked by both protocols: what is the same is computed once.
@pytest.mark.parametrize(("question", "windows"), [("where?", 2), ("who?", 1)])
async def test_windows_of_both_protocols_share_a_batch(
    serving: Serving, engine: GatedEngine, question: str, windows: int
) -> None:
    async with serving() as client, grpc.aio.insecure_channel(client.address) as channel:
        engine.open.clear()
        first = asyncio.create_task(client.answer("who?", CONTEXT))
        await engine.taken()
        ours = asyncio.create_task(client.answer(question, CONTEXT))
        theirs = asyncio.ensure_future(stub(channel).ModelInfer(typed()))
        await asyncio.sleep(0.3)
        engine.open.set()
        await asyncio.gather(first, ours, theirs)
    assert [len(batch.input_ids) for batch in engine.batches] == [1, windows]


@pytest.mark.parametrize("own", [False, True])
async def test_a_deadline_ends_an_inference_and_its_place_in_the_queue(
    serving: Serving, engine: GatedEngine, own: bool
) -> None:
    """That of gRPC, and the parameter of Triton's."""
    async with serving() as client, grpc.aio.insecure_channel(client.address) as channel:
        engine.open.clear()
        first = asyncio.create_task(client.answer("first?", CONTEXT))
        await engine.taken()
        request, timeout = (typed(timeout=200_000), None) if own else (typed(), 0.2)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub(channel).ModelInfer(request, timeout=timeout)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        engine.open.set()
        await first
        await client.answer("third?", CONTEXT)
    assert [len(batch.input_ids) for batch in engine.batches] == [1, 1]


async def test_a_full_queue_refuses_an_inference(serving: Serving, engine: GatedEngine) -> None:
    async with (
        serving(max_queue_tokens=10) as client,
        grpc.aio.insecure_channel(client.address) as channel,
    ):
        engine.open.clear()
        tasks = [asyncio.create_task(client.answer("first?", CONTEXT))]
        await engine.taken()
        tasks.append(asyncio.create_task(client.answer("second?", CONTEXT)))
        await asyncio.sleep(0.2)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub(channel).ModelInfer(typed())
        engine.open.set()
        await asyncio.gather(*tasks)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "max_queue_tokens is 10" in (caught.value.details() or "")
    assert "grpc-status-details-bin" in dict(caught.value.trailing_metadata())


async def test_a_stream_answers_in_order_and_survives_a_bad_request(
    serving: Serving, engine: GatedEngine
) -> None:
    requests = [
        changed(typed([f"who is {number}?"] if number != 7 else [""]), id=str(number))
        for number in range(20)
    ]
    requests.insert(3, changed(typed(["long? " * 20], [OTHER * 3]), id="long"))
    async with (
        serving(max_stream_questions=4) as client,
        grpc.aio.insecure_channel(client.address) as channel,
    ):
        responses = [one async for one in stub(channel).ModelStreamInfer(_each(requests))]
    failed = [index for index, one in enumerate(responses) if one.error_message]
    assert failed == [8]
    assert responses[8].error_message == "question is empty"
    answered = [one.infer_response for one in responses if not one.error_message]
    assert [one.id for one in answered] == [one.id for one in requests if one.id != "7"]
    assert all(one.parameters["triton_final_response"].bool_param for one in answered)
    assert max(len(batch.input_ids) for batch in engine.batches) <= 4


async def _each(requests: list[pb.ModelInferRequest]) -> AsyncIterator[pb.ModelInferRequest]:
    for request in requests:
        yield request


async def test_draining_is_not_ready_finishes_a_stream_and_refuses_the_rest(
    bundle: Bundle, engine: GatedEngine
) -> None:
    server = running(bundle, engine, ServerSettings(address="127.0.0.1:0"))
    address = await server.__aenter__()
    engine.batches.clear()
    engine.open.clear()
    got = []

    async def endless() -> AsyncIterator[pb.ModelInferRequest]:
        yield typed()
        yield typed()
        await asyncio.sleep(60)

    async with grpc.aio.insecure_channel(address) as channel, AsyncClient(address):
        asked = stub(channel)

        async def ask() -> None:
            async for response in asked.ModelStreamInfer(endless()):
                got.append(response.infer_response.id)

        asking = asyncio.create_task(ask())
        await engine.taken()
        await asyncio.sleep(0.2)
        ready = asyncio.ensure_future(asked.ServerReady(pb.ServerReadyRequest()))
        assert (await ready).ready
        leaving = asyncio.create_task(server.__aexit__(None, None, None))
        await asyncio.sleep(0.1)
        assert not (await asked.ServerReady(pb.ServerReadyRequest())).ready
        assert not (await asked.ModelReady(pb.ModelReadyRequest(name="electra-qa"))).ready
        assert (await asked.ServerLive(pb.ServerLiveRequest())).live
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asked.ModelInfer(typed())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        engine.open.set()
        with pytest.raises(grpc.aio.AioRpcError, match="shutting down"):
            await asking
        await leaving
    assert got == ["an id", "an id"]


async def test_a_message_that_is_none_has_a_status(serving: Serving) -> None:
    async with serving() as client, grpc.aio.insecure_channel(client.address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"\xff\xff\xff")
        assert caught.value.code() is INVALID
        assert "inference.ModelInferRequest" in (caught.value.details() or "")


@pytest.mark.parametrize("letter", ["a", "é", "😀"])
async def test_names_of_any_length_are_repeated_in_part(serving: Serving, letter: str) -> None:
    # Over some kB of headers gRPC's client would say RESOURCE_EXHAUSTED instead.
    name = letter * 30_000
    unknown = typed()
    unknown.outputs.add(name=name)
    shape = typed(shapes=([1] * 30_000, None))
    requests = {
        grpc.StatusCode.NOT_FOUND: [
            changed(typed(), model_name=name),
            changed(typed(), model_version=name),
        ],
        INVALID: [unknown, shape, typed(**{name: 1})],
    }
    async with serving() as client, grpc.aio.insecure_channel(client.address) as channel:
        for code, those in requests.items():
            for one in those:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub(channel).ModelInfer(one)
                assert caught.value.code() is code
                assert len(caught.value.details() or "") <= 512
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub(channel).ModelMetadata(pb.ModelMetadataRequest(name=name))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

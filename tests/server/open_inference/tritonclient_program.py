"""What a user of NVIDIA's client writes: run as a program, since its descriptors and ours have the
same names and can't be in one process.

`python tritonclient_program.py ADDRESS` reads [[question, context], …] as JSON and prints what the
client gave back.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

OUTPUTS = ("answer", "score", "start", "end", "null_score")


def tensor(name: str, values: list[str]) -> Any:
    made = triton.InferInput(name, [len(values)], "BYTES")
    made.set_data_from_numpy(np.array(values, dtype=np.object_))
    return made


def inputs(questions: list[str], contexts: list[str]) -> list[Any]:
    return [tensor("question", questions), tensor("context", contexts)]


def read(result: Any) -> dict[str, Any]:
    arrays = {name: result.as_numpy(name) for name in OUTPUTS}
    return {
        name: [one.decode() if isinstance(one, bytes) else one for one in array.ravel().tolist()]
        for name, array in arrays.items()
        if array is not None
    }


def error_of(call: Callable[[], object]) -> list[str | None]:
    try:
        call()
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return [None, None]


def streamed(client: Any, pairs: list[list[str]]) -> list[dict[str, Any]]:
    arrived: queue.Queue[Any] = queue.Queue()
    client.start_stream(callback=lambda result, error: arrived.put((result, error)))
    for question, context in pairs:
        client.async_stream_infer("electra-qa", inputs([question], [context]))
    results = [arrived.get(timeout=60) for _ in pairs]
    client.stop_stream()
    return [{"error": error.message()} if error else read(result) for result, error in results]


async def asynchronous(address: str, pairs: list[list[str]]) -> list[dict[str, Any]]:
    async with triton_aio.InferenceServerClient(address) as client:
        asked = [client.infer("electra-qa", inputs([q], [c])) for q, c in pairs]
        return [read(result) for result in await asyncio.gather(*asked)]


def main() -> None:
    address, pairs = sys.argv[1], json.load(sys.stdin)
    client = triton.InferenceServerClient(address)
    first = inputs(*([text] for text in pairs[0]))
    single = []
    for start in range(0, len(pairs), 8):
        questions, contexts = (list(side) for side in zip(*pairs[start : start + 8], strict=True))
        batch = read(client.infer("electra-qa", inputs(questions, contexts)))
        single += [
            {name: values[index] for name, values in batch.items()}
            for index in range(len(questions))
        ]
    report = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": [client.is_model_ready(name) for name in ("electra-qa", "bert")],
        "server": client.get_server_metadata(as_json=True),
        "model": client.get_model_metadata("electra-qa", as_json=True),
        "answers": single,
        "best_of_three": read(
            client.infer(
                "electra-qa",
                first,
                outputs=[triton.InferRequestedOutput("answer")],
                parameters={"top_k": 3, "null_score_diff_threshold": 1e9},
                compression_algorithm="gzip",
                client_timeout=60,
            )
        ),
        "stream": streamed(client, [*pairs[:5], ["", "No question."], *pairs[5:8]]),
        "asyncio": asyncio.run(asynchronous(address, pairs[:5])),
        "errors": {
            "name": error_of(lambda: client.infer("bert", first)),
            "version": error_of(lambda: client.infer("electra-qa", first, model_version="7")),
            "metadata": error_of(lambda: client.get_model_metadata("bert")),
            "missing": error_of(lambda: client.infer("electra-qa", first[:1])),
            "output": error_of(
                lambda: client.infer(
                    "electra-qa", first, outputs=[triton.InferRequestedOutput("logits")]
                )
            ),
            "parameter": error_of(
                lambda: client.infer("electra-qa", first, parameters={"top_k": 257})
            ),
        },
    }
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()

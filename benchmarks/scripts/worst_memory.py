"""The most memory that a server with its default limits takes, one bad habit of its callers at a
time and all of them together. Each on a server of its own; Linux only.

pip install 'electra-qa[server]'
python benchmarks/scripts/worst_memory.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import grpc

from electra_qa.private import ServerProcess
from electra_qa.rpc import electra_qa_pb2 as pb

ANSWER_BATCH = "/electra_qa.v1.QuestionAnswering/AnswerBatch"
ANSWER_STREAM = "/electra_qa.v1.QuestionAnswering/AnswerStream"
# Of one call. One that is refused is not tried again.
TIMEOUT_S = 40.0
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
LONGEST_CONTEXT = 200_000
SENTENCE = "Rome was founded by Romulus in 753 BC, says the legend. "

Load = Callable[[grpc.Channel], object]


def batch(contexts: list[str], questions: int, top_k: int = 1) -> bytes:
    request = pb.AnswerBatchRequest(contexts=contexts, options=pb.Options(top_k=top_k))
    for number in range(questions):
        place = number % len(contexts)
        request.questions.append(pb.BatchQuestion(question=f"who {number}?", context_index=place))
    return request.SerializeToString()


def asked(raw: bytes, compression: grpc.Compression = grpc.Compression.NoCompression) -> Load:
    def ask(channel: grpc.Channel) -> object:
        call = channel.unary_unary(ANSWER_BATCH)
        return call(raw, timeout=TIMEOUT_S, compression=compression)

    return ask


def streamed(messages: int) -> Load:
    """Each about a context of its own that is as long as it may be."""

    def message(number: int) -> bytes:
        context = f"{number} {SENTENCE * 4_000}"[:LONGEST_CONTEXT]
        request = pb.AnswerRequest(question="who?", context=context)
        return pb.AnswerStreamRequest(id=str(number), request=request).SerializeToString()

    def ask(channel: grpc.Channel) -> object:
        call = channel.stream_stream(ANSWER_STREAM)
        return sum(1 for _ in call(map(message, range(messages)), timeout=TIMEOUT_S))

    return ask


def habits() -> dict[str, tuple[Load, int]]:
    """What a call does, and how many do so at once, each on a connection of its own."""
    long = (SENTENCE * 4_000)[:LONGEST_CONTEXT]
    # The largest that a server with the default limits takes, and one that it does not.
    large, larger = (
        batch([f"{number} {long}"[:LONGEST_CONTEXT] for number in range(contexts)], contexts)
        for contexts in (41, 140)
    )
    unknown = " ".join("q" * 18_000 for _ in range(11))
    marks = "a" + "\u0301" * (LONGEST_CONTEXT - 1)
    short = ["a " * (LONGEST_CONTEXT // 2 - 9) + str(number) for number in range(6)]
    return {
        f"messages of {len(large) / 1e6:.0f} MB": (asked(large), 80),
        "the same, compressed": (asked(large, grpc.Compression.Gzip), 200),
        f"messages of {len(larger) / 1e6:.0f} MB, which are refused": (asked(larger), 80),
        "1,024 questions about 11 unknown words of 18,000 letters, 256 answers each": (
            asked(batch([unknown], 1_024, 256)),
            16,
        ),
        "1,024 questions about a letter with 199,999 marks": (
            asked(batch([marks], 1_024, 256)),
            16,
        ),
        "1,024 questions with 256 answers each": (asked(batch([SENTENCE * 40], 1_024, 256)), 16),
        "contexts of 100,000 words, over 4,096 windows": (asked(batch(short, 6, 256)), 16),
        "streams of 200 contexts of 200,000 characters": (streamed(200), 16),
    }


def peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def process_of(server: ServerProcess) -> int:
    waiting = server.close.peek()
    assert waiting is not None
    return int(waiting[2][0].pid)


def measure(loads: list[Load], arguments: list[str]) -> tuple[float, float, dict[str, int]]:
    """The memory before and at the most, in MB, and how the calls ended."""
    ends: dict[str, int] = {}
    with ServerProcess(arguments=arguments) as server:
        pid = process_of(server)
        before = peak_mb(pid)

        def run(load: Load) -> str:
            options = [
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_receive_message_length", -1),
            ]
            with grpc.insecure_channel(server.address, options) as channel:
                try:
                    load(channel)
                except grpc.RpcError as error:
                    return str(error.code().name)
                return "OK"

        if loads:
            with ThreadPoolExecutor(len(loads)) as callers:
                for end in callers.map(run, loads):
                    ends[end] = ends.get(end, 0) + 1
        return before, peak_mb(pid), ends


@click.command()
@click.option("--null", is_flag=True, help="Without the engine: what the rest of the server takes.")
def main(null: bool) -> None:
    arguments = ["--engine", "null"] if null else []
    cases = habits()
    everything = [load for load, callers in cases.values() for _ in range(callers)]
    click.echo("| callers | | MB at the start | MB at the most | how they ended | seconds |")
    click.echo("| ---: | --- | ---: | ---: | --- | ---: |")
    for name, loads in {
        **{name: [load] * callers for name, (load, callers) in cases.items()},
        "all of these": everything,
    }.items():
        began = time.monotonic()
        before, most, ends = measure(loads, arguments)
        said = ", ".join(f"{code} {count}" for code, count in sorted(ends.items()))
        took = time.monotonic() - began
        click.echo(f"| {len(loads)} | {name} | {before:.0f} | {most:.0f} | {said} | {took:.0f} |")


if __name__ == "__main__":
    main()

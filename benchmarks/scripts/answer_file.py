"""What `electra-qa answer` and its server take for a file of many rows: memory, CPU, rows a second.

The server has the null engine, so that what is left is the work around it. Every row has a context
of its own, of some 160 tokens.

pip install 'electra-qa[server,parquet]'
python benchmarks/scripts/answer_file.py --rows 1000000 --format jsonl
"""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from electra_qa.benchmarks.environment import this_machine
from electra_qa.client import Client

TEXT = (
    "the a of and in to was is city river king war year first people town church school "
    "university century north south built founded known large small during between music "
    "government water island company world power empire game team season played"
)
SERVER = [sys.executable, "-m", "electra_qa", "serve", "--engine", "null", "--log-level", "warning"]
COLUMNS = ("id", "question", "context")


@dataclass(frozen=True, slots=True)
class Usage:
    """resident, peak: MiB. cpu: seconds."""

    resident: float
    peak: float
    cpu: float


def usage(pid: int) -> Usage:
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    resident, peak = (int(status[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Usage(resident, peak, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))


def rows(count: int) -> Iterator[tuple[int, str, str]]:
    draw, vocabulary = random.Random(0), TEXT.split()
    for number in range(count):
        words = draw.choices(vocabulary, k=draw.randint(80, 240))
        yield number, f"Who founded {words[0]} {words[1]} {number}?", f"{number} {' '.join(words)}."


def write(path: Path, count: int) -> None:
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema(
            [("id", pa.int64()), ("question", pa.string()), ("context", pa.string())]
        )
        with pq.ParquetWriter(path, schema) as writer:
            batch = []
            for row in rows(count):
                batch.append(dict(zip(COLUMNS, row, strict=True)))
                if len(batch) == 10_000 or row[0] == count - 1:
                    writer.write_table(pa.Table.from_pylist(batch, schema))
                    batch = []
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            table = csv.writer(file)
            table.writerow(COLUMNS)
            table.writerows(rows(count))
        else:
            for row in rows(count):
                file.write(json.dumps(dict(zip(COLUMNS, row, strict=True))) + "\n")


@click.command()
@click.option("--rows", "count", default=1_000_000, show_default=True)
@click.option("--format", "suffix", type=click.Choice(["jsonl", "csv", "parquet"]), default="jsonl")
@click.option("--every", default=30.0, show_default=True, help="Seconds between two lines.")
def main(count: int, suffix: str, every: float) -> None:
    """Writes a file, answers it, and says what that took."""
    machine = this_machine()
    print(f"{machine.cpu}, {machine.cores} cores, {machine.memory_gib} GiB")
    with tempfile.TemporaryDirectory() as folder:
        source, target = (Path(folder) / f"{name}.{suffix}" for name in ("rows", "answers"))
        write(source, count)
        print(f"{count:,} rows, {source.stat().st_size / 2**20:,.0f} MiB of {suffix}")
        address = f"unix:{folder}/socket"
        server = subprocess.Popen([*SERVER, "--address", address])
        try:
            with Client(address) as client:
                client.wait_until_ready(60)
            measure(source, target, address, server.pid, count, every)
        finally:
            server.terminate()
            server.wait()


def measure(
    source: Path, target: Path, address: str, server: int, count: int, every: float
) -> None:
    command = [sys.executable, "-m", "electra_qa", "answer", "--address", address]
    command += ["--input", str(source), "--output", str(target)]
    before = usage(server)
    began = time.monotonic()
    asking = subprocess.Popen(command)
    print(f"server before: {before.resident:.0f} MiB")
    asked, served, due = None, before, began + 2
    while asking.poll() is None:
        time.sleep(0.05)
        try:
            asked, served = usage(asking.pid), usage(server)
        except (KeyError, FileNotFoundError, ProcessLookupError):
            break  # it has just ended
        if time.monotonic() >= due:
            due += every
            print(
                f"{time.monotonic() - began:5.0f} s: client {asked.resident:.0f} MiB, "
                f"server {served.resident:.0f} MiB",
                flush=True,
            )
    seconds = time.monotonic() - began
    if asking.wait() or asked is None:
        raise SystemExit("it failed")
    print(
        f"{count / seconds:,.0f} rows a second; client {asked.cpu:.0f} s of CPU, at most "
        f"{asked.peak:.0f} MiB; server {served.cpu - before.cpu:.0f} s of CPU, at most "
        f"{served.peak:.0f} MiB"
    )


if __name__ == "__main__":
    main()

"""How ``laser-peft serve`` bears load: throughput, latency, errors and memory, over the loopback.

    python examples/benchmarks/serving.py RUN/recommender --seconds 20

The server runs in a process of its own. Clients ask without a pause, each for one history at a time
and ten items, so that as many requests are under way as there are clients; besides, one client
sends requests that must be refused, malformed and oversized, all the while. Any other answer than
200 to the former, and than 413 or 422 to the latter, counts as an error.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import psutil
from interleaved import start
from recommend_many import draw_histories

MEBIBYTE = 2**20
REFUSED = (
    (422, b"{"),
    (422, b"\xff" * 100),
    (422, b'{"history": "text"}'),
    (422, b'{"history": ["no such item"]}'),
    (422, b'{"history": [], "k": 1000000}'),
    (422, b'{"histories": [' + b"[]," * 1000 + b"[]]}"),
    (413, b" " * (2 * MEBIBYTE)),
)
SECONDS_BETWEEN_REFUSED = 0.05


@dataclass
class Load:
    """What came of a load: seconds of each request, errors, and how many were refused."""

    took: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    refused: int = 0


@contextmanager
def running(command: list[str]) -> Iterator[tuple[psutil.Process, str]]:
    """Runs a server; gives its process and address when it is ready."""
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        with log.open("w") as file:
            process = subprocess.Popen([*command, "--port", "0"], stdout=file, stderr=file)
        try:
            address = ""
            while not address or httpx.get(f"{address}/ready").status_code != 200:
                time.sleep(0.2)
                if process.poll() is not None:
                    raise RuntimeError(f"the server has ended:\n{log.read_text()}")
                address = log.read_text().partition("running on ")[2].partition(" ")[0]
            yield psutil.Process(process.pid), address
        finally:
            process.terminate()
            process.wait()


async def ask(
    client: httpx.AsyncClient, histories: Iterator[list[str]], until: float, load: Load
) -> None:
    """Asks again and again until it is time."""
    while time.perf_counter() < until:
        started = time.perf_counter()
        try:
            answer = await client.post("/recommend", json={"history": next(histories)})
            if answer.status_code != 200:
                load.errors.append(answer.text[:200])
        except httpx.HTTPError as error:
            load.errors.append(repr(error))
        load.took.append(time.perf_counter() - started)


async def ask_wrongly(client: httpx.AsyncClient, until: float, load: Load) -> None:
    """Sends what must be refused until it is time."""
    while time.perf_counter() < until:
        for status, body in REFUSED:
            try:
                answer = await client.post("/recommend", content=body)
                if answer.status_code != status:
                    load.errors.append(f"{status} expected: {answer.text[:200]}")
            except httpx.HTTPError as error:
                load.errors.append(repr(error))
            load.refused += 1
            await asyncio.sleep(SECONDS_BETWEEN_REFUSED)


async def under_load(
    address: str, histories: Iterator[list[str]], clients: int, seconds: float
) -> Load:
    """Asks with so many clients for so long."""
    load = Load()
    async with AsyncExitStack() as stack:
        # Each has a connection of its own: a pool of many spends more time than the server.
        own = [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=address, timeout=60, verify=False)
            )
            for _ in range(clients + 1)
        ]
        until = time.perf_counter() + seconds
        asking = [ask(client, histories, until, load) for client in own[1:]]
        await asyncio.gather(*asking, ask_wrongly(own[0], until, load))
    return load


def row(clients: int, load: Load, seconds: float, before: int, after: int) -> str:
    """Says what came of a load, as a row of a table."""
    median, late = 1000 * np.quantile(load.took, [0.5, 0.99])
    return (
        f"| {clients} | {len(load.took)} | {len(load.took) / seconds:.1f} | {median:.0f} ms | "
        f"{late:.0f} ms | {load.refused} | {len(load.errors)} | "
        f"{before / MEBIBYTE:.0f} to {after / MEBIBYTE:.0f} MiB |"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recommender", help="folder of a recommender")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=20, help="for each number of clients")
    parser.add_argument("--llm", help="folder or Hub id of the language model, if it has moved")
    parser.add_argument("--dtype", default="float32", help="precision of the language model")
    parser.add_argument("--max-wait-ms", type=float, default=2.0, help="see laser-peft serve")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    start(arguments)
    catalogue = pl.read_parquet(Path(arguments.recommender) / "catalogue.parquet")
    random = np.random.default_rng(arguments.seed)
    histories = draw_histories(catalogue["item_id"].to_list(), random)
    command = [sys.executable, "-m", "laser_peft", "serve", arguments.recommender]
    command += [f"--dtype={arguments.dtype}", f"--max-wait-ms={arguments.max_wait_ms}"]
    command += [f"--llm={arguments.llm}"] if arguments.llm else []
    with running(command) as (process, address):
        asyncio.run(under_load(address, histories, 4, min(arguments.seconds, 3)))  # warms up
        print(
            "| clients | answered | a second | p50 | p99 | refused besides | errors | memory |\n"
            "|---|---|---|---|---|---|---|---|"
        )
        for clients in arguments.clients:
            before, began = process.memory_info().rss, time.perf_counter()
            load = asyncio.run(under_load(address, histories, clients, arguments.seconds))
            seconds = time.perf_counter() - began
            print(row(clients, load, seconds, before, process.memory_info().rss), flush=True)
            for error in load.errors[:3]:
                print(f"error: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()

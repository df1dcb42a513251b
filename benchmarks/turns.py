"""Variants that are trained side by side, one step of each in turn.

The speed of a shared machine changes within minutes; steps that follow each other within seconds are comparable. Such a
benchmark is a module that has `steps(variant, turn, rounds, **size)` instead of `measure`: it calls `turn` before each
step, which returns once the other variants have taken theirs, and returns what each of `rounds` steps took. All
variants take as many steps. Their processes are forked from one that has imported the benchmark and done nothing else;
only one of them computes at a time. Linux only.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from multiprocessing.connection import wait
from typing import Any

from benchmarks.paired import Found, benchmark

Turn = Callable[[], None]
"""Lets the other variants compute, and waits until they have."""
Work = Callable[[str, Turn], list[Found]]


def side_by_side(work: Work, variants: Sequence[str]) -> Iterator[tuple[str, list[Found] | None]]:
    """Do each variant's work in a process of its own.

    Yields:
        a variant and None whenever it ends its turn, and in the end what its work returned.

    Raises:
        SystemExit: one failed; the others are stopped.
    """
    fork = multiprocessing.get_context("fork")
    gates = [fork.Semaphore(0) for _ in variants]
    waiting, processes = {}, []
    try:
        for number, variant in enumerate(variants):
            receiver, sender = fork.Pipe(duplex=False)
            processes.append(fork.Process(target=_work, args=(work, variant, number, gates, sender)))
            processes[-1].start()
            sender.close()
            waiting[receiver] = variant
        gates[0].release()
        while waiting:
            for receiver in wait(list(waiting)):
                variant = waiting[receiver]  # type: ignore[index]
                try:
                    found = receiver.recv()  # type: ignore[union-attr]
                except EOFError:
                    raise SystemExit(f"{variant} failed") from None
                if found is not None:
                    del waiting[receiver]  # type: ignore[arg-type]
                yield variant, found
    finally:
        for process in processes:
            if waiting:
                process.terminate()
            process.join()


def _work(work: Work, variant: str, number: int, gates: Sequence[Any], sender: Any) -> None:
    following = gates[(number + 1) % len(gates)]

    def turn() -> None:
        sender.send(None)
        following.release()
        gates[number].acquire()

    os.dup2(2, 1)  # what it and its own processes print is not a result
    with redirect_stdout(sys.stderr):
        gates[number].acquire()
        found = work(variant, turn)
    sender.send(found)
    following.release()


def main() -> None:
    """Print, as lines of JSON, each variant when it ends its turn, and in the end with what its steps took."""
    name, size, rounds, *variants = sys.argv[1:]
    module: Any = benchmark(name)

    def work(variant: str, turn: Turn) -> list[Found]:
        found: list[Found] = module.steps(variant, turn, int(rounds), **module.SIZES[size])
        return found

    for variant, found in side_by_side(work, variants):
        print(json.dumps([variant, found]), flush=True)


if __name__ == "__main__":
    main()

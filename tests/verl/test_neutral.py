from __future__ import annotations

from pathlib import Path

from tests.verl.queue import MemoryQueue
from tests.verl.world import World, config


def test_plain(tmp_path: Path, queue: MemoryQueue) -> None:
    world = World(config(tmp_path)).fit()
    print(world.rows())

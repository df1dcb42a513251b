"""A TransferQueue in memory: the functions of `transfer_queue` that verl and the adapter call."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import transfer_queue
from tensordict import NonTensorStack, TensorDict
from transfer_queue import KVBatchMeta


class MemoryQueue:
    """Tags and fields by partition and key; tensors come back jagged, as from the real one."""

    def __init__(self) -> None:
        self.tags: dict[str, dict[str, dict[str, Any]]] = {}
        self.fields: dict[str, dict[str, dict[str, Any]]] = {}
        self.writes: list[tuple[str, ...]] = []

    def install(self, monkeypatch: Any) -> None:
        monkeypatch.setattr(transfer_queue, "init", lambda *_: None)
        for name in ("kv_list", "kv_put", "kv_batch_put", "kv_batch_get", "kv_clear"):
            monkeypatch.setattr(transfer_queue, name, getattr(self, name))
        monkeypatch.setattr(transfer_queue, "async_kv_put", self.async_kv_put)
        monkeypatch.setattr(transfer_queue, "async_kv_batch_put", self.async_kv_batch_put)

    def kv_list(self, partition_id: str | None = None) -> dict[str, dict[str, Any]]:
        chosen = self.tags if partition_id is None else {partition_id: self.tags.get(partition_id, {})}
        return copy.deepcopy({name: keys for name, keys in chosen.items() if keys})

    def kv_put(self, key: str, partition_id: str, fields: Any = None, tag: dict[str, Any] | None = None) -> None:
        assert fields is None
        self.tags.setdefault(partition_id, {}).setdefault(key, {}).update(tag or {})

    def kv_batch_put(
        self,
        keys: Sequence[str],
        partition_id: str,
        fields: TensorDict | None = None,
        tags: Sequence[dict[str, Any]] | None = None,
    ) -> KVBatchMeta:
        assert isinstance(keys, list)
        for i, key in enumerate(keys):
            self.kv_put(key, partition_id, tag=copy.deepcopy(tags[i]) if tags else {})
        for name in [] if fields is None else fields.keys():
            column = fields.get(name)
            values = list(column.unbind(0)) if isinstance(column, torch.Tensor) else list(column)
            assert len(values) == len(keys)
            for key, value in zip(keys, values, strict=True):
                self.fields.setdefault(partition_id, {}).setdefault(key, {})[name] = getattr(value, "data", value)
        if fields is not None:
            self.writes.append(tuple(sorted(fields.keys())))
        return KVBatchMeta(
            keys=list(keys), tags=[self.tags[partition_id][key] for key in keys], partition_id=partition_id
        )

    def kv_batch_get(
        self, keys: Sequence[str], partition_id: str, select_fields: Sequence[str] | None = None
    ) -> TensorDict:
        assert keys, "the real queue has no batches of nothing"
        stored = [self.fields[partition_id][key] for key in keys]
        names = [name for name in stored[0] if select_fields is None or name in select_fields]
        columns: dict[str, Any] = {}
        for name in names:
            values = [row[name] for row in stored]
            if all(isinstance(value, torch.Tensor) for value in values):
                columns[name] = (
                    torch.stack(values)
                    if values[0].dim() == 0
                    else torch.nested.as_nested_tensor([v.clone() for v in values], layout=torch.jagged)
                )
            else:
                columns[name] = NonTensorStack(*copy.deepcopy(values))
        return TensorDict(columns, batch_size=[len(keys)])

    def kv_clear(self, keys: Sequence[str] | str, partition_id: str) -> None:
        for key in [keys] if isinstance(keys, str) else keys:
            del self.tags[partition_id][key]
            self.fields.get(partition_id, {}).pop(key, None)

    async def async_kv_put(self, *args: Any, **kwargs: Any) -> None:
        self.kv_put(*args, **kwargs)

    async def async_kv_batch_put(self, *args: Any, **kwargs: Any) -> KVBatchMeta:
        return self.kv_batch_put(*args, **kwargs)

"""A dictionary of n-grams as a prefix tree in one sorted table.

An n-gram stands in it with all its beginnings. The entry of an n-gram is `(parent + 1) * vocab_size + token`, where
`parent` is the place in the table of the n-gram without its last token, -1 for none. Sorted by their entries shorter
n-grams come before longer ones, and what continues the same n-gram stands together. A place is found by binary search
for each token of an n-gram in turn, exactly: nothing is hashed.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cliploom.errors import InputError
from cliploom.objectives.baseline import columns

ORDERS = 5  # the longest n-gram, as Li et al. 2017
NOWHERE = -1
_ROOT = 0
_VERSION = 1
_PENDING = 2**22  # entries that are counted at once


def walk(table: Tensor, tokens: Tensor, vocab_size: int, orders: int = ORDERS) -> tuple[list[Tensor], list[Tensor]]:
    """Where the n-grams of texts stand in a dictionary.

    Args:
        table: of the dictionary, int64 [K].
        tokens: integer [B, L].
        vocab_size: of the dictionary.
        orders: the longest n-gram looked for.

    Returns:
        For each n up to `orders`, of the n-gram that ends at each position: the node of the n-gram without its last
        token, and its own, int64 [B, L]. A node is a place in the table + 1, 0 for the n-gram of no tokens, or NOWHERE.
    """
    tokens = tokens.long()
    before, ends = [], [torch.full_like(tokens, _ROOT)]
    for order in range(1, orders + 1):
        shifted = ends[-1] if order == 1 else F.pad(ends[-1][:, :-1], (1, 0), value=NOWHERE)
        before.append(shifted)
        ends.append(_child(table, shifted, tokens, vocab_size))
    return before, ends[1:]


def _child(table: Tensor, node: Tensor, tokens: Tensor, vocab_size: int) -> Tensor:
    if not len(table):
        return torch.full_like(tokens, NOWHERE)
    wanted = node * vocab_size + tokens
    place = torch.searchsorted(table, wanted)
    found = (node != NOWHERE) & (table[place.clamp(max=len(table) - 1)] == wanted)
    return torch.where(found, place + 1, NOWHERE)


def count_ngrams(batches: Iterable[Tensor], vocab_size: int, most: int, min_count: int, orders: int = ORDERS) -> Tensor:
    """The dictionary of the n-grams that texts hold most often, start and end tokens among their tokens.

    Shorter ones first are counted, and longer ones only where all but the last token is in already (Agrawal and Srikant
    1994, "Fast Algorithms for Mining Association Rules"). That bounds the memory, and takes a pass for each length.

    Args:
        batches: of texts, integer [B, L]; gone through `orders` times.
        vocab_size: number of token ids.
        most: n-grams in the dictionary; of equally frequent ones the shorter, then those of lower ids.
        min_count: times that an n-gram must occur.
        orders: the longest n-gram.

    Returns:
        Its table, int64 [K].
    """
    table = counts = torch.zeros(0, dtype=torch.int64)
    for order in range(1, orders + 1):
        tally = _Tally()
        for tokens in batches:
            column, end = columns(tokens)
            before, _ = walk(table, tokens, vocab_size, order)
            counted = (column <= end) & (before[-1] != NOWHERE)
            tally.add((before[-1] * vocab_size + tokens)[counted])
        entries, times = tally.result()
        frequent = times >= min_count
        table, counts = torch.cat([table, entries[frequent]]), torch.cat([counts, times[frequent]])
        if not frequent.any():
            break
    return _keep(table, counts.argsort(descending=True, stable=True)[:most].sort().values, vocab_size)


def _keep(table: Tensor, places: Tensor, vocab_size: int) -> Tensor:
    """The table of what stands at ascending `places`, with which all its beginnings are among them."""
    node = torch.full((len(table) + 1,), NOWHERE)
    node[_ROOT] = _ROOT
    node[places + 1] = torch.arange(1, len(places) + 1)
    kept = table[places]
    return node[kept // vocab_size] * vocab_size + kept % vocab_size


class _Tally:
    """Counts of integers."""

    def __init__(self) -> None:
        self._values = self._counts = torch.zeros(0, dtype=torch.int64)
        self._pending: list[Tensor] = []
        self._waiting = 0

    def add(self, values: Tensor) -> None:
        """Count `values`, int64 [N]."""
        self._pending.append(values)
        self._waiting += len(values)
        if self._waiting > _PENDING:
            self._merge()

    def result(self) -> tuple[Tensor, Tensor]:
        """All values in ascending order, and how often each was added."""
        self._merge()
        return self._values, self._counts

    def _merge(self) -> None:
        values, counts = torch.cat([torch.zeros(0, dtype=torch.int64), *self._pending]).unique(return_counts=True)
        self._pending, self._waiting = [], 0
        self._values, where = torch.cat([self._values, values]).unique(return_inverse=True)
        counts = torch.cat([self._counts, counts])
        self._counts = torch.zeros_like(self._values).index_add(0, where, counts)


def check_table(table: Tensor, vocab_size: int) -> None:
    """Check that a tensor is the table of a dictionary.

    Raises:
        InputError: it is not; says why.
    """
    if table.dtype != torch.int64 or table.ndim != 1 or not len(table):
        raise InputError(f"it is no table of n-grams: {table.dtype} {list(table.shape)} instead of int64 [K]")
    node = table // vocab_size
    place = torch.arange(len(table), device=table.device)
    if int(table[0]) < 0 or not (table.diff() > 0).all() or not (node <= place).all():
        raise InputError("it is no table of n-grams: its entries are not in order")
    depth = torch.zeros(len(table) + 1, dtype=torch.int64, device=table.device)
    for _ in range(ORDERS + 1):
        depth[1:] = depth[node] + 1
    if int(depth.max()) > ORDERS:
        raise InputError(f"it is no table of n-grams: it has longer ones than {ORDERS} tokens")


def pack(table: Tensor, vocab_size: int) -> bytes:
    """The bytes of a dictionary's file (safetensors)."""
    numbers = {"format_version": torch.tensor(_VERSION), "vocab_size": torch.tensor(vocab_size)}
    return save({"ngrams": table.cpu(), **numbers})


def unpack(data: bytes, vocab_size: int, place: str) -> Tensor:
    """The table in the bytes of a dictionary's file, int64 [K].

    Args:
        data: the bytes.
        vocab_size: of the model that it is for.
        place: where they are from, for errors.

    Raises:
        InputError: they hold no dictionary, or one of another vocabulary.
    """
    again = "make it again with jobs/ngrams.py"
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise InputError(f"{place} is no dictionary of n-grams ({error}): {again}") from None
    numbers = [tensors[name] for name in ("format_version", "vocab_size") if name in tensors]
    if "ngrams" not in tensors or [number.numel() for number in numbers] != [1, 1]:
        raise InputError(f"{place} is no dictionary of n-grams: {again}")
    version, size = (int(number) for number in numbers)
    if version != _VERSION:
        raise InputError(f"{place} has format version {version}, this cliploom reads {_VERSION}: {again}")
    if size != vocab_size:
        raise InputError(f"{place} counts n-grams of {size} token ids, the model has {vocab_size}: {again}")
    try:
        check_table(tensors["ngrams"], vocab_size)
    except InputError as error:
        raise InputError(f"{place} is damaged: {error}") from None
    return tensors["ngrams"]

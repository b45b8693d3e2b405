"""What is kept of an applied operation until it can no longer be undone, and who clashes with whom.

Two operations that touched one key must keep their order if one has written it, or one has read a set that the other
joined or left. The index answers which of the applied ones clash with one that comes late. It lives in memory, about
1 kB for each operation. Threading: one thread.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator

import msgspec

from gdah_volume.rows import MEMBERS, READ, WRITTEN, Before, Key, Order


class Undo(msgspec.Struct, array_like=True):
    """What is kept of an applied operation: how to take it back, and what it touched (mode, table, id[, name])."""

    before: Before
    touched: list[tuple[int, str, str]]
    places: list[tuple[int, str, bytes]]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Undo)

Touch = tuple[Key, int]
_MODES = (READ, WRITTEN, MEMBERS)
_AGAINST = ((WRITTEN, READ | WRITTEN | MEMBERS), (READ, WRITTEN | MEMBERS), (MEMBERS, WRITTEN | READ))
"""(mode, the modes that clash with it)"""


def pack_undo(before: Before, touched: dict[Key, int]) -> bytes:
    plain: list[tuple[int, str, str]] = []
    places: list[tuple[int, str, bytes]] = []
    for key, mode in touched.items():
        if len(key) == 3:
            places.append((mode, key[1], key[2]))
        else:
            plain.append((mode, key[0], key[1]))
    return _encoder.encode(Undo(before, plain, places))


def unpack_undo(packed: bytes) -> Undo:
    return _decoder.decode(packed)


def touched_by(undo: Undo) -> Iterator[Touch]:
    for mode, table, name in undo.touched:
        yield (table, name), mode
    for mode, parent, raw in undo.places:
        yield ("at", parent, raw), mode


class TouchIndex:
    """Which operations touched a key, by mode, in the order of the fold. Keys by their hash: two that share one only
    clash needlessly."""

    def __init__(self) -> None:
        self._by_mode: dict[int, dict[int, list[Order]]] = {mode: {} for mode in _MODES}
        self.count = 0

    def add(self, order: Order, touched: Iterable[Touch]) -> None:
        self.count += 1
        for key, modes in touched:
            hashed = hash(key)
            for mode in _MODES:
                if modes & mode:
                    orders = self._by_mode[mode].get(hashed)
                    if orders is None:
                        self._by_mode[mode][hashed] = [order]
                    elif orders[-1] < order:
                        orders.append(order)
                    else:
                        insort(orders, order)

    def remove(self, order: Order, touched: Iterable[Touch]) -> None:
        self.count -= 1
        for key, modes in touched:
            hashed = hash(key)
            for mode in _MODES:
                if modes & mode:
                    orders = self._by_mode[mode][hashed]
                    del orders[bisect_left(orders, order)]
                    if not orders:
                        del self._by_mode[mode][hashed]

    def clashing(self, above: Order, touched: Iterable[Touch], below: Order | None = None) -> set[Order]:
        """Operations in (above, below) that must keep their order to one that touched these keys."""
        found: set[Order] = set()
        for _, orders in self._against(touched):
            if orders[-1] > above:
                end = len(orders) if below is None else bisect_left(orders, below)
                found.update(orders[bisect_right(orders, above) : end])
        return found

    def closing(self, above: Order, touched: Iterable[Touch], seen: dict[int, Order]) -> Iterator[Order]:
        """As `clashing`, for a search that asks for one operation after the other: `seen` remembers from where on the
        operations of each list were given already, so that each is given once in the whole search."""
        for which, orders in self._against(touched):
            before = seen.get(which)
            if orders[-1] > above and (before is None or above < before):
                seen[which] = above
                end = len(orders) if before is None else bisect_right(orders, before)
                yield from orders[bisect_right(orders, above) : end]

    def _against(self, touched: Iterable[Touch]) -> Iterator[tuple[int, list[Order]]]:
        """The lists of operations that clash with one that touched these keys, each with its identity."""
        for key, modes in touched:
            hashed = hash(key)
            for mode, others in _AGAINST:
                if modes & others:
                    orders = self._by_mode[mode].get(hashed)
                    if orders is not None:
                        yield id(orders), orders

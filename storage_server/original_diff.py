"""What changed between two states of a tree, in the words of the original system. Pure.

Its programs apply changes one after the other to a plain folder, so the order matters: moves (a folder takes along
what is in it), then what is gone, then what is new or different, parents first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

ChangeType = Literal["created", "modified", "deleted", "moved"]


@dataclass(frozen=True, slots=True)
class Item:
    """What is at a path: which node, and of a file which version."""

    node: str
    is_dir: bool
    version: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    type: ChangeType
    path: str
    item: Item
    dest: str = ""


Tree = Mapping[str, Item]


def differences(old: Tree, new: Tree) -> Iterator[Difference]:
    """Changes that make `new` of `old`, in an order in which they can be applied."""
    state = dict(old)
    yield from _moves(state, new)
    yield from _removals(state, new)
    yield from _additions(state, new)


def _below(path: str) -> str:
    return path + "/"


def _above(path: str) -> list[str]:
    """The folders that it lies in, outermost first."""
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _moves(state: dict[str, Item], new: Tree) -> Iterator[Difference]:
    went = _only_place({path: item for path, item in state.items() if path not in new})
    came = _only_place({path: item for path, item in new.items() if path not in state})
    found = [(came[node], went[node]) for node in went.keys() & came.keys()]
    for dest, path in sorted(found, key=lambda pair: (pair[0].count("/"), pair[0])):
        item = state.get(path)
        if item is None or dest in state or item.is_dir != new[dest].is_dir or dest.startswith(_below(path)):
            continue  # a folder above took it along, or the place is not free yet: told as gone and new
        parents = _above(dest)
        if any(above in state and not state[above].is_dir for above in parents):
            continue  # a file is still where the folder will be
        yield Difference("moved", path, item, dest)
        for above in parents:
            if above not in state and above in new:
                state[above] = new[above]
        for below in [each for each in state if each == path or each.startswith(_below(path))]:
            state[dest + below[len(path) :]] = state.pop(below)


def _only_place(items: dict[str, Item]) -> dict[str, str]:
    """Node to path, of those that have just one path among the items."""
    places: dict[str, list[str]] = {}
    for path, item in items.items():
        places.setdefault(item.node, []).append(path)
    return {node: paths[0] for node, paths in places.items() if len(paths) == 1}


def _removals(state: dict[str, Item], new: Tree) -> Iterator[Difference]:
    for path in sorted(state):
        item = state.get(path)
        if item is None:
            continue  # a folder above is gone already
        if path in new and new[path].is_dir == item.is_dir:
            continue
        yield Difference("deleted", path, item)
        for below in [each for each in state if each == path or each.startswith(_below(path))]:
            del state[below]


def _additions(state: dict[str, Item], new: Tree) -> Iterator[Difference]:
    for path in sorted(new, key=lambda each: (each.count("/"), each)):
        item, was = new[path], state.get(path)
        if was is None:
            yield Difference("created", path, item)
        elif not item.is_dir and (was.node, was.version) != (item.node, item.version):
            yield Difference("modified", path, item)

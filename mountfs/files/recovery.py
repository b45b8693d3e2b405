"""After a kill: journals of files that were open become files with unsaved edits again.

Two steps, because the dirty store forgets at its start what no operation names: `sealed_chunks` says before
that which chunks the journals still need; `restore` gives the files when the tree is there.

Threading: at the start, before any program is let in; the mirror follows its server already.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator

import msgspec

from gdah_volume.content import ChunkHash
from gdah_volume.errors import GdahError, NotFound
from gdah_volume.ids import OpId
from gdah_volume.operations import Operation, Write
from mountfs.files import records
from mountfs.files.handles import Handles
from mountfs.files.openfile import OpenFile, Parts
from mountfs.files.records import LeftoverView, Opening, Saving
from mountfs.files.sparse import SparseDraft

Logged = Callable[[OpId], Operation | None]
"""The operation that the mirror's log holds under an id."""

IsOwn = Callable[[OpId], bool]
"""Whether an operation was made by this client, in whichever run."""
CHAIN_MAX = 64
"""Versions that are looked back over."""

log = logging.getLogger("mountfs.files")


def sealed_chunks(found: Iterable[LeftoverView]) -> Iterator[ChunkHash]:
    """Names of chunks that lie in the dirty store and that only these journals name. With repeats."""
    for leftover in found:
        for record in leftover.records:
            if record.kind not in (records.CHUNK, records.STATE):
                continue
            payload = leftover.journal.read(record.at, record.length)
            sealed = (
                (records.unpack_sealed(payload),)
                if record.kind == records.CHUNK
                else records.unpack_state(payload).sealed
            )
            yield from (item.chunk.hash for item in sealed if item.chunk is not None)


def restore(parts: Parts, handles: Handles, logged: Logged, is_own: IsOwn) -> list[OpenFile]:
    """The files whose edits were not saved, in the table. Journals that hold nothing to save are finished."""
    found = []
    for leftover in parts.journals.leftovers():
        try:
            file = _restored(parts, handles, leftover, logged, is_own)
        except (GdahError, msgspec.MsgspecError) as error:
            log.error("a journal of unsaved edits can not be read and is left alone: %s", error)  # noqa: TRY400
            continue
        if file is not None:
            found.append(file)
    return found


def _restored(parts: Parts, handles: Handles, leftover: LeftoverView, logged: Logged, is_own: IsOwn) -> OpenFile | None:
    first, *rest = leftover.records
    journal = leftover.journal
    if first.kind != records.OPENING:
        journal.finish()
        return None
    opening = records.unpack_opening(journal.read(first.at, first.length))
    draft = SparseDraft(opening, journal, parts.journals, parts.cache, parts.log, leftover.mtime_ns)

    def is_logged(saving: Saving) -> bool:
        """An id alone proves nothing: of an operation that was announced and failed, the next one took it."""
        found = logged(saving.op)
        return isinstance(found, Write) and found.node == opening.node and found.content == saving.content

    if not draft.replay(rest, is_logged):
        draft.finish()
        return None
    saved = _saved_before(parts, opening, logged, is_own)
    if saved is not None:
        log.info("edits of an open file were saved as %s before a disk forgot that: node=%s", saved, opening.node)
        draft.discard()
        return None
    file = handles.new_file(opening.node)
    file.hold_edits(draft, opening.base, opening.content, leftover.mtime_ns)
    handles.adopt(file)
    log.info("edits of an open file were found node=%s bytes=%d", opening.node, draft.size)
    return file


def _saved_before(parts: Parts, opening: Opening, logged: Logged, is_own: IsOwn) -> OpId | None:
    """The operation by which these edits were saved, if one was. All programs of a mount edit a file together, so what
    this client has built on the same version is what the journal holds, or held: a disk without power forgets the end
    of a journal, and that one was deleted."""
    with parts.mirror.lock:
        try:
            version = parts.mirror.tree.node(opening.node).version
        except NotFound:
            return None
    for _ in range(CHAIN_MAX):
        write = None if version is None or version == opening.base else logged(OpId(version))
        if not isinstance(write, Write):
            return None
        if write.base == opening.base and write.node == opening.node and is_own(write.id):
            return write.id
        version = write.base
    return None

"""The rules of the replicated tree: what an operation does to the rows. Total: in the fold nothing fails.

Pure: reads and writes go through `Rows`, nothing else is known here, neither SQL nor stamps. The tree of a replica is
these rules applied to all its operations in the order of their stamps. What an operation says that its author had
seen decides what it may do: an edit beats a delete, a move beats a delete, both contents of two edits are kept,
nobody removes what he had not seen.

STRICT operations are a dry run of the same rules: `fold` returns the error that a strict author gets where the
outcome is not exactly what he asked for, and whoever called it drops the writes.
"""

from __future__ import annotations

from gdah_volume import errors
from gdah_volume.errors import FileSystemError
from gdah_volume.ids import LOST, ROOT, LinkId, NodeId, Version
from gdah_volume.operations import Create, Exchange, Link, Operation, Rename, Replaced, Rmdir, SetAttr, Unlink, Write
from gdah_volume.placing import Placing, union
from gdah_volume.rows import AttrsRow, FileRow, LinkRow, NodeRow, Rows, VersionRow, pack_content, unpack_content

LOST_MODE = 0o644
"""Of a file whose Create is unknown here."""
_SUID_SGID = 0o6000


def fold(op: Operation, rows: Rows) -> FileSystemError | None:
    """Apply `op`. Returns None iff it did exactly what its author asked for, else why not (for strict operations)."""
    rules = _Rules(op.id, op.time_ns, rows)
    match op:
        case Create():
            rules.create(op)
        case Write():
            rules.write(op)
        case SetAttr():
            rules.set_attr(op)
        case Link():
            rules.add_link(op)
        case Unlink():
            rules.drop(Replaced(op.link, op.rev, op.node, op.version, op.last, False, op.also))
        case Rmdir():
            rules.drop(Replaced(op.link, op.rev, op.node, None, True, True, op.also))
        case Rename():
            rules.rename(op)
        case Exchange():
            rules.exchange(op)
    return rules.refusal


def refuse_hidden(op: Operation) -> FileSystemError | None:
    """The root and the hidden folder can get other attributes (the root) and entries, and nothing else."""
    hidden: tuple[str, ...] = (ROOT, LOST)
    match op:
        case SetAttr():
            bad = op.node == LOST
        case Create():
            bad = False
        case Write() | Link():
            bad = op.node in hidden
        case Unlink() | Rmdir():
            bad = op.node in hidden or op.link in hidden
        case Rename():
            seen = op.replaces
            bad = op.node in hidden or op.link in hidden
            bad = bad or (seen is not None and (seen.node in hidden or seen.link in hidden))
        case Exchange():
            bad = any(each in hidden for each in (op.node, op.link, op.other.node, op.other.link))
    return errors.NotPermitted("the root of the volume and its hidden folder stay as they are") if bad else None


class _Rules(Placing):
    """One application of one operation."""

    def create(self, op: Create) -> None:
        rows, node, link = self.rows, NodeId(op.id), LinkId(op.id)
        if rows.node(node) is not None:
            self.refuse(errors.Exists, "the node exists")
            return
        parent = self.directory(op.parent)
        given = op.attrs
        rows.put_node(node, NodeRow(op.kind, op.target, given.rdev))
        rows.put_attrs(
            node,
            AttrsRow(given.mode, given.uid, given.gid, given.mtime_ns, given.atime_ns, op.time_ns, given.xattrs),
        )
        packed = pack_content(op.content) if op.kind == "file" else b""
        row = LinkRow(node, parent, op.name, op.name, Version(op.id), True, op.parent)
        occupant = rows.link_at(parent, op.name)
        if occupant is not None:
            other = rows.link(occupant)
            assert other is not None
            self.refuse(errors.Exists, "the name is taken")
            if self.is_same_thing(op, packed, other.node):
                self.merge(link, row, occupant, other)
                if op.kind == "file":
                    self.same(other.node, op.content.size, packed)
                return
            name = self.free_name(parent, op.name, op.name)
            row = LinkRow(node, parent, name, op.name, Version(op.id), True, op.parent)
        rows.put_link(link, row)
        if op.kind == "file":
            rows.put_file(node, FileRow(Version(op.id), op.content.size))
            rows.put_version(Version(op.id), VersionRow(node, packed))

    def is_same_thing(self, op: Create, packed: bytes, other: NodeId) -> bool:
        """Two directories are one; so are two files with the same bytes and two symlinks with the same target."""
        row = self.rows.node(other)
        if row is None or row.kind != op.kind:
            return False
        if op.kind == "file":
            return op.content.size > 0 and self.holds(other, op.content.size, packed)
        return op.kind == "dir" or (op.kind == "symlink" and row.target == op.target)

    def write(self, op: Write) -> None:
        rows = self.rows
        node = self.target(op.node, op.base)
        known, file = rows.node(node), rows.file(node)
        packed, size, version = pack_content(op.content), op.content.size, Version(op.id)
        if known is None:
            self.refuse(errors.NotFound, "the file is unknown")
            self.put_lost(node, op, packed)
            return
        if known.kind != "file" or file is None:
            self.refuse(errors.IsADirectory if known.kind == "dir" else errors.InvalidArgument, "not a regular file")
            return
        if file.version != op.base:
            if self.holds(node, size, packed):
                self.same(node, size, packed)
                self.after_write(node, op)
                return
            base = self.landed(op.base)
            if base is None or not self.holds(node, unpack_content(base.content).size, base.content):
                self.refuse(errors.StaleHandle, "somebody else has written the file meanwhile")
                self.fork(node, op, packed)
                return
        rows.put_file(node, FileRow(version, size))
        rows.put_version(version, VersionRow(node, packed))
        self.after_write(node, op)

    def after_write(self, node: NodeId, op: Write) -> None:
        attrs = self.rows.attrs(node)
        if attrs is not None:
            self.rows.put_attrs(node, self.written(attrs, op))
        if not self.alive(node):
            self.refuse(errors.StaleHandle, "somebody else has removed the file meanwhile")
            self.revive(self.rows.last(node))

    def written(self, attrs: AttrsRow, op: Write) -> AttrsRow:
        mode = attrs.mode & ~_SUID_SGID if op.clear_suid else attrs.mode
        return AttrsRow(mode, attrs.uid, attrs.gid, op.mtime_ns, attrs.atime_ns, op.time_ns, attrs.xattrs)

    def put_lost(self, node: NodeId, op: Write, packed: bytes) -> None:
        rows, version = self.rows, Version(op.id)
        rows.put_node(node, NodeRow("file"))
        rows.put_attrs(node, AttrsRow(LOST_MODE, 0, 0, op.mtime_ns, op.mtime_ns, op.time_ns))
        rows.put_file(node, FileRow(version, op.content.size))
        rows.put_version(version, VersionRow(node, packed))
        name = self.free_name(LOST, op.name, op.name)
        rows.put_link(LinkId(op.id), LinkRow(node, LOST, name, op.name, version, True, LOST))

    def fork(self, node: NodeId, op: Write, packed: bytes) -> None:
        """Both contents are kept: the later one in a file of its own, beside the first."""
        rows, fork, version = self.rows, NodeId(op.id), Version(op.id)
        if rows.node(fork) is not None:
            return
        beside = self.first_or_last(node)
        row = None if beside is None else rows.link(beside)
        attrs = rows.attrs(node)
        rows.put_node(fork, NodeRow("file", forked=True))
        if attrs is not None:
            rows.put_attrs(fork, self.written(attrs, op))
        rows.put_file(fork, FileRow(version, op.content.size))
        rows.put_version(version, VersionRow(fork, packed))
        parent, name, via = (LOST, op.name, LOST) if row is None else (row.parent, row.name, row.via)
        parent = self.directory(parent)
        free = self.free_name(parent, name, name)
        rows.put_link(LinkId(op.id), LinkRow(fork, parent, free, name, version, True, via))

    def set_attr(self, op: SetAttr) -> None:
        node = self.target(op.node, op.version)
        old = self.rows.attrs(node)
        if old is None:
            self.refuse(errors.NotFound, "the node is unknown")
            return
        if not self.alive(node):
            self.refuse(errors.NotFound, "the node has been removed")
        xattrs = old.xattrs
        if op.xattrs or op.xattrs_gone:
            xattrs = {name: value for name, value in xattrs.items() if name not in op.xattrs_gone} | op.xattrs
        self.rows.put_attrs(
            node,
            AttrsRow(
                old.mode if op.mode is None else op.mode,
                old.uid if op.uid is None else op.uid,
                old.gid if op.gid is None else op.gid,
                old.mtime_ns if op.mtime_ns is None else op.mtime_ns,
                old.atime_ns if op.atime_ns is None else op.atime_ns,
                op.time_ns,
                xattrs,
            ),
        )

    def add_link(self, op: Link) -> None:
        rows, link = self.rows, LinkId(op.id)
        node = self.target(op.node, op.version)
        known = rows.node(node)
        if known is None or known.kind == "dir":
            self.refuse(errors.NotFound if known is None else errors.NotPermitted, "no file to link to")
            return
        if not self.alive(node):
            self.refuse(errors.NotFound, "the file has been removed")
        parent = self.directory(op.parent)
        occupant = rows.link_at(parent, op.name)
        if occupant is not None:
            other = rows.link(occupant)
            if other is not None and other.node == node:
                self.refuse(errors.Exists, "the name is taken")
                rows.put_link(link, LinkRow(node, parent, op.name, op.name, Version(op.id), False, op.parent))
                return
        name = self.free_name(parent, op.name, op.name)
        rows.put_link(link, LinkRow(node, parent, name, op.name, Version(op.id), True, op.parent))

    def drop(self, seen: Replaced) -> LinkRow | None:
        """Remove a link if it is what the author saw; returns the place that became free. The order of checks
        matters."""
        rows = self.rows
        link: LinkId | None = seen.link
        row = rows.link(seen.link)
        if row is None:
            self.refuse(errors.NotFound, "the name is unknown")
            link = self.link_of_version(seen.version)
            row = None if link is None else rows.link(link)
        if link is None or row is None:
            return None
        if self.is_dir(row.node) != seen.is_dir:
            self.refuse(errors.NotADirectory if seen.is_dir else errors.IsADirectory, "another kind of thing")
            return None
        if row.merged:
            twin = self.seen_merge(row, seen.also)
            if twin is None:
                self.refuse(errors.NotAsSeen, "it has been merged with another")
                if not (seen.is_dir and rows.links_via(row.node)):
                    self.split(link, row, seen.version)
                return None
            link, row = twin, rows.link(twin)
            assert row is not None
        file = None if seen.is_dir else rows.file(row.node)
        other_version = file is not None and file.version != seen.version
        if other_version and seen.last:
            landed = self.landed(seen.version)
            if landed is not None and landed.node != row.node:
                self.refuse(errors.NotAsSeen, "its content is in another file now")
                return self.drop_branch(landed.node, seen.version)
        if not row.live:
            self.refuse(errors.NotFound, "it has been removed")
        elif row.rev != seen.rev:
            self.refuse(errors.NotAsSeen, "it has been moved")
        elif seen.is_dir and rows.has_entries(row.node):
            self.refuse(errors.NotEmpty, "the folder is not empty")
        elif (other_version or not (seen.last or seen.is_dir)) and len(rows.links_of(row.node)) < 2:
            self.refuse(errors.NotAsSeen, "it has been edited, or lost its other names")
        else:
            self.detach(link, row)
            return row
        return None

    def drop_branch(self, node: NodeId, version: Version | None) -> LinkRow | None:
        """The author's content went into another node (a fork of his): what he removes is that one's only name."""
        link = self.branch_link(node)
        file = self.rows.file(node)
        if link is None or file is None or file.version != version or self.rows.links_of(node) != (link,):
            return None
        row = self.rows.link(link)
        assert row is not None
        self.detach(link, row)
        return row

    def rename(self, op: Rename) -> None:
        rows = self.rows
        link = self.link_to_move(op)
        row = None if link is None else rows.link(link)
        if link is None or row is None:
            return
        node, is_dir = row.node, self.is_dir(row.node)
        if not row.live:
            self.refuse(errors.NotFound, "it has been removed")
        to, name, via = op.parent, op.name, op.parent
        if op.replaces is not None:
            if is_dir != op.replaces.is_dir:
                self.refuse(errors.NotADirectory if is_dir else errors.IsADirectory, "another kind of thing")
            place = self.drop(op.replaces)
            if place is not None:
                to, name, via = place.parent, place.name, place.via
        # Checked twice: bringing back the destination may merge it into a folder below the one that moves.
        if is_dir and self.inside(to, node):
            self.roll_back_cycle()
            return
        parent = self.directory(to)
        if is_dir and self.inside(parent, node):
            self.roll_back_cycle()
            return
        row = rows.link(link)
        assert row is not None
        occupant = rows.link_at(parent, name)
        rev = union(Version(op.id), op.id, *self.merged_parts(row.rev))
        if occupant == link:
            rows.put_link(link, LinkRow(node, row.parent, row.name, row.want, rev, True, row.via))
            return
        other = None if occupant is None else rows.link(occupant)
        if other is not None:
            full = self.is_dir(other.node) and rows.has_entries(other.node)
            self.refuse(errors.NotEmpty if full else errors.Exists, "the name is taken")
            if other.node == node:
                if row.live:
                    self.detach(link, row)
                return
        free = self.free_name(parent, name, name, link)
        rows.put_link(link, LinkRow(node, parent, free, name, rev, True, via))

    def link_to_move(self, op: Rename) -> LinkId | None:
        """The link that the author of a rename meant; a merge that he had not seen is taken back."""
        link: LinkId | None = op.link
        row = self.rows.link(op.link)
        if row is None:
            self.refuse(errors.NotFound, "the name is unknown")
            link = self.link_of_version(op.version)
            row = None if link is None else self.rows.link(link)
        if link is None or row is None:
            return None
        if row.merged:
            twin = self.seen_merge(row, op.also)
            if twin is None:
                self.refuse(errors.NotAsSeen, "it has been merged with another")
                together = self.resolve(row.node)
                self.split(link, row, op.version)
                self.take_along(row.node, together)
                return link
            link = twin
            row = self.rows.link(link)
            assert row is not None
        target = self.target(row.node, op.version)
        if target != row.node and not self.is_dir(row.node):
            self.refuse(errors.NotAsSeen, "its content is in another file now")
            return self.branch_link(target)
        return link

    def exchange(self, op: Exchange) -> None:
        """Two names change places if both are as the author saw them, else nothing: half of it would be neither what
        he wanted nor what was there."""
        other = op.other
        mine, theirs = self.as_seen(op.link, op.rev, op.version), self.as_seen(other.link, other.rev, other.version)
        if mine is None or theirs is None or mine.node == theirs.node:
            return
        # The folders above both are alive, as both are, and neither is below the other: so no circle can come of it.
        if self.would_hold_itself(mine, theirs) or self.would_hold_itself(theirs, mine):
            self.refuse(errors.InvalidArgument, "a folder cannot go into itself")
            return
        self.put_at(op.link, mine, theirs)
        self.put_at(other.link, theirs, mine)

    def as_seen(self, link: LinkId, rev: Version, version: Version | None) -> LinkRow | None:
        """The name, if it is where its author saw it and its file is the one that he saw."""
        row = self.rows.link(link)
        if row is None or not (row.live or row.merged):
            self.refuse(errors.NotFound, "the name has been removed")
        elif row.merged or row.rev != rev or self.target(row.node, version) != row.node:
            self.refuse(errors.NotAsSeen, "it has been moved, or its content is in another file now")
        else:
            return row
        return None

    def would_hold_itself(self, row: LinkRow, at: LinkRow) -> bool:
        return self.is_dir(row.node) and self.inside(at.parent, row.node)

    def put_at(self, link: LinkId, row: LinkRow, at: LinkRow) -> None:
        rev = union(Version(self.op), self.op, *self.merged_parts(row.rev))
        self.rows.put_link(link, LinkRow(row.node, at.parent, at.name, at.name, rev, True, at.via))

    def roll_back_cycle(self) -> None:
        self.rows.forget_writes()
        self.refuse(errors.InvalidArgument, "a folder cannot go into itself")

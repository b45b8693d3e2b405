"""Which extended attributes there are, and what setting one means. Pure; the kernel has checked who may.

`user.*`, `trusted.*` and `security.*` are kept with the node and replicated. The kernel lets only root set the last
two, and heeds the capabilities of a program (`security.capability`) only where set-user-id works, too: on a privileged
mount. POSIX ACLs are not supported: the mode bits are the whole truth.
"""

from __future__ import annotations

from collections.abc import Mapping

from gdah_volume.errors import Exists, InvalidArgument, NoData, NoSpace, NotSupported, OutOfRange
from gdah_volume.operations import XATTR_NAME_MAX_BYTES, XATTR_VALUE_MAX_BYTES, XATTRS_MAX_BYTES
from mountfs.ports import Caller

LIST_MAX_BYTES = 64 << 10
"""The kernel hands out no longer list of names: what is beyond it could never be seen again."""
XATTR_CREATE = 1
XATTR_REPLACE = 2
CAPABILITY = b"security.capability"
"""Goes with each edit and each change of owner."""
_LABEL = b"security.selinux"
"""`ls -l` asks for it, file by file, until it hears once that the file system has none. (Where SELinux is on, the
kernel answers by itself.)"""
_KEPT = (b"user.", b"trusted.", b"security.")
_ROOTS = b"trusted."


def check_set(name: bytes, value: bytes, flags: int, present: Mapping[bytes, bytes]) -> None:
    """Raises what setxattr(2) answers when `name` may not be set so."""
    _check_name(name)
    if flags & ~(XATTR_CREATE | XATTR_REPLACE) or flags == XATTR_CREATE | XATTR_REPLACE:
        raise InvalidArgument("flags of setxattr")
    if flags & XATTR_CREATE and name in present:
        raise Exists("the attribute is there already")
    if flags & XATTR_REPLACE and name not in present:
        raise NoData("there is no such attribute to replace")
    if len(value) > XATTR_VALUE_MAX_BYTES:
        raise OutOfRange(f"an attribute may have {XATTR_VALUE_MAX_BYTES >> 10} KiB at most")
    if sum(len(key) + 1 for key in {*present, name}) > LIST_MAX_BYTES:
        raise NoSpace(f"the names of a file's attributes may have {LIST_MAX_BYTES >> 10} KiB at most")
    others = sum(len(key) + len(kept) for key, kept in present.items() if key != name)
    if others + len(name) + len(value) > XATTRS_MAX_BYTES:
        raise NoSpace(f"all attributes of a file may have {XATTRS_MAX_BYTES >> 10} KiB at most")


def value_of(name: bytes, present: Mapping[bytes, bytes]) -> bytes:
    """Raises NoData or NotSupported."""
    _check_name(name)
    try:
        return present[name]
    except KeyError:
        if name == _LABEL:
            raise NotSupported("no labels are kept here") from None
        raise NoData("there is no such attribute") from None


def names_for(caller: Caller, present: Mapping[bytes, bytes]) -> list[bytes]:
    """Those that `caller` may know of: the kernel hides the values of trusted.* from all but root, not the names."""
    return sorted(name for name in present if caller.uid == 0 or not name.startswith(_ROOTS))


def check_remove(name: bytes, present: Mapping[bytes, bytes]) -> None:
    value_of(name, present)


def _check_name(name: bytes) -> None:
    if not name.startswith(_KEPT):
        raise NotSupported("only user.*, trusted.* and security.* attributes are kept")
    if len(name) > XATTR_NAME_MAX_BYTES:
        raise OutOfRange(f"the name of an attribute may have {XATTR_NAME_MAX_BYTES} bytes at most")
    if name in _KEPT or b"\0" in name:
        raise InvalidArgument("the name of the attribute is empty")

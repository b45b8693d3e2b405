"""What the mount and the storage server share: one replicated file tree and its log, a VOLUME.

This package knows no FUSE and no HTTP. `mountfs` and `storage_server` import it and never each other.
"""

__version__ = "0.1.0"

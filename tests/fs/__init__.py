"""The file system as an object, without FUSE and without a server; the same functions run on any folder."""

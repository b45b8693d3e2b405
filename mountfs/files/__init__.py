"""The file system as an object, without FUSE, and the files that programs have open. Core: no kernel, HTTP or SQL."""

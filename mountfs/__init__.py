"""The FUSE client: the kernel in front, storage servers behind, cache and change log between."""

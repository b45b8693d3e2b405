"""Conformance: what POSIX and ext4 answer to each call, on a plain folder and on a mount."""

"""Locks of files: by handle, who judges them (this device or a server), and what is said about it."""

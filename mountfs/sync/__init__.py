"""The tree on this device, the log that every change goes through first, and the server in use. Core."""

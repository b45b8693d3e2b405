"""A simulation of servers and clients around the real replica, its programs, and the checks of what must hold.

Deterministic by seed, one thread, no network and no kernel: every server and every client is a real
`gdah_volume.replica.Replica` on a real SQLite database; only clocks, messages and their loss are simulated.
"""

"""The fire drill: a scratch cluster of real servers and mounts, load, faults, and a checker that tries to prove a loss.

Looks at gdah from outside: it starts the commands, touches mounts and asks over HTTP, and imports nothing of them.
"""

"""Real processes, real mounts, real files: a cluster that a test can cut, stop, kill and start again."""

"""The edge to the kernel: libfuse's low-level interface, requests, answers, and what the kernel must forget."""

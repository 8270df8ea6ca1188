"""One step per file; ``do``, ``verify`` and ``undo`` side by side."""

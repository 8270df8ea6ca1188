"""One check per file. A module here is a check by being here: see ``registry``.

Each has ``NAME``, ``FOR`` (the kinds of operation it is made for), ``ABOUT`` (its line in
docs/preflight.md) and ``check``, a pure function of the Subject.
"""

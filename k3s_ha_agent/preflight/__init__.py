"""What must be true before anything is changed: one check per file, run on one frozen Subject.

``gather`` finds everything out, ``run`` asks every check, ``survey`` says what this server is now.
docs/preflight.md lists the checks.
"""

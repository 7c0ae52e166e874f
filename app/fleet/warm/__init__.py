"""Warm ClientApps: a message does not pay for a Python start, an import or a first training step.

``parent.py`` is the warm process. It imports nothing of this package, because an app may have a package of the same
name. ``executor.py`` is the SuperNode's side of it, and ``task.py`` handles one message.
"""

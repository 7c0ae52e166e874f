"""Warm ClientApps: a message pays neither for a Python start nor for an import or a first training step.

``parent.py`` is that process, which must import nothing of this package, whose name an app may share;
``executor.py`` is the SuperNode's side of it, ``task.py`` one message's.
"""

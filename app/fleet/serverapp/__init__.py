"""The process of a ServerApp: how it is started and watched, and what its grid tells about any app's clients.

``superexec.py`` starts it. ``program.py`` runs in it, and imports nothing of this package, because an app may have a package
of the same name.
"""

"""What is replaced in Flower. ``registry.py`` says how, ``tables.py`` lists all of it.

A module here declares its patch, and imports what it needs of Flower inside ``apply``, because the registry first looks
whether that is there.
"""

"""Patches of the SuperNode."""

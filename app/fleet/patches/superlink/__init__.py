"""Patches of the SuperLink."""

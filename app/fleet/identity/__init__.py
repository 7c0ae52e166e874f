"""Certificates, keys and members."""

"""A site's own rules: which apps its client runs."""

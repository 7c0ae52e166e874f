"""An app whose parts fail as asked."""

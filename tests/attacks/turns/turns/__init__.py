"""An app for the attacks of members."""

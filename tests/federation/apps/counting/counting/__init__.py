"""An app for the tests of what runs a ClientApp."""

"""An app for the tests of what an app may reach."""

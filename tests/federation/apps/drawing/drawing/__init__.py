"""An app for the tests of random numbers in warm clients."""

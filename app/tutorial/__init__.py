"""The tutorial's steps, on the code that is deployed."""

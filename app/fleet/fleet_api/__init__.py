"""The SuperLink's Fleet API as a server: who may connect, what a call may cost, and how a request is held."""

"""The same work in NVIDIA FLARE: real server and client processes over gRPC, clients that stay alive.

Runs in an environment of its own (`bench/environments.py`). `federation.py` starts the processes and
submits the job; the other modules run inside FLARE's server and clients.
"""

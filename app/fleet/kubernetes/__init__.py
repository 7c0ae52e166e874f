"""What Bouquet's pods do besides `bouquet`: keys into Secrets, the member list, enrolment, the run.

    python -m app.fleet.kubernetes keys       in the Job, the only pod that may ask the cluster's API
    python -m app.fleet.kubernetes node-key   in a client's init container
    python -m app.fleet.kubernetes enroll     beside the SuperLink, on its loopback
    python -m app.fleet.kubernetes train      beside the SuperLink, on its loopback
    python -m app.fleet.kubernetes result     by hand in `train`'s container: wait, exit as the run did

A client's private key never leaves its volume. Its public half travels as the termination message of
the init container that made it, which the kubelet writes into the pod's status: so the cluster itself
vouches for which pod a key came from, and a client needs neither a token nor a way to the API.
"""

"""What Bouquet's pods do beside other commands: keys into Secrets, the member list, enrolment, the run.

`app/cli/kubernetes.py` has the commands.

A client's private key never leaves its volume. The init container that makes it gives its public half as its
termination message, and the kubelet writes that into the pod's status. So the cluster itself vouches for the pod
that a key came from, and a client needs neither a token nor a way to the API.
"""

"""No client runs it: the tests speak the Fleet API themselves."""

from flwr.clientapp import ClientApp

app = ClientApp()

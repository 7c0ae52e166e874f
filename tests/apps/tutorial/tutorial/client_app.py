"""The ClientApp: a NumPyClient behind a client_fn."""

from flwr.client import Client, ClientApp, NumPyClient
from flwr.common import Context

from tutorial.task import Net, get_parameters, load_datasets, set_parameters, test, train


class FlowerClient(NumPyClient):
    """One client."""

    def __init__(self, net, trainloader, valloader):
        self.net, self.trainloader, self.valloader = net, trainloader, valloader

    def get_parameters(self, config):
        return get_parameters(self.net)

    def fit(self, parameters, config):
        set_parameters(self.net, parameters)
        train(self.net, self.trainloader, epochs=1)
        return get_parameters(self.net), len(self.trainloader.dataset), {}

    def evaluate(self, parameters, config):
        set_parameters(self.net, parameters)
        loss, accuracy = test(self.net, self.valloader)
        return float(loss), len(self.valloader.dataset), {"accuracy": float(accuracy)}


def client_fn(context: Context) -> Client:
    """Make the client of this node's partition."""
    loaders = load_datasets(context.node_config["partition-id"], context.node_config["num-partitions"])
    return FlowerClient(Net(), *loaders).to_client()


app = ClientApp(client_fn=client_fn)

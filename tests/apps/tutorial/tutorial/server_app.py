"""The ServerApp: a server_fn that configures FedAvg."""

from flwr.common import Context, Metrics
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg


def weighted_average(metrics: list[tuple[int, Metrics]]) -> Metrics:
    """The clients' accuracy, weighted by their examples."""
    examples = [number for number, _ in metrics]
    return {"accuracy": sum(number * each["accuracy"] for number, each in metrics) / sum(examples)}


def server_fn(context: Context) -> ServerAppComponents:
    """All clients train, half of them evaluate."""
    clients = int(context.run_config["min-clients"])
    strategy = FedAvg(
        fraction_fit=1.0,
        fraction_evaluate=0.5,
        min_fit_clients=clients,
        min_evaluate_clients=max(1, clients // 2),
        min_available_clients=clients,
        evaluate_metrics_aggregation_fn=weighted_average,
    )
    rounds = int(context.run_config["num-server-rounds"])
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=rounds))


app = ServerApp(server_fn=server_fn)

"""Averages the adapters, and keeps them."""

import torch
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from peft import get_peft_model_state_dict

from text_lora.task import load_model

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    model = load_model(context.run_config)
    adapters = get_peft_model_state_dict(model)
    travels, whole = (sum(each.numel() for each in of) for of in (adapters.values(), model.parameters()))
    print(f"{travels} of {whole} parameters travel")
    result = FedAvg().start(
        grid=grid,
        initial_arrays=ArrayRecord(adapters),
        num_rounds=int(context.run_config["num-server-rounds"]),
    )
    for number, metrics in result.evaluate_metrics_clientapp.items():
        print(f"round {number}: accuracy {metrics['eval_accuracy']:.4f}, loss {metrics['eval_loss']:.6f}")
    torch.save(result.arrays.to_torch_state_dict(), "adapters.pt")

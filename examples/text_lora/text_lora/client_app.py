"""Trains the adapters on the reviews of one client."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from peft import get_peft_model_state_dict, set_peft_model_state_dict

from text_lora.task import evaluate, load_data, load_model, load_tokenizer, train

app = ClientApp()


def _load(message: Message, context: Context):
    model = load_model(context.run_config)
    set_peft_model_state_dict(model, message.content["arrays"].to_torch_state_dict())
    tokenizer = load_tokenizer(str(context.run_config["checkpoint"]))
    return model, tokenizer, load_data(int(context.node_config["partition-id"]))


@app.train()
def train_adapters(message: Message, context: Context) -> Message:
    """Train, and send the adapters."""
    model, tokenizer, (reviews, _) = _load(message, context)
    epochs, rate = int(context.run_config["local-epochs"]), float(context.run_config["learning-rate"])
    loss = train(model, reviews, tokenizer, epochs, rate)
    metrics = MetricRecord({"num-examples": len(reviews), "train_loss": loss})
    content = RecordDict({"arrays": ArrayRecord(get_peft_model_state_dict(model)), "metrics": metrics})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate_adapters(message: Message, context: Context) -> Message:
    """Loss and accuracy on the reviews that were held out."""
    model, tokenizer, (_, reviews) = _load(message, context)
    loss, accuracy = evaluate(model, reviews, tokenizer)
    metrics = MetricRecord({"num-examples": len(reviews), "eval_loss": loss, "eval_accuracy": accuracy})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)

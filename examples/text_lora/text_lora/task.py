"""Model and data: reviews that are made here from a few words."""

import random
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

THINGS = ["food", "service", "room", "view", "staff", "pool", "bed", "music", "coffee", "price"]
GOOD = ["great", "lovely", "clean", "friendly", "perfect", "tasty", "fresh", "quiet"]
BAD = ["awful", "dirty", "rude", "cold", "stale", "noisy", "broken", "late"]
FILLING = ["the", "was", "and", "really", "quite", "very", "a", "bit", "we", "found", "it"]
LENGTH, BATCH = 12, 16


def load_data(partition_id: int) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Reviews of one client, each with 1 where it is a good one: to train on, and to evaluate on."""
    generator = random.Random(partition_id)
    reviews = []
    for number in range(250):
        good = number % 2
        words = [generator.choice(THINGS), generator.choice(GOOD if good else BAD)]
        words += generator.choices(FILLING + THINGS, k=LENGTH - 4)
        generator.shuffle(words)
        reviews.append((" ".join(words), good))
    return reviews[:200], reviews[200:]


def load_tokenizer(checkpoint: str) -> Any:
    """The checkpoint's tokenizer; without one, a number for each word."""
    if checkpoint:
        return AutoTokenizer.from_pretrained(checkpoint)
    words = ["[PAD]", "[UNK]", *dict.fromkeys(THINGS + GOOD + BAD + FILLING)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def load_model(run_config: Mapping[str, Any]) -> torch.nn.Module:
    """The frozen model with its adapters, the same on all sides: a random start has a fixed seed."""
    checkpoint = str(run_config["checkpoint"])
    torch.manual_seed(0)
    if checkpoint:
        base = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=2)
    else:
        tiny = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
        base = BertForSequenceClassification(BertConfig(vocab_size=64, num_labels=2, **tiny))
    rank = int(run_config["rank"])
    adapters = LoraConfig(task_type="SEQ_CLS", r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    return get_peft_model(base, adapters)


def batches(reviews: list[tuple[str, int]], tokenizer: Any) -> Iterator[dict[str, torch.Tensor]]:
    """What the model takes, batch by batch."""
    for start in range(0, len(reviews), BATCH):
        texts, labels = zip(*reviews[start : start + BATCH], strict=True)
        tokens = tokenizer(
            list(texts), padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
        )
        yield {
            "input_ids": tokens["input_ids"],
            "attention_mask": tokens["attention_mask"],
            "labels": torch.tensor(labels),
        }


def train(
    model: torch.nn.Module, reviews: list[tuple[str, int]], tokenizer: Any, epochs: int, rate: float
) -> float:
    """Train what is not frozen; the mean loss of the last epoch."""
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=rate)
    model.train()
    losses: list[float] = []
    for _ in range(epochs):
        losses = []
        for batch in batches(reviews, tokenizer):
            optimizer.zero_grad()
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.no_grad()
def evaluate(model: torch.nn.Module, reviews: list[tuple[str, int]], tokenizer: Any) -> tuple[float, float]:
    """Mean loss and accuracy."""
    model.eval()
    loss, correct = 0.0, 0
    for batch in batches(reviews, tokenizer):
        output = model(**batch)
        loss += output.loss.item() * len(batch["labels"])
        correct += int((output.logits.argmax(1) == batch["labels"]).sum())
    return loss / len(reviews), correct / len(reviews)

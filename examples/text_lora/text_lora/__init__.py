"""A transformer that is fine-tuned with LoRA."""

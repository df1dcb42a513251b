"""The policy: loading, scoring tokens, LoRA adapters, and gathering sharded tensors."""

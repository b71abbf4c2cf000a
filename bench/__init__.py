"""A scaling benchmark for data-parallel training of GPT-style models with torch DDP and DeepSpeed ZeRO."""

__version__ = "0.1.0"

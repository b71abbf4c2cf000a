"""One rank of a real ZeRO-3 run, for test_zero3.py: builds under zero.Init, trains, and writes what it saw.

Usage: torchrun ... zero3_rank.py OUT.json
"""

import json
import sys
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist

from models.build import build_model

GPT = {"num_layers": 3, "num_heads": 2, "hidden_size": 64, "vocab_size": 512, "max_seq_len": 64}
PACED = {"num_layers": 2, "hidden_size": 64, "vocab_size": 512, "forward_s": 1e-3, "backward_s": 1e-3}
CASES: dict[str, tuple[str, dict[str, Any], torch.dtype, bool]] = {
    "gpt": ("gpt-nano", GPT, torch.float32, False),
    "gpt checkpointed": ("gpt-nano", GPT, torch.float32, True),
    "paced": ("paced-nano", PACED, torch.float32, False),
    "seq2seq": ("seq2seq-nano", {**GPT, "vocab_size": 512}, torch.float32, False),
    "gpt bf16": ("gpt-nano", GPT, torch.bfloat16, False),
}
MICRO_STEPS, SEQ_LEN = 2, 32


def config(dtype: torch.dtype) -> dict[str, Any]:
    """ZeRO-3 with nothing kept resident, so that every parameter is partitioned and gathered again at each use."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": MICRO_STEPS,
        "gradient_clipping": 0.0,  # DeepSpeed clips at 1.0 by default
        "zero_optimization": {
            "stage": 3,
            "stage3_param_persistence_threshold": 0,
            "stage3_max_live_parameters": 1000,
            "stage3_max_reuse_distance": 1000,
            "stage3_prefetch_bucket_size": 1000,
            "reduce_bucket_size": 100_000,
        },
        "bf16": {"enabled": dtype == torch.bfloat16},
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "weight_decay": 0.0, "torch_adam": True}},
    }


def run(name: str, options: dict[str, Any], dtype: torch.dtype, checkpointing: bool) -> dict[str, Any]:
    """Builds the model plain and under zero.Init, compares their weights, and trains both on the same global batch."""
    build = {"seq_len": SEQ_LEN, "seed": 7, "device": "cpu", "dtype": dtype}
    plain = build_model(name, options, **build)
    with deepspeed.zero.Init(config_dict_or_path=config(dtype)):
        sharded = build_model(name, options, **build, activation_checkpointing=checkpointing)
    num_partitioned = sum(parameter.numel() == 0 for parameter in sharded.parameters())
    different = []
    for (label, expected), found in zip(plain.named_parameters(), sharded.parameters(), strict=True):
        with deepspeed.zero.GatheredParameters([found]):
            if not torch.equal(expected, found):
                different.append(label)
    engine, *_ = deepspeed.initialize(model=sharded, model_parameters=sharded.parameters(), config=config(dtype))
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.0)
    rank, world_size = dist.get_rank(), dist.get_world_size()
    generator = torch.Generator().manual_seed(1)
    sequences = torch.randint(512, (MICRO_STEPS * world_size, SEQ_LEN + 1), generator=generator)
    losses, expected_losses = [], []
    for _ in range(4):
        total = torch.zeros(())
        for row in range(rank * MICRO_STEPS, (rank + 1) * MICRO_STEPS):
            loss = engine(sequences[row : row + 1, :-1], sequences[row : row + 1, 1:])
            engine.backward(loss)
            engine.step()
            total += loss.detach() / (MICRO_STEPS * world_size)
        dist.all_reduce(total)
        losses.append(total.item())
        optimizer.zero_grad()
        expected_loss = plain(sequences[:, :-1], sequences[:, 1:])
        expected_loss.backward()
        optimizer.step()
        expected_losses.append(expected_loss.item())
    engine.destroy()
    return {
        "num_parameters": len(list(plain.parameters())),
        "num_partitioned": num_partitioned,
        "different": different,
        "num_params_agree": sharded.num_params() == plain.num_params(),
        "losses": losses,
        "expected_losses": expected_losses,
    }


def main() -> None:
    torch.set_num_threads(1)
    deepspeed.init_distributed("gloo")
    results = {label: run(*case) for label, case in CASES.items()}
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(results), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

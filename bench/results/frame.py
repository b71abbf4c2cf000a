"""From records to a table: one row a launch, from which every other table is derived."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from bench.results.record import Record, Replicas

FRAME_COLUMNS = [
    *("suite", "sequence", "launch_id", "kind", "twin", "cell_id", "model", "model_options", "strategy", "scaling"),
    *("contender", "strategy_options", "world_size", "grad_accum_steps", "micro_batch_size", "global_batch_size"),
    *("seq_len", "tokens_per_step"),
    *("precision", "profile", "corpus", "activation_checkpointing", "learning_rate", "weight_decay"),
    *(
        "deepspeed_config",
        "seed",
        "steps",
        "max_warmup_steps",
        "threads_per_rank",
        "placement",
        "paced",
        "oversubscribed",
    ),
    *("outcome", "reason", "evidence", "started_at"),
    *("wall_s", "window_s", "outside_s", "start_s", "import_s", "build_s", "warmup_s", "checks_s", "step_time_s"),
    *("step_time_min_s", "step_time_max_s", "num_steps", "num_warmup_steps", "warmup_settled", "num_skipped_steps"),
    *("num_params", "flops_per_token", "peak_memory_bytes", "base_memory_bytes", "replica_distance", "first_loss"),
    *("final_loss", "losses", "device_type", "device_name", "num_cores", "num_nodes", "num_ranks", "num_timed_steps"),
    *("optimizer", "skipped_warmup_steps", "data", "partition", "slow_rank_frac", "corpus_sha256", "batch_tokens"),
    "partition_cost",
    *("padding_frac", "input_frac", "training", "masks", "num_workers", "equal_work", "drifting", "lost", "max_steps"),
]


def to_frame(records: list[Record]) -> pd.DataFrame:
    """One row a launch: the cell's fields, the outcome, and the reductions over ranks that every table starts from.

    Columns beside the cell's own: suite, sequence, launch_id, kind, twin, cell_id, global_batch_size, tokens_per_step, paced,
    outcome, reason, evidence (one string), started_at, wall_s, step_time_s (median over the window's steps of the slowest rank's
    seconds), step_time_min_s, step_time_max_s, num_steps, num_warmup_steps, warmup_settled, num_skipped_steps,
    num_params, flops_per_token, peak_memory_bytes and base_memory_bytes (largest over ranks), replica_distance,
    first_loss, final_loss (mean over ranks), losses (list, mean over ranks), window_s, outside_s (seconds of the
    launch outside the window), start_s, import_s, build_s, warmup_s, checks_s, threads_per_rank, num_cores,
    device_type, device_name, num_nodes, oversubscribed, num_ranks (ranks whose record is there), num_timed_steps (steps
    that every one of them timed), optimizer (class and settings of what stepped, and gradient clipping if there is any),
    skipped_warmup_steps (list of the numbers of the warm-up steps that the loss scaler of any rank skipped), corpus_sha256,
    batch_tokens (list, tokens of each step's global batch where lengths differ), padding_frac (of the positions that went
    through the model in the window), input_frac (largest over ranks of the window's seconds spent waiting for a batch).
    tokens_per_step is the median over the window where lengths differ. contender is the strategy with its options and its
    own DeepSpeed file, strategy_options these options alone, in words. num_workers is world_size without servers, equal_work and
    drifting are the cell's, lost the workers that were gone before the end, in words. step_time_s is that of
    `Record.slowest_step_times_s`. steps are those that training took to its goal where it had one. What was not measured is
    missing (None or NaN).
    """
    rows: list[dict[str, Any]] = []
    for record in records:
        cell, work, environment = record.cell, record.work, record.environment
        row: dict[str, Any] = cell.model_dump(exclude={"model_options", "strategy_options", "mixture"})
        row["model_options"] = cell.work["model_options"]
        row["strategy_options"] = cell.strategy_words
        row["contender"] = cell.contender
        row["data"] = cell.data
        if record.training is not None:
            row["steps"] = record.training.num_steps
        row.update(num_workers=cell.num_workers, equal_work=cell.equal_work, drifting=cell.drifting)
        row["training"] = cell.training
        row["masks"] = cell.masks
        row.update(
            suite=record.suite,
            sequence=record.sequence,
            launch_id=record.launch_id,
            kind=record.kind,
            twin=record.twin,
            cell_id=cell.id,
            global_batch_size=cell.global_batch_size,
            tokens_per_step=record.tokens_per_step(),
            corpus_sha256=record.corpus.sha256 if record.corpus is not None else None,
            paced=cell.paced,
            outcome=record.outcome,
            reason=record.reason,
            evidence="\n".join(record.evidence),
            started_at=record.started_at,
            wall_s=record.wall_s,
        )
        if environment is not None:
            row.update(
                num_cores=environment.num_cores,
                device_type=environment.device_type,
                device_name=environment.device_names[0] if environment.device_names else None,
                num_nodes=environment.num_nodes,
            )
        row["optimizer"] = _optimizer(record)
        seen = [rank.witnessed.skipped for rank in record.ranks if rank.witnessed is not None]
        row["skipped_warmup_steps"] = [step for step, ranks in enumerate(zip(*seen, strict=False)) if any(ranks)]
        row["num_ranks"] = len({rank.rank for rank in record.ranks})
        lost = record.synchronisation.lost if record.synchronisation is not None else []
        row["lost"] = ", ".join(f"rank {one.rank} after {one.num_updates} updates" for one in lost)
        # Ranks of unequal length belong to no valid launch: num_timed_steps, the shortest, lets the gates say so.
        timed = record.num_timed_steps()
        trained = min((len(rank.losses) for rank in record.workers), default=0)
        row["num_timed_steps"] = timed
        if timed and trained and work is not None:
            step_times_s = np.array(record.slowest_step_times_s())
            losses = record.mean_losses()
            threads = max(rank.threads for rank in record.ranks)
            row.update(
                step_time_s=float(np.median(step_times_s)),
                step_time_min_s=float(step_times_s.min()),
                step_time_max_s=float(step_times_s.max()),
                peak_memory_bytes=max(rank.peak_memory_bytes for rank in record.ranks),
                base_memory_bytes=max(rank.base_memory_bytes for rank in record.ranks),
                first_loss=losses[0],
                final_loss=losses[-1],
                losses=losses,
                threads_per_rank=threads,
                num_steps=work.num_steps,
                num_warmup_steps=work.num_warmup_steps,
                warmup_settled=work.warmup_settled,
                num_skipped_steps=work.num_skipped_steps,
                num_params=work.num_params,
                flops_per_token=work.flops_per_token,
                batch_tokens=work.batch_tokens,
                padding_frac=padding_frac(record),
                input_frac=input_frac(record),
                # Missing means that nothing is replicated; a distance that is not a number must not look the same.
                replica_distance=_largest_distance(work.replicas),
            )
            phases = record.ranks[0].phases
            row.update(phases.model_dump())
            if record.wall_s is not None:
                row["outside_s"] = record.wall_s - phases.window_s
            if environment is not None and environment.device_type == "cpu":
                ranks_here = -(-cell.world_size // environment.num_nodes)
                row["oversubscribed"] = not cell.paced and ranks_here * threads > environment.num_cores
            else:
                row["oversubscribed"] = False
        rows.append(row)
    return pd.DataFrame(rows).reindex(columns=FRAME_COLUMNS)


def padding_frac(record: Record) -> float | None:
    """Padding over all positions that went through the model in the window; None in records that don't say."""
    padding = sum(sum(rank.padding[record.first_step(rank) :]) for rank in record.workers)
    tokens = sum(sum(rank.tokens[record.first_step(rank) :]) for rank in record.workers)
    return padding / (padding + tokens) if tokens else None


def input_frac(record: Record) -> float | None:
    """The part of the window in which the rank that did so longest waited for its batches; None in records that don't say."""
    if not record.workers or not all(rank.input_times_s for rank in record.workers):
        return None
    return max(sum(rank.input_times_s) / sum(rank.step_times_s) for rank in record.workers)


def _largest_distance(replicas: Replicas | None) -> float | None:
    if replicas is None:
        return None
    return math.inf if math.isnan(replicas.largest) else replicas.largest


def _optimizer(record: Record) -> str | None:
    """What stepped on the ranks, as they saw it; None where none did."""
    seen = [rank.witnessed.optimizers for rank in record.ranks if rank.witnessed is not None]
    texts = sorted({str(optimizer) for optimizers in seen for optimizer in optimizers})
    config = record.deepspeed_config or {"gradient_clipping": record.cell.max_grad_norm}
    clipping = config.get("gradient_clipping", "DeepSpeed's default")
    return None if not texts else ", ".join(texts) + (f", gradient clipping {clipping}" if clipping != 0 else "")

"""What theory says that a rank keeps in memory, beside the peak that was measured."""

from __future__ import annotations

from typing import Any

import pandas as pd

from bench.errors import ProjectionError, SuiteError
from bench.plan.cell import Cell
from bench.plan.strategies import STRATEGIES
from bench.results.record import Record
from bench.theory.buckets import exchange
from bench.theory.delayed_traffic import DELAYED
from bench.theory.memory import Memory, memory
from bench.theory.transformer import preset_shape
from bench.theory.zero_settings import DTYPE_BYTES

COLUMNS = [
    *("model", "contender", "strategy", "scaling", "setting", "world_size", "grad_accum_steps", "micro_batch_size"),
    *("precision", "device_type", "outcome", "cell_id", "predicted_bytes", "measured_bytes", "error_frac", "claimed"),
    *("unknown_because", "parameter_bytes", "gradient_bytes", "optimizer_bytes", "bucket_bytes", "activation_bytes"),
    "base_memory_bytes",
]
_PARTS = {
    "parameter_bytes": "parameters",
    "gradient_bytes": "gradients",
    "optimizer_bytes": "optimizer",
    "bucket_bytes": "buckets",
    "activation_bytes": "activations",
}
# What these keep beside the model: quantized copies, P and Q and errors, buffers of packed signs, a copy on each node.
_UNKNOWN = ("zeropp", "ddp_powersgd", "onebit_adam", "mics")
_FLOATS = ["predicted_bytes", "measured_bytes", "error_frac", *_PARTS, "base_memory_bytes"]


def memory_table(records: list[Record], scaling: pd.DataFrame) -> pd.DataFrame:
    """Predicted and measured peak memory of the fullest rank: one row a cell that was launched, columns COLUMNS.

    `scaling`: rows of `scaling_table`. predicted_bytes = base_memory_bytes + parameters + gradients + optimizer + buckets +
    activations (bench.theory.memory); error_frac = predicted / measured - 1. On GPUs both are what torch's allocator counts
    and the prediction is a claim (`claimed`). On CPUs the measured figure is the resident set of the process: what Python and
    libraries load after `base_memory_bytes` was read, and what the allocator keeps, is in it and in no theory, so nothing is
    claimed. Where the theory has no figure `unknown_because` says why; a cell without a measured peak keeps its prediction.
    """
    launches: dict[str, list[Record]] = {}
    for record in records:
        launches.setdefault(record.cell.id, []).append(record)
    shown = scaling[scaling["outcome"] != "skipped"]
    rows = [_row({str(name): value for name, value in row.items()}, launches) for row in shown.to_dict("records")]
    return pd.DataFrame(rows, columns=COLUMNS).astype(
        {**dict.fromkeys(_FLOATS, float), "unknown_because": object, "claimed": bool}
    )


def _row(known: dict[str, Any], launches: dict[str, list[Record]]) -> dict[str, Any]:
    tried = launches[str(known["cell_id"])]
    places = [record.environment for record in tried if record.environment is not None]
    row = {**known, "measured_bytes": known["peak_memory_bytes"], "claimed": False, "unknown_because": None}
    if not places:
        return {**row, "unknown_because": "no launch of this cell lived to say what device it ran on"}
    cell, on_gpu = tried[0].cell, places[0].device_type == "cuda"
    if cell.deepspeed_config is not None:
        return {
            **row,
            "unknown_because": "the cell's own DeepSpeed file may offload, or keep other buckets than shipped ones",
        }
    if cell.strategy in (*DELAYED, *_UNKNOWN) or cell.num_servers:
        return {**row, "unknown_because": f"the theory of memory does not cover {cell.strategy} in a measured cell"}
    try:
        kept = _kept(cell, places[0].backend, on_gpu)
    except (SuiteError, ProjectionError):
        return {**row, "unknown_because": f"the theory does not know the activations of {cell.model}"}
    # A launch that ended early kept no base; on GPUs there is next to none.
    base = 0.0 if on_gpu and pd.isna(known["base_memory_bytes"]) else known["base_memory_bytes"]
    predicted = base + kept.tensors
    return {
        **row,
        **{name: getattr(kept, part) for name, part in _PARTS.items()},
        "predicted_bytes": predicted,
        "error_frac": predicted / known["peak_memory_bytes"] - 1,
        "claimed": on_gpu,
        "unknown_because": "what the process held before the model was built is not known" if pd.isna(base) else None,
    }


def _kept(cell: Cell, backend: str, on_gpu: bool) -> Memory:
    """Raises SuiteError or ProjectionError for a model that is no preset, or of a kind without a theory."""
    shape = preset_shape(cell.model, cell.model_options)
    item = DTYPE_BYTES[cell.precision]
    exchanged = exchange(
        cell.strategy,
        num_params=shape.num_params,
        gradient_bytes=item,
        parameter_bytes=item,
        grad_accum_steps=cell.grad_accum_steps,
        world_size=cell.world_size,
        backend=backend,
        profile=cell.profile,
        last_frac=shape.embedding_params / shape.num_params,
        num_layers=shape.num_layers,
    )
    activations = shape.activation_bytes(
        cell.micro_batch_size, cell.seq_len, cell.precision, cell.activation_checkpointing
    )
    return memory(
        cell.strategy,
        num_params=shape.num_params,
        precision=cell.precision,
        world_size=cell.world_size,
        exchange=exchanged,
        activation_bytes=activations,
        reserved_bytes=0.0,
        num_layers=shape.num_layers,
        state_bytes=cell.optimizer_state_bytes,
        # On CPU a rank's own memory and its host's are one.
        offload=STRATEGIES[cell.strategy].offload if on_gpu else "none",
        whole_gradients=cell.strategy == "fsdp"
        and cell.grad_accum_steps > 1
        and not cell.options["sync_every_micro_batch"],
    )

"""Writes checkpoints that are whole or not there, and makes a model of one again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from bench.errors import CheckpointError
from bench.results.checkpoint import (
    CONFIG_NAME,
    NUM_KEPT,
    STATE_NAME,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
    CheckpointConfig,
    checkpoint_path,
    checkpoints,
    read_checkpoint,
)
from bench.worker.data.tokenizer import Tokenizer
from bench.worker.strategies.base import Strategy, build_cells_model
from models.build import LanguageModel


def write_checkpoint(
    folder: Path,
    config: CheckpointConfig,
    strategy: Strategy,
    model: torch.nn.Module,
    tokenizer: Tokenizer | None,
    control: dist.ProcessGroup,
) -> None:
    """Write the checkpoint of `config.step` into `folder`; a collective. Of older ones the newest is left.

    It is written under another name, synced to the disk and renamed, so that a launch that is killed at any instant leaves the
    whole ones before it, and nothing that looks like one and isn't.
    """
    temporary = folder / f".{checkpoint_path(folder, config.step).name}.writing"
    if dist.get_rank() == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        (temporary / STATE_NAME if config.resumable else temporary).mkdir(parents=True)
    dist.barrier(control)
    if config.resumable:
        strategy.save(temporary / STATE_NAME)
        _save_generators(temporary / STATE_NAME)
    weights = strategy.consolidated(model)
    if weights is not None:
        save_file(weights, temporary / WEIGHTS_NAME, metadata={"format": "pt"})
        if tokenizer is not None:
            (temporary / TOKENIZER_NAME).write_text(tokenizer.serialized, encoding="utf-8")
        (temporary / CONFIG_NAME).write_text(config.model_dump_json(indent=1) + "\n", encoding="utf-8")
    # Every rank's files are there before the folder gets its name.
    dist.barrier(control)
    if dist.get_rank() == 0:
        _sync(temporary)
        path = checkpoint_path(folder, config.step)
        _remove(path)
        temporary.rename(path)
        _sync_entry(folder)
        for old in checkpoints(folder)[:-NUM_KEPT]:
            _remove(old)
    dist.barrier(control)


def clear_unfinished(folder: Path) -> None:
    """Remove what a launch that was killed left of checkpoints that it was writing or removing."""
    for path in folder.glob(".step_*"):
        shutil.rmtree(path, ignore_errors=True)


def load_state(path: Path, strategy: Strategy) -> None:
    """Bring this rank back to the state of a resumable checkpoint; a collective."""
    strategy.load(path / STATE_NAME)
    generators = torch.load(_generators_path(path / STATE_NAME), weights_only=True)
    torch.set_rng_state(generators["cpu"])
    if "cuda" in generators:
        torch.cuda.set_rng_state(generators["cuda"])


def load_model(path: Path, device: torch.device) -> tuple[LanguageModel, CheckpointConfig, Tokenizer | None]:
    """The model of a checkpoint in this process, what is known of it, and its tokenizer (None where it trained on no text).

    Raises CheckpointError, naming the file, if a part of it is missing, changed, or of another model.
    """
    config = read_checkpoint(path)
    model = build_cells_model(config.cell, device)
    file = path / WEIGHTS_NAME
    try:
        weights = load_file(file, device=str(device))
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except Exception as error:  # safetensors has an exception of its own for each kind of damage, and no base
        raise CheckpointError(f"{file} can't be loaded: {str(error).splitlines()[0]}") from error
    # What is shared is stored once, so that its other names are missing.
    unfilled = {name for name, _ in model.named_parameters()} & set(missing)
    if unexpected or unfilled:
        raise CheckpointError(f"{file} is not of {config.cell.model}: {sorted([*unexpected, *unfilled])[0]} differs")
    model.eval()
    return model, config, _tokenizer(path, config)


def _tokenizer(path: Path, config: CheckpointConfig) -> Tokenizer | None:
    if config.tokenizer_sha256 is None:
        return None
    file = path / TOKENIZER_NAME
    try:
        found = Tokenizer(file.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises Exception itself
        raise CheckpointError(f"cannot read {file}: {error}") from error
    if found.sha256 != config.tokenizer_sha256:
        raise CheckpointError(f"{file} is not the tokenizer that {path} was trained with: its SHA-256 differs")
    return found


def _generators_path(folder: Path) -> Path:
    return folder / f"generators_{dist.get_rank()}.pt"


def _save_generators(folder: Path) -> None:
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state()
    torch.save(state, _generators_path(folder))


def _remove(path: Path) -> None:
    """Renamed first: half of a checkpoint must not be taken for one."""
    if path.exists():
        leaving = path.with_name(f".{path.name}.leaving")
        shutil.rmtree(leaving, ignore_errors=True)
        path.rename(leaving)
        shutil.rmtree(leaving)


def _sync(folder: Path) -> None:
    """Everything under a folder, and its entries, to the disk."""
    for path in [*folder.rglob("*"), folder]:
        _sync_entry(path)


def _sync_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""scalebench evaluate: how good a trained model is on text that it was not trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.errors import CheckpointError, nearest
from bench.verbs.shared import DeviceOption, Json, terminal

if TYPE_CHECKING:
    import pandas as pd

_SPLITS = ("validation", "test", "train")
_MODULE = "bench.worker.evaluate"


def evaluate(
    checkpoint: Annotated[
        Path, typer.Argument(help="What `scalebench train` wrote: its folder, or a checkpoints/step_N.")
    ],
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    sequences: Annotated[
        int | None, typer.Option(min=1, help="How many sequences. [default: all; of markov 512]")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="CSV or JSON lines with prompt and label: which label follows which prompt?")
    ] = None,
    device: DeviceOption = "auto",
    as_json: Json = False,
) -> None:
    """Loss, perplexity, bits per byte and next-token accuracy of a checkpoint; with --labels, a confusion table and F1.

    A label is chosen by how likely its tokens are after the prompt. Exits 0, or 2 for bad input.
    """
    from bench.asking import ask
    from bench.results.checkpoint import find_checkpoint

    if split not in _SPLITS:
        raise CheckpointError(f"--split: found {split!r}", hint=nearest(split, _SPLITS))
    found = find_checkpoint(checkpoint).resolve()
    asked: dict[str, Any] = {"checkpoint": str(found), "split": split, "sequences": sequences, "prompts": None}
    if labels is not None:
        probe = _probe(labels)
        asked |= {"prompts": probe["prompt"].tolist(), "labels": sorted(set(probe["label"]))}
        _show_labels(probe["label"].tolist(), ask(_MODULE, device, asked)["predicted"], as_json)
        return
    _show(ask(_MODULE, device, asked), split, found, as_json)


def _show(answer: dict[str, Any], split: str, checkpoint: Path, as_json: bool) -> None:
    from bench.results.training import bits_per_byte, perplexity
    from reports import units

    loss, floor = answer["loss"], answer["entropy_floor_nats"]
    shown = {
        "checkpoint": str(checkpoint),
        "split": split,
        **answer,
        "perplexity": perplexity(loss),
        "bits_per_byte": bits_per_byte(loss, answer["tokens_per_byte"]),
    }
    if as_json:
        print(json.dumps(shown))
        return
    console = terminal()
    lines = [
        f"{split} of {answer['corpus']}, {answer['num_tokens']:,} tokens, {checkpoint.name}",
        f"loss          {loss:.4f} nats a token",
        f"perplexity    {units.significant(shown['perplexity'])}",
    ]
    if shown["bits_per_byte"] is not None:
        lines.append(f"bits per byte {shown['bits_per_byte']:.4f}")
    if floor:
        lines.append(f"floor         {floor:.4f}, the loss is {units.fraction(loss / floor - 1)} above it")
    lines.append(f"accuracy      {units.fraction(answer['accuracy'])} of next tokens")
    if answer["corpus_changed"]:
        lines.append("note: the corpus is not the one that was trained on: its SHA-256 differs")
    for line in lines:
        console.print(line, markup=False, highlight=False)


def _probe(path: Path) -> pd.DataFrame:
    """Prompts and labels as text. Raises CheckpointError, naming what is missing."""
    import pandas as pd

    try:
        if path.suffix == ".csv":
            frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        else:
            frame = pd.read_json(path, lines=True, dtype=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"--labels: cannot read {path}: {error}", hint="expected .csv, or JSON lines") from error
    for name in ("prompt", "label"):
        if name not in frame.columns or frame.empty:
            raise CheckpointError(
                f"--labels: {path} has {'no rows' if frame.empty else f'no {name}'}",
                hint="expected columns prompt and label",
            )
    return frame[["prompt", "label"]].astype(str)


def _show_labels(truth: list[str], predicted: list[str], as_json: bool) -> None:
    from bench.analysis.classification import confusion, scores
    from bench.printing import printable
    from bench.writing import json_rows
    from reports import units

    table = confusion(truth, predicted)
    by_label = scores(table)
    right = sum(one == other for one, other in zip(truth, predicted, strict=True)) / len(truth)
    if as_json:
        print(
            json.dumps(
                {
                    "accuracy": right,
                    "macro_f1": float(by_label["f1"].mean()),
                    "labels": json_rows(by_label.rename_axis("label").reset_index()),
                    "confusion": {
                        str(label): {str(k): int(v) for k, v in row.items()} for label, row in table.iterrows()
                    },
                    "predicted": predicted,
                }
            )
        )
        return
    console = terminal()
    shown = table.astype(str).rename_axis("truth \\ told").reset_index()
    console.print(
        printable(shown, [str(name) for name in table.columns], "truth \\ told", dict.fromkeys(table.index, ""))
    )
    rates = by_label.assign(**{name: by_label[name].map(units.fraction) for name in ("precision", "recall", "f1")})
    rates = rates.astype(str).rename_axis("label").reset_index()
    console.print(printable(rates, ["number", "precision", "recall", "f1"], "label", dict.fromkeys(table.index, "")))
    console.print(f"accuracy {units.fraction(right)}, mean F1 {units.fraction(by_label['f1'].mean())}", highlight=False)

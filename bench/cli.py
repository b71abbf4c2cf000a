"""The command line: scalebench. A verb is a file in bench/verbs and a line here."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from bench.errors import ScalebenchError
from bench.verbs.advise import advise
from bench.verbs.case import case
from bench.verbs.comm import comm
from bench.verbs.compare import compare
from bench.verbs.doctor import doctor
from bench.verbs.evaluate import evaluate
from bench.verbs.generate import generate
from bench.verbs.project import project
from bench.verbs.prove import prove
from bench.verbs.report import report
from bench.verbs.run import run
from bench.verbs.track import track
from bench.verbs.train import train

app = typer.Typer(
    name="scalebench",
    help="Which way of training a GPT-style model data-parallel is fastest on these machines, and how well it scales.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.command(
    epilog="Example: scalebench run quick    or: scalebench run my-suite.yaml --device cuda --launcher torchrun"
)(run)
app.command(epilog="Example: scalebench doctor    or: scalebench doctor --hostfile hostfile --suite v100-8")(doctor)
app.command(epilog="Example: scalebench train markov    or: scalebench train my-training.yaml --resume")(train)
app.command(epilog="Example: scalebench evaluate results/train-stdlib --split test    or: ... --labels probe.csv")(
    evaluate
)
app.command(epilog="Example: scalebench generate results/train-stdlib --prompt 'def ' --temperature 0.8 --top-p 0.95")(
    generate
)
app.command(epilog="Example: scalebench prove --world-size 4")(prove)
app.command(epilog="Example: scalebench report results/quick")(report)
app.command(
    epilog="Example: scalebench comm --world-size 2 --max-bytes 64MiB    or: scalebench comm --hostfile hosts --device cpu"
)(comm)
app.command(
    epilog="Example: scalebench project --machine dgx1-v100-16gb --model gpt2-small --micro-batch-size 8"
    "    or: scalebench project --calibrate results/quick    or: scalebench project --validate"
)(project)
app.command(
    epilog="Example: scalebench advise --model gpt2-xl --machine dgx1-v100-16gb --global-batch-size 512"
    "    or with: --by cost --price-per-gpu-hour 2.5"
)(advise)
app.command(epilog="Example: scalebench case ten-nodes    or: scalebench case internet --output internet")(case)
app.command(epilog="Example: scalebench compare results/before results/after --fail-on slower,missing")(compare)
app.command(epilog="Example: scalebench track results/quick    or: scalebench track results/quick --accept")(track)


def _version(asked: bool) -> None:
    if asked:
        import bench

        print(f"scalebench {bench.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


def main() -> None:
    """Entry of the command: errors for users are one line, exit 2."""
    try:
        app()
    except ScalebenchError as error:
        print(f"scalebench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

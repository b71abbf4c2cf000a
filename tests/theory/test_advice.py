"""Advice: the best of what fits, what binds it, what can't be told apart, and the command's contract."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from bench.cli import main
from bench.errors import ProjectionError
from bench.launch.machine import Machine as Here
from bench.plan.suite import load_suite
from bench.theory.advice import MEMORY, Advice, Choice, advise
from bench.theory.candidates import Steps, candidates, searched, steps, world_sizes
from bench.theory.machine import load_machine, load_network
from bench.verbs.verify import refusal, suite_text
from tests.command_line import Scalebench

DGX_1 = load_machine("dgx1-v100-16gb")


def advice(model: str, batch: int, by: str = "step_time", most: int = 8, **more: float) -> Advice:
    network = load_network("edr-1x")
    found = candidates(batch, world_sizes(DGX_1, batch, most, network))
    taken = steps(found, DGX_1, model=model, precision="fp16", network=network)
    return advise(found, taken, DGX_1, by=by, tokens_per_step=batch * 1024.0, network=network, **more)


def test_the_best_is_the_least_of_what_fits() -> None:
    batch, network = 96, load_network("edr-1x")
    found = candidates(batch, world_sizes(DGX_1, batch, 32, network))
    taken = steps(found, DGX_1, model="gpt2-xl", precision="fp16", network=network)
    told = advise(found, taken, DGX_1, tokens_per_step=batch * 1024.0, network=network)
    assert told.best.step_time_s == taken.step_time_s[taken.fits].min()
    assert told.num_candidates == len(found) and told.num_fitting == taken.fits.sum()
    assert all(choice.memory_bytes <= DGX_1.device.memory_bytes.value for choice in told.choices)
    losses = [choice.loses_frac for choice in told.choices]
    assert losses == sorted(losses) and losses[0] == 0 and told.best.resolved is None
    shares = (told.best.compute_frac, told.best.exposed_comm_frac, told.best.lateness_frac)
    assert sum(shares) == pytest.approx(1)


def test_a_better_setting_that_does_not_fit_is_told_of() -> None:
    told = advice("gpt2-xl", 512)
    assert told.too_large is not None and told.too_large.fits is False and told.too_large.loses_frac < -0.01
    assert told.binds == [MEMORY, "compute"] and told.link == "NVLink"


def test_cost_and_energy_are_by_hand_and_rank_alike() -> None:
    told = advice("gpt2-small", 64, by="cost", price_per_gpu_hour=2.5, watts_per_gpu=400.0)
    best = told.best
    assert best.cost_per_step == pytest.approx(2.5 * best.world_size * best.step_time_s / 3600)
    assert best.energy_per_step_j == pytest.approx(400 * best.world_size * best.step_time_s)
    assert told.best == dataclasses.replace(
        advice("gpt2-small", 64, by="energy", watts_per_gpu=400.0).best, **{"cost_per_step": best.cost_per_step}
    )
    # More ranks finish sooner and cost more: the two orders differ.
    assert best.world_size == 1 and advice("gpt2-small", 64).best.world_size == 8


def made(step_s: list[float], micro: list[int], error: float) -> Advice:
    """Advice on made-up steps, each with a scaling interval of 10 % either way."""
    found = candidates(8, [2], ["ddp"], checkpointing=False)
    chosen = [found.micro_batch_size.tolist().index(size) for size in micro]
    found = dataclasses.replace(
        found, **{field.name: getattr(found, field.name)[chosen] for field in dataclasses.fields(found)}
    )
    found = dataclasses.replace(found, strategy=np.arange(len(micro)))
    whole, none = np.array(step_s), np.zeros(len(step_s))
    taken = Steps(
        whole, none, none, none, none, none, none, whole, 0.9 * whole, 1.1 * whole, none, none == 0, error, True
    )
    return advise(found, taken, DGX_1, tokens_per_step=8.0)


def test_what_the_theory_can_tell_apart() -> None:
    """0.9 x 1.3 is above 1.1; with an error of compute of 25 % on both, only where that error is shared."""
    told = made([1.0, 1.1, 1.3, 1.3], [4, 4, 4, 2], error=0.25)
    assert [choice.resolved for choice in told.choices] == [None, False, True, False]
    assert told.unresolved == 2
    assert [choice.resolved for choice in made([1.0, 1.3], [4, 2], error=0.0).choices] == [None, True]


def test_what_fits_nowhere_is_an_error_that_says_how_much_it_needs() -> None:
    undescribed = DGX_1.model_copy(update={"host": None})
    found = candidates(64, [1, 2, 4, 8], searched(undescribed))
    taken = steps(found, undescribed, model="gpt-10b", precision="fp16")
    with pytest.raises(ProjectionError, match=r"nothing fits: the least is 2.* GiB a rank \(zero3 on 8 ranks\)"):
        advise(found, taken, undescribed, tokens_per_step=64 * 1024.0)


def test_what_fits_with_the_host_alone_is_found() -> None:
    """Ten billion parameters on 16 GB cards: 16 bytes each are no less than 20 GiB a rank of eight, whatever the micro-batch."""
    told = advice("gpt-10b", 64)
    assert {choice.strategy for choice in told.choices} == {"zero3_offload"}
    assert told.best.world_size == 8 and told.too_large is not None


def test_a_table_and_sentences(scalebench: Scalebench) -> None:
    asked = ("advise", "--model", "gpt2-medium", "--machine", "dgx1-v100-16gb", "--global-batch-size", "128")
    done = scalebench(*asked)
    assert done.returncode == 0, done.stderr
    for words in ("Fastest: ", "What binds it: ", "can't be told from the best", "Projected, not measured"):
        assert words in done.stdout
    content = json.loads(scalebench(*asked, "--json").stdout)
    assert set(Choice.__dataclass_fields__) == set(content["choices"][0]) and content["binds"]


def test_choices_become_a_suite_of_equal_work(tmp_path: Path) -> None:
    told = advice("gpt2-small", 64)
    path = tmp_path / "advice.yaml"
    path.write_text(suite_text(told.choices[:3], model="gpt2-small", precision="fp16", seq_len=1024, name="advice"))
    cells = [planned.cell for planned in load_suite(str(path)).cells]
    assert [cell.global_batch_size for cell in cells] == [64] * 3
    assert [(cell.strategy, cell.world_size, cell.micro_batch_size) for cell in cells] == [
        (choice.strategy, choice.world_size, choice.micro_batch_size) for choice in told.choices[:3]
    ]
    # An encoder-decoder has no text to go on with.
    pairs = advice("seq2seq-base", 64).choices[:1]
    path.write_text(suite_text(pairs, model="seq2seq-base", precision="fp16", seq_len=128, name="advice"))
    assert [planned.cell.corpus for planned in load_suite(str(path)).cells] == ["reverse"]


def test_only_the_described_machine_is_measured() -> None:
    chosen = advice("gpt2-small", 64).choices[:1]
    eight = Here("cuda", 8, ("Tesla V100-SXM2-16GB",) * 8, (7, 0))
    assert refusal(chosen, DGX_1, eight) is None
    assert "V100-SXM2-32GB" in str(refusal(chosen, load_machine("dgx1-v100-32gb"), eight))
    assert "this machine is CPU" in str(refusal(chosen, DGX_1, Here("cpu", 8)))
    assert "8 ranks are asked for" in str(
        refusal(chosen, DGX_1, Here("cuda", 4, ("Tesla V100-SXM2-16GB",) * 4, (7, 0)))
    )


ASKED = ("--model", "gpt2-small", "--machine", "dgx1-v100-16gb", "--global-batch-size", "64")


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        ((*ASKED, "--by", "price"), "--by: found 'price'", 2),
        ((*ASKED, "--by", "cost"), "--price-per-gpu-hour is missing", 2),
        ((*ASKED, "--by", "energy", "--watts-per-gpu", "-1"), "--watts-per-gpu: found -1.0", 2),
        ((*ASKED, "--precision", "fp8"), "--precision: found 'fp8'", 2),
        ((*ASKED, "--precision", "bf16"), "no known peak", 2),
        ((*ASKED, "--seq-len", "4096"), "--seq-len: found 4096", 2),
        ((*ASKED, "--max-world-size", "0"), "--max-world-size: found 0", 2),
        ((*ASKED[:-1], "0"), "--global-batch-size: found 0", 2),
        ((*ASKED[:-1], "2000000000"), "--global-batch-size: found 2000000000, expected 1 to 1000000000", 2),
        ((*ASKED, "--network", "edr"), "--network: found 'edr'", 2),
        (("--model", "gpt2-smal", *ASKED[2:]), "did you mean 'gpt2-small'?", 2),
        ((*ASKED, "--json", "--verify", "1"), "nothing was measured", 1),
    ],
)
def test_bad_input_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: str,
    code: int,
) -> None:
    monkeypatch.setattr("bench.launch.machine._visible_gpus", list)
    monkeypatch.setattr("sys.argv", ["scalebench", "advise", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    error = capsys.readouterr().err
    assert stopped.value.code == code and words in error and len(error.splitlines()) == 1


@pytest.mark.slow
def test_the_first_choice_is_measured_where_it_can_be(scalebench: Scalebench, tmp_path: Path) -> None:
    asked = ("--model", "paced-nano", "--machine", "cpu-gloo", "--global-batch-size", "2", "--max-world-size", "2")
    # Short sequences, because a paced model sleeps for each token.
    asked += ("--seq-len", "32")
    done = scalebench("advise", *asked, "--verify", "1", "--output", tmp_path / "measured")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "measured.yaml").exists() and (tmp_path / "measured" / "report" / "index.html").exists()

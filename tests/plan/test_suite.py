"""A suite file becomes cells, and a wrong one an error that says where and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import ScalebenchError, SuiteError
from bench.plan.cell import Cell
from bench.plan.flags import with_flags
from bench.plan.suite import AUTO_LEAST, load_suite, shipped_suites


def suite_file(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


GOOD = """
defaults:
  model: gpt-nano
  world_size: [1, 2]
grids:
  - strategy: [ddp, zero2]
    grad_accum_steps: [1, 4]
    launches: 3
"""


def test_a_grid_is_a_product(tmp_path: Path) -> None:
    suite = load_suite(suite_file(tmp_path, GOOD))
    found = {(p.cell.strategy, p.cell.world_size, p.cell.grad_accum_steps) for p in suite.cells}
    assert found == {(s, w, g) for s in ("ddp", "zero2") for w in (1, 2) for g in (1, 4)}
    assert suite.name == "mine"
    assert all(planned.settings.launches == 3 and planned.cell.seq_len == 256 for planned in suite.cells)
    assert len({planned.cell.id for planned in suite.cells}) == 8


def test_shipped_suites_hold_what_they_promise() -> None:
    others = ["accumulation", "balance", "instrument", "quick", "synchronise", "ten-nodes", "time-to-loss", "v100-8"]
    assert shipped_suites() == others
    quick = [planned.cell for planned in load_suite("quick").cells]
    nano = {(c.strategy, c.world_size, c.grad_accum_steps) for c in quick if c.model == "gpt-nano"}
    zeros = ["ddp", "zero0", "zero1", "zero2", "zero3"]
    assert nano == {(s, w, g) for s in zeros for w, g in ((1, 1), (2, 1), (2, 4))}
    paced = {(c.strategy, c.world_size) for c in quick if c.paced}
    assert paced == {(s, w) for s in ("ddp", "zero2") for w in (1, 2, 4, 8)}
    metered = {
        (p.cell.strategy, p.cell.world_size) for p in load_suite("quick").cells if p.settings.attribution_launches
    }
    assert metered == {(s, w) for s in ("ddp", "zero2", "zero3") for w in (1, 2)}
    assert all(p.settings.attribution_launches == p.settings.launches == 2 for p in load_suite("instrument").cells)
    uneven = [planned.cell for planned in load_suite("balance").cells]
    assert all(cell.paced and cell.batching == "padded" for cell in uneven)
    assert {cell.partition for cell in uneven if cell.slow_rank_frac} == {"contiguous", "karmarkar_karp", "dynamic"}
    reference = load_suite("v100-8")
    assert not any(planned.skip_reason for planned in reference.cells)
    found = {(p.cell.model, p.cell.world_size, p.cell.grad_accum_steps, p.cell.scaling) for p in reference.cells}
    models = ("gpt2-small", "gpt2-medium", "gpt2-large", "gpt2-xl")
    assert found == {(m, w, g, s) for m in models for w in (1, 2, 4, 8) for g in (1, 4, 16) for s in ("weak", "strong")}
    assert {p.cell.precision for p in reference.cells} == {"fp16"}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("grids:\n  - {model: gpt-nani, strategy: ddp, world_size: 1}", 2, ["gpt-nani", "did you mean 'gpt-nano'"]),
        ("grids:\n  - model: gpt-nano\n    strategy: zerro2\n    world_size: 1", 3, ["zerro2", "did you mean 'zero2'"]),
        (
            "grids:\n  - model: gpt-nano\n    strategy: ddp\n    wold_size: 1",
            4,
            ["wold_size", "did you mean 'world_size'"],
        ),
        ("grids:\n  - model: gpt-nano\n    strategy: ddp\n    world_size: -2", 4, ["world_size", "-2", "greater"]),
        ("grids:\n  - model: gpt-nano\n    strategy: ddp\n    world_size: two", 4, ["world_size", "'two'", "integer"]),
        ("grids:\n  - model: gpt-nano\n    strategy: ddp\n    world_size: 1.5", 4, ["world_size", "1.5", "integer"]),
        ("grids:\n  - model: gpt-nano\n    strategy: ddp\n    world_size: true", 4, ["world_size", "True", "integer"]),
        ("grids:\n  - model: gpt-nano\n    strategy: ddp\n    world_size: []", 4, ["world_size", "empty"]),
        ("grids:\n  - model: gpt-nano\n    strategy: ddp", 2, ["world_size", "missing"]),
        (
            "defaults:\n  precision: fp8\ngrids:\n  - {model: gpt-nano, strategy: ddp, world_size: 1}",
            2,
            ["fp8", "fp32"],
        ),
        ("grids: []", 1, ["grids", "empty"]),
        ("name: x", 1, ["grids", "empty"]),
        ("grid:\n  - {}", 1, ["grid", "did you mean 'grids'"]),
        ("- 1", 1, ["expected keys and values"]),
        ("", 1, ["expected keys and values"]),
        ("grids: [", 1, ["not valid YAML"]),
        ("a: 1\na: 2", 2, ["'a' stands twice"]),
        ("grids:\n  - {model: 'hf:gpt2', strategy: ddp, world_size: 1}", 2, ["seq_len", "missing"]),
        ("grids:\n  - {model: gpt-nano, strategy: ddp, world_size: 1, seq_len: 9999}", 2, ["seq_len", "at most 256"]),
        ("name: ../x\ngrids:\n  - {model: gpt-nano, strategy: ddp, world_size: 1}", 1, ["name", "../x"]),
        ("seed: -1\ngrids:\n  - {model: gpt-nano, strategy: ddp, world_size: 1}", 1, ["seed", "-1"]),
        (
            "aa_pair: twice\ngrids:\n  - {model: gpt-nano, strategy: ddp, world_size: 1}",
            1,
            ["aa_pair", "'twice'", "true"],
        ),
        (
            "name: x\ntarget_interval_frac: 0\ngrids:\n  - {model: gpt-nano, strategy: ddp, world_size: 1}",
            2,
            ["target_interval_frac: found 0, expected a number above 0"],
        ),
        (
            "budget_minutes: .inf\ngrids:\n  - {model: gpt-nano, strategy: ddp, world_size: 1}",
            1,
            ["budget_minutes: found inf, expected a number above 0"],
        ),
        ("budget: 3\ngrids: []", 1, ["budget", "did you mean 'budget_minutes'"]),
        (
            "defaults:\n  launches: atuo\ngrids:\n  - {model: gpt-nano, strategy: ddp, world_size: 1}",
            2,
            ["launches: found 'atuo'", "integer, or auto"],
        ),
        (
            "grids:\n  - model: gpt-nano\n    strategy: ddp\n    world_size: 1\n    timeout_s: 0",
            5,
            ["timeout_s", "greater"],
        ),
        (
            "grids:\n  - model: gpt-nano\n    model_options: {layers: 3}\n    strategy: ddp\n    world_size: 1",
            3,
            ["model_options", "layers", "num_layers"],
        ),
        (
            "grids:\n  - model: gpt-nano\n    strategy: ddp\n    world_size: 1\n    global_batch_size: 8",
            5,
            ["global_batch_size", "strong"],
        ),
        ("grids:\n  - {model: gpt-nano, strategy: ddp, world_size: 1, scaling: strong}", 2, ["global_batch_size"]),
        (
            "grids:\n  - model: gpt-nano\n    strategy: ddp\n    world_size: 1\n    launches: 0",
            5,
            ["launches", "attribution_launches", "at least one"],
        ),
        (
            "grids:\n  - {model: gpt-nano, strategy: ddp, world_size: 1, model_options: !!python/object:os.system {}}",
            2,
            ["YAML"],
        ),
    ],
)
def test_a_wrong_suite_says_where_and_what(tmp_path: Path, text: str, line: int, words: list[str]) -> None:
    with pytest.raises(SuiteError) as caught:
        load_suite(suite_file(tmp_path, text))
    message = str(caught.value)
    assert f"mine.yaml:{line}: " in message
    assert "\n" not in message
    for word in words:
        assert word in message


def test_strong_scaling_keeps_the_global_batch(tmp_path: Path) -> None:
    text = """
grids:
  - model: gpt-nano
    strategy: ddp
    scaling: strong
    global_batch_size: 12
    world_size: [1, 2, 4, 8]
    grad_accum_steps: [1, 3]
"""
    suite = load_suite(suite_file(tmp_path, text))
    for planned in suite.cells:
        cell = planned.cell
        if cell.world_size == 8:
            assert planned.skip_reason is not None
            assert "global_batch_size 12 can't be divided by world_size 8" in planned.skip_reason
        else:
            assert planned.skip_reason is None and cell.global_batch_size == 12
    by_micro_batch = load_suite(
        suite_file(tmp_path, text.replace("grad_accum_steps: [1, 3]", "micro_batch_size: 3"))
    ).cells
    assert {(p.cell.world_size, p.cell.grad_accum_steps) for p in by_micro_batch if not p.skip_reason} == {
        (1, 4),
        (2, 2),
        (4, 1),
    }


def test_a_suite_may_ask_for_attribution_launches_alone(tmp_path: Path) -> None:
    text = "grids:\n  - {model: gpt-nano, strategy: ddp, world_size: 2, launches: 0, attribution_launches: 1}"
    [planned] = load_suite(suite_file(tmp_path, text)).cells
    assert (planned.settings.launches, planned.settings.attribution_launches) == (0, 1)


def test_a_cell_may_be_launched_as_often_as_it_needs(tmp_path: Path) -> None:
    text = "grids:\n  - {model: gpt-nano, strategy: ddp, world_size: 2, launches: auto}\n"
    suite = load_suite(suite_file(tmp_path, text))
    [planned] = suite.cells
    assert planned.settings.auto and planned.settings.launches == AUTO_LEAST == 5
    assert (suite.aa_pair, suite.target_interval_frac, suite.budget_minutes) == (True, 0.02, 30)
    text += "  - {model: gpt-nano, strategy: ddp, world_size: 1}\naa_pair: false\ntarget_interval_frac: 1\nbudget_minutes: 0.5"
    suite = load_suite(suite_file(tmp_path, text))
    assert [planned.settings.auto for planned in suite.cells] == [True, False]
    assert (suite.aa_pair, suite.target_interval_frac, suite.budget_minutes) == (False, 1, 0.5)


def test_flags_change_every_cell_that_is_timed(tmp_path: Path) -> None:
    text = """
grids:
  - {model: gpt-nano, strategy: ddp, world_size: [1, 2], launches: [1]}
  - {model: gpt-nano, strategy: zero1, world_size: 1, launches: auto}
  - {model: gpt-nano, strategy: zero2, world_size: 1, launches: 0, attribution_launches: 2}
"""
    suite = load_suite(suite_file(tmp_path, text))
    assert with_flags(suite, None, None, None) == suite
    settings = [planned.settings for planned in with_flags(suite, "7", None, None).cells]
    assert [(s.launches, s.auto, s.attribution_launches) for s in settings] == [(7, False, 0)] * 3 + [(0, False, 2)]
    by_need = with_flags(suite, "auto", 0.1, 2)
    assert [(p.settings.launches, p.settings.auto) for p in by_need.cells] == [(AUTO_LEAST, True)] * 3 + [(0, False)]
    assert (by_need.target_interval_frac, by_need.budget_minutes) == (0.1, 2)
    with pytest.raises(SuiteError, match="no cell of mine has `launches: auto`"):
        with_flags(suite, "7", 0.1, None)


def test_a_grid_that_can_never_be_divided_is_an_error(tmp_path: Path) -> None:
    text = "grids:\n  - {model: gpt-nano, strategy: ddp, scaling: strong, global_batch_size: 7, world_size: [2, 4]}"
    with pytest.raises(SuiteError, match="can't be divided"):
        load_suite(suite_file(tmp_path, text))


def test_a_cells_id_is_stable_and_tells_cells_apart() -> None:
    cell = Cell(model="gpt-nano", strategy="zero2", world_size=2)
    # Written down: a change of this name would orphan every result that was measured before it.
    assert cell.id == "gpt-nano_zero2_w2_g1_b1_s256_fp32_weak_67b58642"
    assert Cell(model="gpt-nano", strategy="zero2", world_size=2, learning_rate=0.1).id != cell.id
    assert Cell(model="hf:x/../y", strategy="ddp", world_size=1, seq_len=8).id.startswith("hf-x-..-y_ddp")
    assert "/" not in Cell(model="hf:x/../y", strategy="ddp", world_size=1, seq_len=8).id


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 9), st.floats(), st.text(max_size=12), st.just("$(touch pwned)")
)
values = st.one_of(scalars, st.lists(scalars, max_size=3), st.dictionaries(st.text(max_size=5), scalars, max_size=2))
names = st.one_of(
    st.sampled_from([*Cell.model_fields, "grids", "defaults", "launches", "timeout_s"]), st.text(max_size=8)
)


@settings(max_examples=300, deadline=None)
@given(
    grid=st.dictionaries(names, values, max_size=6),
    defaults=st.dictionaries(names, values, max_size=3),
    rest=st.dictionaries(names, values, max_size=2),
    complete=st.booleans(),
)
def test_no_suite_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, grid: dict, defaults: dict, rest: dict, complete: bool
) -> None:
    base = {"model": "gpt-nano", "strategy": "ddp", "world_size": 1} if complete else {}
    path = tmp_path_factory.getbasetemp() / "generated.yaml"
    path.write_text(yaml.safe_dump({"defaults": defaults, "grids": [{**base, **grid}], **rest}))
    try:
        suite = load_suite(str(path))
    except ScalebenchError as error:
        assert error.exit_code == 2
    else:
        assert suite.cells


def test_strategy_options_are_the_strategys_own() -> None:
    with pytest.raises(SuiteError, match="strategy_options: ddp has no option 'rank'"):
        Cell(model="gpt-nano", strategy="ddp", world_size=2, strategy_options={"rank": 4})

"""What a sequence costs, where that was fitted to measured steps."""

from __future__ import annotations

from bench.results.schema import Schema


class FittedCost(Schema):
    """A forward pass over sequences of L tokens takes `per_pass_s` + `per_token_s` sum L + `per_pair_s` sum L^2 seconds of a
    rank's own computing, a rank's `rank_slowness` (their mean is 1) times as long: none below 0, fitted to `num_passes` forward
    passes of all ranks, early in the launch; half of these are off by less than `error_s`. A sequence costs the last two terms,
    and steps from `from_step` on (from 0, of this launch) were dealt by that; where both are 0 they told nothing apart, and the
    model's own cost stayed.
    """

    per_pass_s: float
    per_token_s: float
    per_pair_s: float
    rank_slowness: list[float]
    error_s: float
    num_passes: int
    from_step: int

    @property
    def tells(self) -> bool:
        """Whether longer sequences were found to cost more."""
        return self.per_token_s > 0 or self.per_pair_s > 0

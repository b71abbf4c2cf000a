"""One history of one suite, for all who look at it."""

from __future__ import annotations

import pytest

from tests import synthetic
from tests.track import planted
from tests.track.planted import DDP, Story, typed


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    top = tmp_path_factory.mktemp("tracked")
    runs = {
        "first": planted.records(0),
        "unchanged": planted.records(1),
        "slower": planted.records(2, slower={DDP: 1.2}),
    }
    folders = {name: synthetic.write_fast(top / name, records) for name, records in runs.items()}
    history = ("--storage", top / "history")
    exported = ("--github-json", top / "github.json", "--bencher-json", top / "bencher.json")
    done = {
        "first": typed("track", folders["first"], *history),
        "unchanged": typed("track", folders["unchanged"], *history, "--json"),
        "slower": typed("track", folders["slower"], *history, *exported),
        "accepted": typed("track", folders["slower"], *history, "--accept", "--json"),
    }
    return Story(folders, top / "history", done)

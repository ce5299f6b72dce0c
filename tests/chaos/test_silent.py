"""A share of what once went by without a word; and where the checks are taken away, it does so again and is counted."""

import concurrent.futures
import multiprocessing

from tests.chaos import silent
from tests.chaos.forking import warm_up

NAMES = {
    "dev rows' documents exchanged", "seed=7", "no definition", "tokens/tokens.arrow with flipped bits",
    "vectors/0-of-1.f32 with a zeroed tail", "everything moved", "whole",
}  # fmt: skip


def blind(rank):
    """Resuming compares nothing, and a cache is believed."""
    from e5ft import caches
    from e5ft.app.commands import definition

    definition.refuse_another = lambda then, now, place: None
    definition.of_checkpoint = lambda folder: {}
    caches.is_whole = lambda entry: entry.exists()


def try_out(folder):
    world = silent.World(folder)
    chosen = [case for case in silent.cases() if case.name in NAMES]
    seeing = [world.try_out(case) for case in chosen]
    world.prepare = blind
    return seeing, [world.try_out(case) for case in chosen]


def test_a_share_is_noticed_and_counted_as_silent_where_nothing_looks(tmp_path):
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=warm_up) as pool:
        seeing, blind = pool.submit(try_out, tmp_path).result()
    assert {outcome.name for outcome in seeing} == NAMES
    assert [outcome.detail for outcome in seeing if not outcome.noticed] == []
    for outcome in blind:
        assert outcome.noticed == outcome.control and outcome.silent != outcome.control, outcome
    assert "| all | 5 | 5 | 0 | 2/2 |" in silent.lines(seeing) and "| all | 5 | 0 | 5 | 2/2 |" in silent.lines(blind)


def test_every_fault_has_its_own_name_and_every_kind_a_control():
    cases = list(silent.cases())
    assert len({(case.kind, case.name) for case in cases}) == len(cases) >= 130
    assert {case.kind for case in cases if case.control} == {case.kind for case in cases}

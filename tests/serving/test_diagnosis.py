"""The rule by which a mistake is named, on vectors made for it."""

import dataclasses

import numpy as np
import pytest

from e5ft.exporting.golden import Golden, Probe
from e5ft.json_http import AnswerError
from e5ft.serving.diagnosis import diagnose

D = 16


def turned(first: int, second: int, angle: float) -> np.ndarray:
    vector = np.zeros(D)
    vector[first], vector[second] = np.cos(angle), np.sin(angle)
    return vector


@pytest.fixture
def golden():
    """Right answers along the first axis; a missing prefix turns them by .4 towards the second, NFD by .8 towards the third."""
    mistakes = {"no_prefix": turned(0, 1, 0.4)}
    probes = [Probe(f"{role} {n}", role, "plain", turned(0, 1, 0), mistakes) for role in ("query", "passage") for n in range(3)]
    probes.append(Probe("nfd", "query", "nfd", turned(0, 1, 0), {**mistakes, "nfd": turned(0, 2, 0.8)}))
    probes.append(Probe("long", "passage", "long", turned(0, 1, 0), {**mistakes, "cut_256": turned(0, 3, 0.8)}))
    levels = {"int8": 0.9999, "int4": 0.99}
    return Golden(D, "mean", {"query": "q: ", "passage": "p: "}, {"query": 512, "passage": 512}, levels, tuple(probes))


def report(golden, angle_of) -> tuple[str, ...]:
    """The faults where each probe's answer is turned as told: (axis, angle)."""
    return diagnose(golden, [turned(0, *angle_of(probe)) for probe in golden.probes], 0.9999).faults


@pytest.mark.parametrize(("share", "named"), [(0, False), (0.4, False), (0.7, False), (0.8, True), (1, True), (1.2, True)])
def test_a_mistake_is_named_from_three_quarters_of_the_way_on(golden, share, named):
    faults = report(golden, lambda probe: (1, 0.4 * share))
    assert any(fault.startswith("prefix missing: must be 'q: ' / 'p: '") for fault in faults) == named, faults
    assert (faults == ()) == (share == 0)


def test_what_no_mistake_explains_is_judged_by_what_rounded_weights_leave(golden):
    """int4 leaves 1 - cosine .01, and twice that is as near as quantised weights come: an angle of .2, cosine .98."""
    (quantised,) = report(golden, lambda probe: (4, 0.19))
    assert quantised == (
        "quantised, or other weights as near: cosine 0.9820 at the lowest, 0.9820 in the mean; "
        "this model's weights in 8 bits leave 0.9999, in 4 bits 0.9900"
    )  # fmt: skip
    (other,) = report(golden, lambda probe: (4, 0.21))
    assert other == (
        "no known mistake explains it: cosine 0.9780 at the lowest, 0.9780 in the mean; "
        "another revision of the weights, or another model"
    )  # fmt: skip


def test_a_mistake_is_not_named_where_it_leaves_too_much(golden):
    """All of the way to a missing prefix, and as far again elsewhere: that is another model."""
    answers = [turned(0, 1, 0.4) + 0.5 * turned(5, 6, 0) for _ in golden.probes]
    answers = [answer / np.linalg.norm(answer) for answer in answers]
    (fault,) = diagnose(golden, answers, 0.9999).faults
    assert fault.startswith("no known mistake explains it: cosine 0.89")


def test_texts_of_one_kind_may_stand_out(golden):
    faults = report(golden, lambda probe: (5, 0.5 if probe.kind == "nfd" else 0.001))
    assert faults == ("no known mistake explains the texts in NFD: cosine 0.8776 at the lowest",)
    faults = report(golden, lambda probe: (3, 0.8) if probe.kind == "long" else (1, 0))
    assert faults == ("cut at 256 tokens: must be 512",)


def test_one_role_may_be_wrong(golden):
    faults = report(golden, lambda probe: (1, 0.4 if probe.role == "passage" else 0))
    assert faults == ("prefix missing in passages: must be 'p: ' before each text",)


def test_a_server_with_one_prompt_for_all_and_a_client_that_sends_prefixes(golden):
    """Queries have their prefix twice, passages the queries' before their own."""
    plain = [probe for probe in golden.probes if probe.kind == "plain"]
    both = {"prefix_twice": turned(0, 1, 0.4), "other_prefix_before": turned(0, 2, 0.4), "other_prefix": turned(0, 3, 0.4)}
    probes = [dataclasses.replace(probe, mistakes=both) for probe in plain]
    probes.append(
        Probe("nfd", "passage", "nfd", turned(0, 1, 0), {"nfd": turned(0, 4, 0.8)})
    )  # the last is stored of plain ones alone
    probes = tuple(probes)
    faults = report(dataclasses.replace(golden, probes=probes), lambda probe: (1 if probe.role == "query" else 2, 0.4))
    assert sorted(faults) == [
        "prefix twice in passages: must be 'p: ' once; the server adds 'q: ' by itself",
        "prefix twice in queries: must be 'q: ' once; server and client both add it",
    ]


@pytest.mark.parametrize(("length", "faults"), [(1.004, 0), (0.996, 0), (1.1, 1), (4.2, 1)])
def test_length(golden, length, faults):
    """bfloat16 leaves .004."""
    found = diagnose(golden, [length * probe.vector for probe in golden.probes], 0.9999)
    assert len(found.faults) == faults and found.lowest == pytest.approx(1)


def test_some_texts_without_a_vector_are_counted_and_what_is_wrong_with_the_others_waits(golden):
    answers = [turned(0, 1, 0.4) for _ in golden.probes]
    answers[1], answers[6], answers[7] = np.full(D, np.nan), np.zeros(D), np.full(D, np.inf)
    found = diagnose(golden, answers, 0.9999)
    assert found.faults == (
        "NaN or infinite numbers for 2 of 8 texts, the first 'query 1': serve the model in float32 or bfloat16",
        "zero vectors for 1 of 8 texts, the first 'nfd': it computes nothing; the server's log says why",
    )


def test_the_lowest_that_counts_is_the_user_s(golden):
    answers = [turned(0, 4, 0.1) for _ in golden.probes]
    assert diagnose(golden, answers, 0.99).faults == () and diagnose(golden, answers, 0.999).faults != ()
    answers = [turned(0, 1, 0.4) for _ in golden.probes]  # cosine .92: a known mistake is none the less one
    assert diagnose(golden, answers, 0.9).faults != ()


def test_what_was_refused_is_not_compared(golden):
    too_long = AnswerError("http://host/embed: HTTP 413 (too long)", 413)
    answers = [too_long if probe.kind == "long" else probe.vector for probe in golden.probes]
    found = diagnose(golden, answers, 0.9999)
    assert (found.faults, found.compared, found.refused) == ((), 7, 1)

"""Requests in parts."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

import paracore
from evaluators.checks import make_request
from paracore.evaluators.sharding import assemble, even_shares, nonfinite_rows, rows_of, subrequest


@given(st.integers(0, 40), st.integers(1, 12))
def test_shares_cover_all_rows_once_in_order_and_evenly(rows, workers):
    shares = even_shares(rows, workers)
    assert len(shares) == workers
    assert torch.cat(shares).tolist() == list(range(rows))
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1


@given(st.integers(1, 12), st.randoms(use_true_random=False), st.booleans())
def test_parts_put_together_are_the_whole(rows, random, tangents):
    request = make_request(rows, 1, tangents=tangents)
    order = list(range(rows))
    random.shuffle(order)
    cut = random.randint(0, rows)
    shares = [torch.tensor(part, dtype=torch.int64) for part in (order[:cut], order[cut:]) if part]
    answers = []
    for share in shares:
        part = subrequest(request, share)
        assert part.nodes.tolist() == request.nodes[share].tolist()
        assert part.times.tolist() == request.times[share].tolist()
        answers.append(paracore.Outputs(part.states * 2, part.tangents, len(part), (f"{len(part)}",)))
    whole = assemble(request, shares, answers)
    assert torch.equal(whole.values, request.states * 2)
    assert (whole.jvps is None) == (not tangents)
    if tangents:
        assert torch.equal(whole.jvps, request.tangents)
    assert whole.calls == rows
    assert len(whole.incidents) == len(shares)


def test_side_by_side_rows_are_not_copied():
    request = make_request(6)
    part = subrequest(request, torch.tensor([2, 3, 4]))
    assert part.states.untyped_storage().data_ptr() == request.states.untyped_storage().data_ptr()


def test_rows_that_are_not_finite():
    values = torch.zeros(5, 2, 2)
    assert nonfinite_rows(values).tolist() == []
    values[1, 0, 1], values[4, 1, 1] = float("nan"), float("inf")
    assert nonfinite_rows(values).tolist() == [1, 4]


def test_rows_in_words():
    words = [rows_of(torch.tensor(rows)) for rows in ([3], [3, 4, 5], [1, 5])]
    assert words == ["row 3", "rows 3 to 5", "rows 1, 5"]

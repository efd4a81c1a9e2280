"""Identities of boxes: those of the library `trackers`, as benchmarks/byte_track.py stored them; assignments: those of SciPy."""

import json
from pathlib import Path

import numpy as np
import pytest

from tinyfaces.jobs.assignment import heaviest_pairs
from tinyfaces.jobs.byte_track import ByteTrack

STORED = json.loads((Path(__file__).parent / "byte_track.json").read_text())


@pytest.mark.parametrize("name", STORED)
def test_identities_are_those_of_the_library(name):
    tracker = ByteTrack(25, 0.6)
    theirs_of, ours_of, compared = {}, {}, 0
    for frame in STORED[name]:
        boxes, scores = np.array(frame["boxes"], np.float32).reshape(-1, 4), np.array(frame["scores"], np.float32)
        ours = tracker.update(boxes, scores, frame["time"]).tolist()
        assert len(set(ours) - {-1}) == sum(identity >= 0 for identity in ours)  # no identity twice in a frame
        for our, their, score in zip(ours, frame["identities"], frame["scores"], strict=True):
            if their < 0:  # the library gives a face its identity when it is seen again
                assert (our < 0) == (score < 0.6)
                continue
            assert theirs_of.setdefault(our, their) == their and ours_of.setdefault(their, our) == our
            compared += 1
    assert compared > 500


@pytest.mark.parametrize("density", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (6, 6), (5, 17), (23, 9)])
def test_pairs_are_as_heavy_as_those_of_scipy(shape, density):
    optimize = pytest.importorskip("scipy.optimize", reason="SciPy is not installed (the extra evaluate)")
    rng = np.random.default_rng(shape[0] * 100 + shape[1])
    for _ in range(10):
        weights = np.where(rng.uniform(size=shape) < density, rng.uniform(0.01, 1, shape), 0)
        pairs = heaviest_pairs(weights)
        rows, columns = optimize.linear_sum_assignment(weights, maximize=True)
        assert sum(weights[pair] for pair in pairs) == pytest.approx(weights[rows, columns].sum(), abs=1e-9)
        assert all(weights[pair] > 0 for pair in pairs)
        assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)


def test_nothing_to_pair():
    assert heaviest_pairs(np.zeros((0, 3))) == heaviest_pairs(np.zeros((3, 0))) == heaviest_pairs(np.zeros((2, 3))) == []


def test_a_track_is_lost_after_a_second_and_forgotten():
    tracker = ByteTrack(25, 0.6)
    box, score, none = np.array([[10, 10, 30, 30]], np.float32), np.array([0.9], np.float32), np.zeros((0, 4), np.float32)
    first = [tracker.update(box, score, n / 25)[0] for n in range(3)]
    assert tracker.update(none, none[:, 0], 0.5).tolist() == []
    assert first == [0, 0, 0] and tracker.update(box, score, 1.0)[0] == 0
    assert tracker.update(box, score, 2.1)[0] == 1


def test_a_box_too_unsure_begins_no_track_but_continues_one():
    tracker = ByteTrack(25, 0.6)
    box = np.array([[10, 10, 30, 30]], np.float32)
    assert tracker.update(box, np.array([0.5], np.float32), 0.0).tolist() == [-1]
    assert tracker.update(box, np.array([0.9], np.float32), 0.04).tolist() == [0]
    assert tracker.update(box, np.array([0.5], np.float32), 0.08).tolist() == [0]

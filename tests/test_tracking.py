"""Faces followed through frames: ids stay, gaps are bridged both ways, nothing flashes."""

import numpy as np
import pytest

pytest.importorskip("trackers", reason="trackers is not installed (the extra video)")

from tinyfaces import Faces
from tinyfaces.jobs.cover_threshold import CoverThreshold
from tinyfaces.jobs.tracking import HELD, LONGEST_GAP, Tracker


def _follow(frames, rate=25.0):
    """frames: for each a list of boxes. Gives the tracked frames."""
    tracker = Tracker(rate, CoverThreshold.of(0.5))
    out = []
    for number, boxes in enumerate(frames):
        settled = tracker.push(Faces(np.array(boxes, np.float32), np.full(len(boxes), 0.9, np.float32)), number / rate)
        out += [settled] if settled is not None else []
    out += tracker.finish()
    assert len(out) == len(frames)
    return out, tracker


def _at(x, y, side=20.0):
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


def _covered(frame, box) -> bool:
    """Whether one cover holds all of the box."""
    masks = frame.masks
    return bool(((masks[:, :2] <= np.array(box[:2]) + 0.01) & (masks[:, 2:] >= np.array(box[2:]) - 0.01)).all(axis=1).any())


def test_ids_stay_and_frames_come_back_in_order():
    frames = [[_at(30 + 2 * n, 50), _at(200 - n, 120)] for n in range(60)]
    out, tracker = _follow(frames)
    assert tracker.tracks_so_far == 2
    assert [frame.time for frame in out] == [n / 25 for n in range(60)]
    for number, frame in enumerate(out):
        assert frame.found.all() and len(frame.faces) == 2
        by_track = dict(zip(frame.tracks.tolist(), frame.faces.boxes.tolist(), strict=True))
        left, right = (by_track[track] for track in sorted(by_track))
        np.testing.assert_allclose(left, frames[number][0], atol=1e-3)
        np.testing.assert_allclose(right, frames[number][1], atol=1e-3)


@pytest.mark.parametrize("gap", [1, 4, LONGEST_GAP])
def test_a_gap_is_bridged_where_the_face_was(gap):
    places = [_at(40 + 3 * n, 60 + n) for n in range(50)]
    frames = [[] if 20 <= n < 20 + gap else [places[n]] for n in range(50)]
    out, tracker = _follow(frames)
    assert tracker.tracks_so_far == 1
    for number in range(50):
        assert out[number].found.tolist() == [number < 20 or number >= 20 + gap]
        np.testing.assert_allclose(out[number].faces.boxes[0], places[number], atol=0.01)
        assert _covered(out[number], places[number])


def test_a_longer_gap_is_none():
    frames = [[_at(50, 50)]] * 20 + [[]] * (LONGEST_GAP + 5) + [[_at(50, 50)]] * 20
    out, _ = _follow(frames)
    assert [len(frame.faces) for frame in out] == [len(boxes) for boxes in frames]
    # but some frames after and before it are covered
    assert all(_covered(out[n], _at(50, 50)) for n in (*range(20, 20 + HELD), *range(35 - HELD, 35)))
    assert not len(out[26].masks)


@pytest.mark.parametrize("speed", [5, 15, 28])
def test_fast_and_tiny_faces_are_covered_in_every_frame_between_two_in_which_they_were_found(speed):
    """An 8 px face that moves up to 3.5 times its size a frame, which no overlap can link."""
    rng = np.random.default_rng(speed)
    places = [_at(20 + speed * n, 100, 8.0) for n in range(40)]
    missed = set(rng.choice(np.arange(1, 39, 2), 12, replace=False).tolist())
    out, _ = _follow([[] if n in missed else [places[n]] for n in range(40)])
    between = [n for n in sorted(missed) if n - 1 not in missed and n + 1 not in missed]
    assert len(between) > 5
    assert [n for n in between if not _covered(out[n], places[n])] == []


def _follow_scores(frames):
    """frames: for each a list of (box, score)."""
    tracker = Tracker(25.0, CoverThreshold())
    out = []
    for number, seen in enumerate(frames):
        boxes, scores = [box for box, _ in seen], [score for _, score in seen]
        settled = tracker.push(Faces(np.array(boxes, np.float32), np.array(scores, np.float32)), number / 25)
        out += [settled] if settled is not None else []
    return [*out, *tracker.finish()], tracker


def test_a_large_face_whose_score_wavers_stays_covered():
    """Its threshold is 0.4: scores below only continue a track, or come just before its first face."""
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.16, 0.38, 60)
    scores[[6, 30]] = 0.8
    places = [_at(300 + n, 300, 260.0) for n in range(60)]
    out, tracker = _follow_scores([[(place, score)] for place, score in zip(places, scores, strict=True)])
    assert tracker.tracks_so_far == 1
    for number, frame in enumerate(out):
        assert frame.found.tolist() == [True] and frame.tracks.tolist() == [0]
        np.testing.assert_allclose(frame.faces.boxes[0], places[number], atol=1e-3)
        assert frame.faces.scores[0] == pytest.approx(scores[number])
        assert _covered(frame, places[number])


def test_a_large_unsure_box_alone_is_no_face_and_a_small_one_is():
    large, small = _at(300, 300, 260.0), _at(900, 60, 16.0)
    out, tracker = _follow_scores([[(large, 0.39), (small, 0.16)]] * 40)
    assert tracker.tracks_so_far == 1
    for frame in out:
        np.testing.assert_allclose(frame.faces.boxes, [small], atol=1e-3)
        assert not _covered(frame, large) and _covered(frame, small)


def test_unsure_boxes_elsewhere_do_not_join_a_track_that_begins():
    face, elsewhere, larger = _at(300, 300, 260.0), _at(800, 300, 260.0), _at(300, 300, 800.0)
    early = [(elsewhere, 0.3), (larger, 0.3)]
    out, _ = _follow_scores([early] * 10 + [[(face, 0.8)]] * 10)
    assert [len(frame.faces) for frame in out] == [0] * 10 + [1] * 10
    assert [_covered(frame, face) for frame in out] == [n >= 10 - HELD for n in range(20)]


def test_missed_frames_before_a_track_begins_are_bridged():
    places = [_at(300 + 4 * n, 300, 260.0) for n in range(24)]
    frames = [[(place, 0.8 if n >= 10 else 0.3)] for n, place in enumerate(places)]
    frames[5] = frames[6] = []
    out, tracker = _follow_scores(frames)
    assert tracker.tracks_so_far == 1
    assert [frame.found.tolist() for frame in out] == [[n not in (5, 6)] for n in range(24)]
    assert all(_covered(frame, place) for frame, place in zip(out, places, strict=True))


def test_memory_does_not_grow():
    tracker = Tracker(25.0, CoverThreshold.of(0.5))
    rng = np.random.default_rng(0)
    for number in range(700):
        corners = rng.uniform(0, 400, (3, 2))
        boxes = np.concatenate([corners, corners + 12], axis=1).astype(np.float32)
        settled = tracker.push(Faces(boxes, np.full(3, 0.9, np.float32)), number / 25)
        assert (settled is None) == (number < tracker.delay)
        if number % 100 == 99:
            assert len(tracker._frames) <= tracker.delay + 3
            assert len(tracker._tracks) < 400 and len(tracker._numbers) < 1000
    assert tracker.tracks_so_far > 700

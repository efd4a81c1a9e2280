"""Losses against closed forms, the assignment against what it promises."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tinyfaces.detection.boxes import iou_matrix  # noqa: E402
from tinyfaces.detection.decoding import decode  # noqa: E402
from tinyfaces.training import losses  # noqa: E402
from tinyfaces.training.losses import (  # noqa: E402
    assign,
    distance_iou,
    distillation_loss,
    make_points,
    mirrored_outputs,
    paired_iou,
    proposal_loss,
    quality_focal_loss,
)
from tinyfaces.training.networks.proposal_network import FACE_SIZES, STRIDES  # noqa: E402

CPU = torch.device("cpu")


def _boxes(rng, count, size=128):
    middle = rng.uniform(0, size, (count, 2))
    half = np.exp(rng.uniform(1, 4, (count, 2))) / 2
    return np.concatenate([middle - half, middle + half], 1).astype(np.float32)


def test_iou_is_the_inference_sides():
    rng = np.random.default_rng(0)
    a, b = _boxes(rng, 500), _boxes(rng, 500)
    np.testing.assert_allclose(paired_iou(torch.tensor(a), torch.tensor(b)).numpy(), np.diag(iou_matrix(a, b)), atol=1e-5)


def test_distance_iou_of_known_pairs():
    a = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]])
    b = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 0, 30, 10]])
    # IoU 1, 1/3, 0; centres 0, 5, 20 apart; hull diagonals squared 200, 325, 1000
    expected = [1, 1 / 3 - 25 / 325, -400 / 1000]
    torch.testing.assert_close(distance_iou(a, b), torch.tensor(expected))


def test_quality_focal_loss_is_its_formula():
    for logit, target in [(-3.0, 0.0), (2.0, 0.0), (0.5, 0.8), (4.0, 1.0), (-60.0, 1.0), (90.0, 0.0)]:
        p = 1 / (1 + math.exp(-logit))
        entropy = max(logit, 0) - logit * target + math.log1p(math.exp(-abs(logit)))
        got = quality_focal_loss(torch.tensor(logit), torch.tensor(target)).item()
        assert got == pytest.approx(abs(target - p) ** 2 * entropy, rel=1e-5, abs=1e-12)


def test_decoding_is_the_inference_sides():
    rng = np.random.default_rng(1)
    maps = [rng.normal(0, 1, (5, 96 // s, 64 // s)).astype(np.float32) for s in STRIDES]
    boxes, scores = decode(maps, 0.0, (10_000, 10_000))
    points = make_points(96, 64, CPU)
    flat = losses.flatten_outputs([torch.tensor(m)[None] for m in maps])[0]
    ours = losses.decode_boxes(flat[:, 1:], points.centres, points.strides).clamp(min=0)
    visible = (ours[:, 2] > ours[:, 0]) & (ours[:, 3] > ours[:, 1])
    np.testing.assert_allclose(ours[visible].numpy(), boxes, atol=1e-3)
    np.testing.assert_allclose(flat[visible, 0].sigmoid().numpy(), scores, atol=1e-6)


def _perfect_outputs(points, boxes, size):
    """Outputs of one image that say, at the point nearest to each face in its own branch, just that face."""
    flat = torch.zeros(1, len(points.centres), 5)
    flat[..., 0] = -12
    flat[..., 3:] = -3  # elsewhere boxes too small to overlap a face
    for x1, y1, x2, y2 in boxes:
        side = ((x2 - x1) * (y2 - y1)) ** 0.5
        level = next(i for i, (low, high) in enumerate(FACE_SIZES) if low <= side < high)
        mine = points.strides == STRIDES[level]
        middle = torch.tensor([(x1 + x2) / 2, (y1 + y2) / 2])
        distance = (points.centres - middle).square().sum(1).masked_fill(~mine, math.inf)
        place = int(distance.argmin())
        stride = STRIDES[level]
        flat[0, place, 0] = 12
        flat[0, place, 1:3] = (middle - points.centres[place]) / stride
        flat[0, place, 3:] = torch.tensor([(x2 - x1) / stride, (y2 - y1) / stride]).log()
    ends = [*points.starts[1:], len(points.centres)]
    return [
        flat[:, start:end].transpose(1, 2).reshape(1, 5, *grid)
        for start, end, grid in zip(points.starts, ends, points.grids, strict=True)
    ]


FACES = [[4.0, 4, 12, 14], [40, 8, 62, 34], [20, 50, 80, 116], [90, 90, 96, 97]]


def test_perfect_outputs_cost_next_to_nothing_and_worse_ones_more():
    points = make_points(128, 128, CPU)
    boxes, owners = torch.tensor(FACES), torch.zeros(4, dtype=torch.long)
    ignored = torch.zeros(1, 32, 32, dtype=torch.bool)
    perfect = _perfect_outputs(points, FACES, 128)
    good = proposal_loss(perfect, points, boxes, owners, ignored)
    assert good.positives == 4 and good.total.item() < 1e-3
    shifted = proposal_loss([o + 0.3 for o in perfect], points, boxes, owners, ignored)
    assert shifted.box.item() > 0.05
    false_alarm = [o.clone() for o in perfect]
    false_alarm[1][0, 0, 15, 0] = 5.0
    alarmed = proposal_loss(false_alarm, points, boxes, owners, ignored)
    assert alarmed.classification.item() > good.classification.item() + 1
    ignored[0, 30, 0] = ignored[0, 31, 1] = True
    ignored[0, 30:, :2] = True
    excused = proposal_loss(false_alarm, points, boxes, owners, ignored)
    assert excused.classification.item() == pytest.approx(good.classification.item(), abs=1e-5)


def test_assignment_keeps_its_promises():
    rng = np.random.default_rng(2)
    points = make_points(256, 256, CPU)
    faces = torch.tensor(_boxes(rng, 80, 256)).clamp(0, 256)
    owners = torch.tensor(rng.integers(0, 3, 80))
    torch.manual_seed(0)
    matches = assign(torch.randn(3, len(points.centres), 5), points, faces, owners)
    assert len(matches.points.unique()) == len(matches.points), "a point has one face"
    image, place = matches.points // len(points.centres), matches.points % len(points.centres)
    assert (image == owners[matches.faces]).all()
    chosen = faces[matches.faces]
    stride, centre = points.strides[place], points.centres[place]
    middle, side = (chosen[:, :2] + chosen[:, 2:]) / 2, (chosen[:, 2:] - chosen[:, :2]).prod(1).sqrt()
    assert ((centre - middle).abs().max(1).values <= 1.5 * stride).all()
    for level, (low, high) in zip(STRIDES, FACE_SIZES, strict=True):
        here = side[stride == level]
        assert ((here >= low / 1.5) & (here < high * 1.5)).all()
    assert len(matches.faces.unique()) >= 75, "few faces lose all their points to others"


def test_gradients_are_finite_without_faces_and_for_absurd_outputs():
    points = make_points(64, 64, CPU)
    none, owners = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    ignored = torch.zeros(1, 16, 16, dtype=torch.bool)
    for scale in (1.0, 1e4):
        outputs = [(torch.randn(1, 5, 64 // s, 64 // s) * scale).requires_grad_() for s in STRIDES]
        faces = (torch.tensor([[10.0, 10, 20, 20]]), torch.zeros(1, dtype=torch.long)) if scale > 1 else (none, owners)
        proposal_loss(outputs, points, *faces, ignored).total.backward()
        assert all(o.grad.isfinite().all() for o in outputs)


def test_distillation_is_its_formula():
    points = make_points(32, 32, CPU)
    torch.manual_seed(0)
    maps = [torch.randn(2, 5, 32 // s, 32 // s) for s in STRIDES]
    taught = [torch.randn(2, 5, 32 // s, 32 // s) for s in STRIDES]
    classification = box = norm = 0.0
    for ours, theirs in zip(*(losses.flatten_outputs(m).reshape(-1, 5) for m in (maps, taught)), strict=True):
        score = theirs[0].sigmoid()
        classification += quality_focal_loss(ours[0], score).item()
        norm += score.item() * (score > 0.3).item()
    for image in range(2):
        a, b = losses.flatten_outputs(maps)[image], losses.flatten_outputs(taught)[image]
        overlap = distance_iou(
            losses.decode_boxes(a[:, 1:], points.centres, points.strides),
            losses.decode_boxes(b[:, 1:], points.centres, points.strides),
        )
        for value, score in zip(overlap.tolist(), b[:, 0].sigmoid().tolist(), strict=True):
            box += (1 - value) * score * (score > 0.3)
    assert distillation_loss(maps, taught, points).item() == pytest.approx((classification + 2 * box) / norm, rel=1e-4)


def test_a_pupil_that_says_the_same_has_no_loss_of_boxes():
    points = make_points(32, 32, CPU)
    maps = [torch.randn(1, 5, 32 // s, 32 // s) for s in STRIDES]
    assert distillation_loss(maps, maps, points).item() == pytest.approx(0.0, abs=1e-5)


def test_mirrored_outputs_hold_mirrored_boxes():
    torch.manual_seed(0)
    maps = [torch.randn(1, 5, 64 // s, 96 // s) for s in STRIDES]
    points = make_points(64, 96, CPU)

    def boxes(outputs):
        flat = losses.flatten_outputs(outputs)[0]
        values = torch.cat([losses.decode_boxes(flat[:, 1:], points.centres, points.strides), flat[:, :1]], 1)
        return values[torch.argsort(flat[:, 0])]

    there = boxes(maps)
    mirrored = boxes(mirrored_outputs(maps))
    expected = there[:, [2, 1, 0, 3, 4]] * torch.tensor([-1.0, 1, -1, 1, 1]) + torch.tensor([96.0, 0, 96, 0, 0])
    torch.testing.assert_close(mirrored, expected, atol=1e-4, rtol=0)


def _says(points, size, claims):
    """Outputs of one image that say nothing but the claims: (stride, row, column, logit, box)."""
    flat = torch.zeros(1, len(points.centres), 5)
    flat[..., 0], flat[..., 3:] = -12, -3
    for stride, row, column, logit, (x1, y1, x2, y2) in claims:
        place = points.starts[STRIDES.index(stride)] + row * (size // stride) + column
        flat[0, place, 0] = logit
        flat[0, place, 1:3] = (torch.tensor([x1 + x2, y1 + y2]) / 2 - points.centres[place]) / stride
        flat[0, place, 3:] = torch.tensor([(x2 - x1) / stride, (y2 - y1) / stride]).log()
    return flat


@pytest.mark.parametrize("side,allowed", [(20.0, True), (11.0, True), (25.0, False), (10.0, False)])
def test_a_face_somewhat_beyond_a_branchs_sizes_may_be_its_own(side, allowed):
    """Those of stride 4 go to 16 px, those of stride 8 begin there; both have a slack of 1.5."""
    points = make_points(64, 64, CPU)
    stride = 4 if side > 16 else 8
    box = (32 - side / 2, 32 - side / 2, 32 + side / 2, 32 + side / 2)
    cell = 32 // stride
    predicted = _says(points, 64, [(stride, cell, cell, 3.0, box)])
    matches = assign(predicted, points, torch.tensor([box]), torch.zeros(1, dtype=torch.long))
    assert (points.strides[matches.points] == stride).any() == allowed and len(matches.points)


def test_of_points_that_do_alike_the_nearer_one_gets_the_face():
    points = make_points(64, 64, CPU)
    face = (28.0, 28.0, 40.0, 40.0)  # its centre is that of row 8, column 8
    claim = (28.0, 28.0, 40.0, 36.0)  # IoU 2/3: two such points are worth one
    far, near = (4, 7, 7, 0.72, claim), (4, 8, 8, 1.0, claim)  # the far one's score is nearer to its IoU
    matches = assign(_says(points, 64, [far, near]), points, torch.tensor([face]), torch.zeros(1, dtype=torch.long))
    assert points.centres[matches.points].tolist() == [[34.0, 34.0]]

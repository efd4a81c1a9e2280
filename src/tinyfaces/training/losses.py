"""Assignment of faces to points and the losses of the proposal network."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tinyfaces.training.networks.proposal_network import FACE_SIZES, STRIDES
from tinyfaces.training.processes import share_of_total

_SLACK = 1.5
_WINDOW = 3
_COST_OF_BOX = 3.0
_COST_OF_DISTANCE = 0.3
_SURE_OF_FACE = 0.3


@dataclass(frozen=True)
class Points:
    """The P points of all branches.

    Attributes:
        centres: (P, 2) in pixels.
        strides: (P,).
        grids: height and width of each branch's grid.
        starts: the first point of each branch.
    """

    centres: Tensor
    strides: Tensor
    grids: tuple[tuple[int, int], ...]
    starts: tuple[int, ...]


def make_points(height: int, width: int, device: torch.device) -> Points:
    """Points of an image whose sides are multiples of 32, level by level, row by row."""
    centres, strides, grids, starts = [], [], [], [0]
    for stride in STRIDES:
        rows, columns = height // stride, width // stride
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        centres.append((torch.stack([x, y], -1).reshape(-1, 2).float() + 0.5) * stride)
        strides.append(torch.full((rows * columns,), float(stride)))
        grids.append((rows, columns))
        starts.append(starts[-1] + rows * columns)
    return Points(torch.cat(centres).to(device), torch.cat(strides).to(device), tuple(grids), tuple(starts[:-1]))


def flatten_outputs(outputs: Sequence[Tensor]) -> Tensor:
    """Maps Nx5xHsxWs of all branches to N x P x 5 float32, in the order of `make_points`."""
    return torch.cat([output.flatten(2).transpose(1, 2) for output in outputs], 1).float()


def mirrored_outputs(outputs: Sequence[Tensor]) -> list[Tensor]:
    """What maps Nx5xHsxWs would be if the images had been mirrored."""
    flipped = [output.flip(3) for output in outputs]
    sign = torch.tensor([1.0, -1.0, 1.0, 1.0, 1.0], dtype=flipped[0].dtype, device=flipped[0].device)
    return [output * sign[:, None, None] for output in flipped]


def decode_boxes(values: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Boxes (..., 4) xyxy in pixels from values (..., 4): centre offset in strides and log size over stride."""
    middle = centres + values[..., :2] * strides[..., None]
    half = values[..., 2:].clamp(-4, 6).exp() * strides[..., None] / 2
    return torch.cat([middle - half, middle + half], -1)


def _intersection_and_union(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    overlap = torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2])
    intersection = overlap.clamp(min=0).prod(-1)
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(-1) + (others[..., 2:] - others[..., :2]).prod(-1)
    return intersection, areas - intersection


def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU of boxes (..., 4) with the boxes (..., 4) at the same place."""
    intersection, union = _intersection_and_union(boxes, others)
    return intersection / union.clamp(min=1e-6)


def distance_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU less the squared distance of centres over the squared diagonal of the hull (DIoU), pair by pair: (...,)."""
    hull = torch.maximum(boxes[..., 2:], others[..., 2:]) - torch.minimum(boxes[..., :2], others[..., :2])
    shift = (boxes[..., :2] + boxes[..., 2:] - others[..., :2] - others[..., 2:]) / 2
    return paired_iou(boxes, others) - shift.square().sum(-1) / hull.square().sum(-1).clamp(min=1e-6)


@dataclass(frozen=True)
class Assignment:
    """A matches: point (A,) as index into the N x P flattened points, face (A,) index into the batch's boxes."""

    points: Tensor
    faces: Tensor


@torch.no_grad()
def assign(predicted: Tensor, points: Points, boxes: Tensor, owners: Tensor) -> Assignment:
    """Give each face the points that already do best for it, as many as their IoUs sum to (dynamic k, as in OTA).

    Only the 3x3 points around the face's centre are in question, in the branches made for its size with a slack of 1.5 at both
    ends. A point wanted by two faces goes to the one it costs less.

    Args:
        predicted: N x P x 5 outputs.
        points: the P points.
        boxes: (M, 4) xyxy in pixels. owners: (M,) their images.

    Returns:
        The points and their faces.
    """
    device, count = boxes.device, len(points.centres)
    size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-3).prod(1).sqrt()
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    steps = torch.arange(_WINDOW, device=device) - _WINDOW // 2
    places, allowed = [], []
    for (low, high), stride, (rows, columns), start in zip(FACE_SIZES, STRIDES, points.grids, points.starts, strict=True):
        fits = (size >= low / _SLACK) & (size < high * _SLACK)
        cell = (middle / stride).floor().long()
        x = cell[:, 0, None, None] + steps[None, None, :]
        y = cell[:, 1, None, None] + steps[None, :, None]
        inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
        place = start + y.clamp(0, rows - 1) * columns + x.clamp(0, columns - 1)
        places.append(place.flatten(1))
        allowed.append((inside & fits[:, None, None]).flatten(1))
    place, valid = torch.cat(places, 1), torch.cat(allowed, 1)
    flat = owners[:, None] * count + place

    values = predicted.reshape(-1, predicted.shape[-1])[flat]
    candidate = decode_boxes(values[..., 1:], points.centres[place], points.strides[place])
    overlap = paired_iou(candidate, boxes[:, None].expand_as(candidate)) * valid
    shift = (points.centres[place] - middle[:, None]) / points.strides[place][..., None]
    cost = (
        quality_focal_loss(values[..., 0], overlap)
        - _COST_OF_BOX * overlap.clamp(min=1e-4).log()
        + _COST_OF_DISTANCE * shift.square().sum(-1)
    ).masked_fill(~valid, float("inf"))

    ordered, order = cost.sort(1)
    wanted = overlap.topk(min(_WINDOW**2, overlap.shape[1]), 1).values.sum(1).round().clamp(min=1)
    rank = torch.arange(cost.shape[1], device=device)
    face, column = torch.nonzero((rank[None] < wanted[:, None]) & ordered.isfinite(), as_tuple=True)
    chosen = flat[face, order[face, column]]
    chosen_cost = ordered[face, column]

    cheapest = torch.full((len(predicted) * count,), float("inf"), device=device)
    cheapest.scatter_reduce_(0, chosen, chosen_cost, "amin")
    winner = torch.full((len(predicted) * count,), len(boxes), device=device)
    wins = chosen_cost <= cheapest[chosen]
    winner.scatter_reduce_(0, chosen[wins], face[wins], "amin")
    kept = wins & (winner[chosen] == face)
    return Assignment(chosen[kept], face[kept])


def quality_focal_loss(logits: Tensor, targets: Tensor, beta: float = 2.0) -> Tensor:
    """Cross-entropy with soft targets (...,) in 0-1, weighted by the distance from the target to the power beta (GFL)."""
    weight = (targets - logits.sigmoid()).abs().pow(beta)
    return weight * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


@dataclass(frozen=True)
class ProposalLoss:
    """Scalars: total to minimise, its classification and box parts, and how many points had a face."""

    total: Tensor
    classification: Tensor
    box: Tensor
    positives: int


def proposal_loss(
    outputs: Sequence[Tensor], points: Points, boxes: Tensor, owners: Tensor, ignored: Tensor, box_weight: float = 2.0
) -> ProposalLoss:
    """Quality focal loss over all points outside ignored places, DIoU loss over the assigned ones.

    Both are divided by the sum of the targets, over all processes.

    Args:
        outputs: the network's four maps Nx5xH/sxW/s.
        points: those of the maps.
        boxes: (M, 4) xyxy in pixels. owners: (M,) their images.
        ignored: (N, H / 4, W / 4) bool, where no loss is taken unless a face is assigned there.
        box_weight: of the DIoU loss.

    Returns:
        The loss and its parts.
    """
    predicted = flatten_outputs(outputs)
    matches = assign(predicted.detach(), points, boxes, owners)
    values = predicted.reshape(-1, predicted.shape[-1])
    logits = values[:, 0]

    cells = (points.centres / STRIDES[0]).long()
    weights = (~ignored[:, cells[:, 1], cells[:, 0]]).reshape(-1).float()
    targets = torch.zeros_like(logits)

    place = matches.points % len(points.centres)
    decoded = decode_boxes(values[matches.points, 1:], points.centres[place], points.strides[place])
    truth = boxes[matches.faces]
    quality = paired_iou(decoded.detach(), truth)
    targets[matches.points] = quality
    weights[matches.points] = 1.0

    norm = share_of_total(quality.sum())
    classification = (quality_focal_loss(logits, targets) * weights).sum() / norm
    box = ((1 - distance_iou(decoded, truth)) * quality.clamp(min=0.1)).sum() / norm
    return ProposalLoss(classification + box_weight * box, classification, box, len(place))


def distillation_loss(outputs: Sequence[Tensor], taught: Sequence[Tensor], points: Points, box_weight: float = 2.0) -> Tensor:
    """How far a network's four maps are from those of a teacher with the same points.

    Quality focal loss with the teacher's score as the target of every point, ignored places included, and DIoU loss to the
    teacher's boxes, weighted by its scores where these are above 0.3. Both are divided by the sum of those scores, over all
    processes.

    Args:
        outputs: the network's four maps Nx5xH/sxW/s. taught: the teacher's.
        points: those of the maps.
        box_weight: of the DIoU loss.

    Returns:
        A scalar.
    """
    predicted, target = flatten_outputs(outputs), flatten_outputs(taught)
    scores = target[..., 0].sigmoid()
    sure = scores > _SURE_OF_FACE
    norm = share_of_total(scores[sure].sum())
    classification = quality_focal_loss(predicted[..., 0], scores).sum() / norm
    _, place = torch.nonzero(sure, as_tuple=True)
    centres, strides = points.centres[place], points.strides[place]
    overlap = distance_iou(
        decode_boxes(predicted[sure][:, 1:], centres, strides), decode_boxes(target[sure][:, 1:], centres, strides)
    )
    return classification + box_weight * ((1 - overlap) * scores[sure]).sum() / norm


def pixel_loss(enlarged: Tensor, refined: Tensor, target: Tensor, has_target: Tensor) -> Tensor:
    """MSE(SRN(lr), hr) + MSE(RN(SRN(lr)), hr), over the crops that have a sharp target (paper, equation 3): a scalar.

    enlarged, refined, target: Nx3xHxW, RGB in 0-1. has_target: (N,) bool. Zero where no crop has one. A pixel's error is the
    squared length of its colour's, with colours in -1 to 1: on a smaller scale the default weights of the other losses outweigh
    this one, and the refined picture gets worse than a bicubic one.
    """
    weight = has_target.to(target.dtype)
    error = 4 * ((enlarged - target).square() + (refined - target).square()).sum(1).mean((1, 2))
    return (error * weight).sum() / share_of_total(weight.sum())


def adversarial_loss_of_generator(real_logits: Tensor) -> Tensor:
    """-log D(G(lr)), the non-saturating form of the paper's equation 4, of logits (N,) for generated crops: a scalar."""
    return _mean_cross_entropy(real_logits, torch.ones_like(real_logits))


def adversarial_loss_of_discriminator(logits_of_real: Tensor, logits_of_generated: Tensor, smoothing: float = 0.1) -> Tensor:
    """-log D(hr) - log(1 - D(G(lr))), each a mean, real ones aiming at 1 - smoothing: a scalar."""
    real = _mean_cross_entropy(logits_of_real, torch.full_like(logits_of_real, 1 - smoothing))
    generated = _mean_cross_entropy(logits_of_generated, torch.zeros_like(logits_of_generated))
    return real + generated


def face_loss(face_logits: Tensor, quality: Tensor) -> Tensor:
    """-y log F(x) - (1 - y) log(1 - F(x)) (paper, equation 5): a scalar.

    Args:
        face_logits: (N,).
        quality: (N,) in 0-1, y: 0 and 1 as in the paper, or how good each box is (see `box_quality`), as in quality focal loss.
    """
    return _mean_cross_entropy(face_logits, quality)


def _mean_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean over the logits (N,) of all processes, which may have different numbers of them: a scalar."""
    total = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    return total / share_of_total(total.new_tensor(float(len(logits))))


_LEAST_OVERLAP = 0.02
"""IoU below which a face only brushes a candidate."""
_CORRECTABLE = 0.25
"""IoU with its face from which a candidate's box is corrected."""


def box_quality(predicted: Tensor, wanted: Tensor, overlap: Tensor) -> Tensor:
    """IoU (N,) with their faces of the candidates' boxes as they are after correction: what the face head is asked for. No
    gradient flows through it.

    Args:
        predicted: (N, 4), offsets that the box head gives.
        wanted: (N, 4), offsets that lead to the nearest face.
        overlap: (N,), IoU of the boxes with it before correction; without a face that touches the box, the quality is 0.
    """
    quality = paired_iou(_moved(predicted), _moved(wanted)).detach()
    return torch.where(overlap > _LEAST_OVERLAP, quality, torch.zeros_like(quality))


def refinement_loss(predicted: Tensor, wanted: Tensor, overlap: Tensor) -> Tensor:
    """1 - DIoU of corrected boxes and faces, weighted by how much of the face each box had before: a scalar.

    The paper's follow-up takes smooth L1 of the offsets (Pattern Recognition 94); this one counts what AP counts.

    Args:
        predicted: (N, 4), offsets that the box head gives.
        wanted: (N, 4), offsets that lead to the nearest face.
        overlap: (N,), IoU of the boxes with it before correction; below 0.25 a box is not corrected.
    """
    weight = torch.where(overlap >= _CORRECTABLE, overlap, torch.zeros_like(overlap))
    error = 1 - distance_iou(_moved(predicted), _moved(wanted))
    return (error * weight).sum() / share_of_total(weight.sum())


def _moved(offsets: Tensor) -> Tensor:
    """Boxes (N, 4) that offsets (N, 4) make of the unit square around 0."""
    middle, half = offsets[:, :2].clamp(-0.6, 0.6), offsets[:, 2:].clamp(-1.2, 1.2).exp() / 2
    return torch.cat([middle - half, middle + half], dim=1)

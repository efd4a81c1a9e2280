"""The second stage's networks and losses."""

import math

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from tinyfaces.detection.crops import HIGH_SIDE, LOW_SIDE  # noqa: E402
from tinyfaces.training import losses  # noqa: E402
from tinyfaces.training.networks.second_stage_networks import (  # noqa: E402
    JUDGE,
    SECOND_STAGE_VARIANTS,
    SLIM,
    Discriminator,
    Generator,
    Mirrored,
)


def _macs(network, *inputs):
    total = 0

    def add(layer, given, output):
        nonlocal total
        if isinstance(layer, nn.Linear):
            total += layer.weight.numel()
        elif isinstance(layer, nn.ConvTranspose2d):
            total += given[0].shape[2] * given[0].shape[3] * layer.weight.numel()
        else:
            total += output.shape[2] * output.shape[3] * layer.weight.numel()

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            layer.register_forward_hook(add)
    network(*inputs)
    return total


@pytest.mark.parametrize("variant", SECOND_STAGE_VARIANTS)
@torch.no_grad()
def test_shapes(variant):
    shape = SECOND_STAGE_VARIANTS[variant]
    enlarged, refined = Generator(shape).eval()(torch.rand(2, 3, LOW_SIDE, LOW_SIDE))
    assert enlarged.shape == refined.shape == (2, 3, HIGH_SIDE, HIGH_SIDE)
    judged = Discriminator(shape).eval()(refined)
    assert judged.real.shape == judged.face.shape == (2,) and judged.box.shape == (2, 4)
    assert judged.box.abs().max() == 0, "an untrained box head leaves boxes alone"


@torch.no_grad()
def test_slim_costs_less_than_a_tenth_of_a_gmac():
    low, high = torch.zeros(1, 3, LOW_SIDE, LOW_SIDE), torch.zeros(1, 3, HIGH_SIDE, HIGH_SIDE)
    assert 1e7 < _macs(Generator(SLIM).eval(), low) + _macs(Discriminator(SLIM).eval(), high) < 1e8


def test_the_papers_layout():
    discriminator = Discriminator(SECOND_STAGE_VARIANTS["paper"])
    convolutions = [m for m in discriminator.trunk if isinstance(m, nn.Sequential)]
    assert [m[0].out_channels for m in convolutions] == [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
    assert sum(isinstance(m, nn.MaxPool2d) for m in discriminator.trunk) == 4
    generator = Generator(SECOND_STAGE_VARIANTS["paper"])
    assert len([m for m in generator.up_sampling.blocks if not isinstance(m, nn.Sequential)]) == 8
    weights = torch.cat([m.weight.flatten() for m in generator.refinement.layers.modules() if isinstance(m, nn.Conv2d)][:-1])
    assert weights.std().item() == pytest.approx(0.02, rel=0.02) and abs(weights.mean().item()) < 1e-3


def test_an_untrained_generator_enlarges_bilinearly():
    torch.manual_seed(0)
    low = torch.rand(4, 3, LOW_SIDE, LOW_SIDE)
    expected = nn.functional.interpolate(low, scale_factor=4, mode="bilinear", align_corners=False)
    for output in Generator(SLIM).train()(low):
        assert (output - expected).abs().mean() < 0.05


def _log_loss(logit, target):
    p = 1 / (1 + math.exp(-logit))
    return -(target * math.log(p) + (1 - target) * math.log(1 - p))


def test_losses_are_their_formulas():
    torch.manual_seed(0)
    enlarged, refined, target = torch.rand(3, 3, 8, 8), torch.rand(3, 3, 8, 8), torch.rand(3, 3, 8, 8)
    has = torch.tensor([True, False, True])
    error = sum(((2 * picture[n] - 2 * target[n]) ** 2).sum() for n in (0, 2) for picture in (enlarged, refined))
    expected = error / (8 * 8) / 2
    torch.testing.assert_close(losses.pixel_loss(enlarged, refined, target, has), expected)
    assert losses.pixel_loss(enlarged, refined, target, has & False) == 0

    a, b = [0.3, -2.0, 1.5], [-1.0, 0.5, 3.0]
    real, fake = torch.tensor(a), torch.tensor(b)
    assert losses.adversarial_loss_of_generator(fake).item() == pytest.approx(sum(_log_loss(x, 1) for x in b) / 3, rel=1e-5)
    expected = sum(_log_loss(x, 0.9) for x in a) / 3 + sum(_log_loss(x, 0) for x in b) / 3
    assert losses.adversarial_loss_of_discriminator(real, fake).item() == pytest.approx(expected, rel=1e-5)
    expected = (_log_loss(0.3, 1) + _log_loss(-2.0, 0) + _log_loss(1.5, 0.5)) / 3
    assert losses.face_loss(real, torch.tensor([1.0, 0.0, 0.5])).item() == pytest.approx(expected, rel=1e-5)


def test_the_quality_of_a_box_is_its_overlap_after_correction():
    """The face is twice as wide as the candidate and begins where it begins; offsets of 0 leave an IoU of 1/2."""
    wanted = torch.tensor([[0.5, 0.0, math.log(2), 0.0]]).repeat(4, 1)
    predicted = torch.stack([torch.zeros(4), wanted[0], torch.tensor([0.25, 0, math.log(1.5), 0]), wanted[0]]).requires_grad_()
    quality = losses.box_quality(predicted, wanted, torch.tensor([0.5, 0.5, 0.5, 0.0]))
    assert quality.tolist() == pytest.approx([0.5, 1.0, 0.75, 0.0], abs=1e-6) and not quality.requires_grad
    # centres 1/2 and 1/4 apart, in hulls of 2 x 1
    expected = [1 - (0.5 - 0.25 / 5), 0.0, 1 - (0.75 - 0.0625 / 5)]
    overlap = torch.tensor([0.5, 0.4, 0.3, 0.2])
    loss = losses.refinement_loss(predicted, wanted, overlap)
    assert loss.item() == pytest.approx((0.5 * expected[0] + 0.3 * expected[2]) / 1.2, rel=1e-5)
    loss.backward()
    assert predicted.grad[0].abs().max() > 0 and not predicted.grad[3].any(), "a box that only brushes a face stays"


def test_losses_are_safe_at_the_ends():
    extreme = torch.tensor([1e4, -1e4], requires_grad=True)
    total = losses.adversarial_loss_of_generator(extreme) + losses.adversarial_loss_of_discriminator(extreme, extreme)
    (total + losses.face_loss(extreme, torch.tensor([0.0, 1.0]))).backward()
    assert extreme.grad.isfinite().all()


def test_the_face_loss_reaches_the_generator():
    torch.manual_seed(0)
    generator, discriminator = Generator(SLIM).train(), Discriminator(SLIM).train()
    judged = discriminator(generator(torch.rand(6, 3, LOW_SIDE, LOW_SIDE))[1])
    losses.face_loss(judged.face, torch.tensor([0.0, 1, 0, 1, 0, 1])).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in generator.up_sampling.head.parameters())


def test_a_mirrored_judge_says_the_same_of_the_mirror_image():
    torch.manual_seed(0)
    one = Discriminator(JUDGE, LOW_SIDE).eval()
    torch.nn.init.normal_(one.box.weight, std=0.2)
    crops = torch.rand(5, 3, 16, 16)
    with torch.no_grad():
        both, other = Mirrored(one)(crops), Mirrored(one)(crops.flip(3))
        judged, turned = one(crops), one(crops.flip(3))
    assert (judged.face - turned.face).abs().min() > 1e-4, "alone it does not"
    assert torch.allclose(both.face, (judged.face + turned.face) / 2, atol=1e-6)
    assert torch.allclose(both.face, other.face, atol=1e-5) and torch.allclose(both.real, other.real, atol=1e-5)
    assert torch.allclose(both.box, other.box * torch.tensor([-1.0, 1.0, 1.0, 1.0]), atol=1e-5)
    assert torch.allclose(both.box[:, 1:], (judged.box + turned.box)[:, 1:] / 2, atol=1e-6)

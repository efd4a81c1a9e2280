"""What the static page does in JavaScript, step by step in headless Chromium, against the Python that it repeats."""

import base64
import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

import tinyfaces.service
from browsing import browser as browser
from browsing import needs_browser, static_server, watched_pages
from conftest import paint
from tinyfaces import Detector, Faces, read_image
from tinyfaces.detection.boxes import tiles
from tinyfaces.detection.context import min_score_needed, rescore_by_neighbours
from tinyfaces.detection.crops import crop_squares, cut_crops
from tinyfaces.detection.decoding import find_faces
from tinyfaces.detection.fusion import FusionRule
from tinyfaces.detection.merging import merge
from tinyfaces.detection.second_stage import Judgements, fused
from tinyfaces.detection.views import View
from tinyfaces.jobs.masking import MaskStyle, Plane, mask_faces
from tinyfaces.weights import second_stage

pytestmark = needs_browser

TAB = Path(tinyfaces.service.__file__).parent / "tab"

# Arrays travel both ways as text, compressed, as text takes its time.
_BRIDGE = """
const through = (values, stream) => new Response(new Blob([values]).stream().pipeThrough(stream)).arrayBuffer();
window.bytes = async (text) => {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Uint8Array(await through(packed, new DecompressionStream("deflate")));
};
window.floats = async (text) => new Float32Array((await bytes(text)).buffer);
window.picture = async ([width, height, text]) => ({ width, height, pixels: await bytes(text) });
window.text = async (values) => {
  const packed = new Uint8Array(await through(values, new CompressionStream("deflate")));
  let letters = "";
  for (let at = 0; at < packed.length; at += 30000) letters += String.fromCharCode(...packed.subarray(at, at + 30000));
  return btoa(letters);
};
window.sent = async ({ width, height, pixels }) => [width, height, await text(pixels)];
window.faces = async ({ boxes, scores }) => [await text(boxes), await text(scores)];
window.read = async ([boxes, scores]) => ({ boxes: await floats(boxes), scores: await floats(scores) });
undefined;
"""


@pytest.fixture(scope="module")
def tab(browser):
    """A page in which the modules can be imported."""
    with (
        static_server(TAB) as address,
        watched_pages(
            browser,
            address,
            "/refusal.js",
            {"width": 400, "height": 300},
            expected="404 (File not found)",  # an icon
        ) as open_it,
    ):
        page = open_it()
        page.evaluate(_BRIDGE)
        yield page


def as_text(values: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes(), 1)).decode()


def from_text(text: str, kind: type) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), kind)


def as_picture(pixels: np.ndarray) -> list:
    return [pixels.shape[1], pixels.shape[0], as_text(pixels)]


def from_picture(given: list) -> np.ndarray:
    width, height, text = given
    return from_text(text, np.uint8).reshape(height, width, 3)


def from_faces(given: list) -> Faces:
    return Faces(from_text(given[0], np.float32).reshape(-1, 4), from_text(given[1], np.float32))


def levels_off() -> int:
    """How far from ours this Pillow may be: older ones never scale down first, and round other values for it."""
    photo = Image.fromarray(noise(200, 3))
    kernel = Image.Resampling.BILINEAR
    first_down = photo.resize((3, 7), kernel).resize((5, 7), kernel)
    return 0 if (np.asarray(photo.resize((5, 7), kernel)) == np.asarray(first_down)).all() else 3


def same_pixels(ours: np.ndarray, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(ours.astype(int), theirs.astype(int), rtol=0, atol=levels_off())


def same_faces(ours: Faces, theirs: Faces) -> None:
    assert len(ours) == len(theirs) > 0
    order, other = (np.lexsort(faces.boxes.round(1).T) for faces in (ours, theirs))
    np.testing.assert_allclose(ours.boxes[order], theirs.boxes[other], atol=2e-3)
    np.testing.assert_allclose(ours.scores[order], theirs.scores[other], atol=2e-5)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def random_faces(count: int, side: float, seed: int) -> Faces:
    random = np.random.default_rng(seed)
    corners = random.uniform(0, side, (count, 2))
    sizes = random.uniform(5, 60, (count, 2))
    return Faces(np.concatenate([corners, corners + sizes], 1), random.uniform(0.05, 0.99, count))


@pytest.mark.parametrize("kernel", ["BILINEAR", "BICUBIC"])
@pytest.mark.parametrize(
    "size, target, box",
    [
        ((40, 30), (60, 45), None),
        ((97, 61), (33, 20), None),
        ((97, 61), (97, 20), None),
        ((50, 50), (31, 47), (3.3, 0.7, 41.9, 49.2)),
        ((50, 50), (50, 50), (0.25, 0.5, 49.75, 50)),
        ((3, 200), (5, 7), None),
        ((60, 90), (50, 61), (2.5, 3.5, 50, 80)),
    ],
)
def test_pictures_are_scaled_as_pillow_does(tab, kernel, size, target, box):
    pixels = noise(size[1], size[0])
    wanted = np.asarray(Image.fromarray(pixels).resize(target, Image.Resampling[kernel], box=box))
    given = tab.evaluate(
        """async ([photo, [width, height], kernel, box]) => {
        const module = await import("/resampling.js");
        const small = module.resize(await picture(photo), width, height, module[kernel], box ?? undefined);
        return sent(small);
    }""",
        [as_picture(pixels), target, kernel, box],
    )
    same_pixels(from_picture(given), wanted)


@pytest.mark.parametrize(
    "size, working, rectangle",
    [
        ((560, 405), (644, 466), (0, 0, 644, 466)),  # enlarged
        ((1100, 700), (1100, 700), (0, 0, 1100, 700)),
        ((1100, 700), (1100, 700), (96, 64, 800, 700)),
        ((900, 2300), (640, 1636), (0, 0, 640, 1636)),
        ((270, 3), (270, 3), (0, 0, 270, 3)),
    ],
)
def test_views_and_their_thumbnails_are_those_of_python(tab, size, working, rectangle):
    pixels = np.asarray(Image.fromarray(noise(size[1] // 3, size[0] // 5)).resize(size, Image.Resampling.NEAREST))
    view = View.of(pixels, working, rectangle)
    small = view.thumbnail()
    given = tab.evaluate(
        """async ([photo, working, rectangle]) => {
        const { thumbnail, viewOf } = await import("/views.js");
        const view = viewOf(await picture(photo), working, rectangle);
        const parts = [view, thumbnail(view)];
        return Promise.all(parts.map(async (part) => [...(await sent(part)), part.perPixel]));
    }""",
        [as_picture(pixels), working, rectangle],
    )
    for (width, height, text, per_pixel), wanted in zip(given, (view, small), strict=True):
        same_pixels(from_picture([width, height, text]), wanted.pixels)
        assert per_pixel == pytest.approx(wanted.per_pixel)


def test_strips_are_scaled_as_in_python(tab):
    """A photo so large that its view is scaled in several strips."""
    pixels = np.asarray(Image.fromarray(noise(60, 40)).resize((2000, 3000), Image.Resampling.NEAREST))
    wanted = View.of(pixels, (1090, 1635), (0, 0, 1090, 1635)).pixels
    given = tab.evaluate(
        """async ([photo]) => {
        const { viewOf } = await import("/views.js");
        const view = viewOf(await picture(photo), [1090, 1635], [0, 0, 1090, 1635]);
        return sent(view);
    }""",
        [as_picture(pixels)],
    )
    same_pixels(from_picture(given), wanted)


@pytest.mark.parametrize("length", [*range(1270, 1300, 7), 1409, 2433, 5000, 12001])
def test_tiles_are_those_of_python(tab, length):
    given = tab.evaluate('async (length) => (await import("/boxes.js")).tiles(length, 1300, 1280, 128, 32)', length)
    assert given == tiles(length, 1300, 1280, 128, 32).tolist()


@pytest.mark.parametrize("threshold", [0.15, 0.66])
def test_maps_are_decoded_as_in_python(tab, threshold):
    random = np.random.default_rng(1)
    width, height = 150, 90
    maps = []
    for stride in (4, 8, 16, 32):
        logits = random.normal(-3, 2.5, (1, 96 // stride, 160 // stride))
        rest = random.normal([[[0]], [[0]], [[0.9]], [[1]]], 0.4, (4, 96 // stride, 160 // stride))
        maps.append(np.concatenate([logits, rest]).astype(np.float32))
    given = tab.evaluate(
        """async ([maps, threshold]) => {
        const { findFaces } = await import("/decoding.js");
        return faces(findFaces(await Promise.all(maps.map(floats)), [160, 96], [150, 90], threshold));
    }""",
        [[as_text(map) for map in maps], threshold],
    )
    same_faces(from_faces(given), find_faces(maps, threshold, (height, width)))


@pytest.mark.parametrize("count", [1, 5, 9, 60])
def test_scores_depend_on_neighbours_as_in_python(tab, count):
    found = random_faces(count, 500, count)
    given = tab.evaluate(
        """async (given) => {
        const { minScoreNeeded, rescoreByNeighbours } = await import("/context.js");
        const found = await faces(rescoreByNeighbours(await read(given)));
        return [...found, [0.15, 0.66].map(minScoreNeeded)];
    }""",
        [as_text(found.boxes), as_text(found.scores)],
    )
    same_faces(from_faces(given), rescore_by_neighbours(found))
    assert given[2] == pytest.approx([min_score_needed(0.15), min_score_needed(0.66)])


def test_faces_of_regions_are_merged_as_in_python(tab):
    regions = [[0, 0, 500, 500], [0, 0, 280, 500], [220, 0, 500, 500]]
    parts, known = [], random_faces(120, 440, 0)
    for seed, (x1, _, x2, _) in enumerate(regions):
        random = np.random.default_rng(seed)
        boxes = (known.boxes + random.normal(0, 1, known.boxes.shape)).clip([x1, 0, x1, 0], [x2, 500, x2, 500])
        scores = (known.scores + random.normal(0, 0.1, len(known))).clip(0.05, 0.99)
        parts.append(Faces(boxes, scores)[boxes[:, 2] > boxes[:, 0] + 3])
    wanted = merge(parts, [np.array(region, np.float64) for region in regions], 500, 500)
    assert len(wanted) < sum(map(len, parts)) - 50
    given = tab.evaluate(
        """async ([parts, regions]) => {
        const { merge } = await import("/merging.js");
        return faces(merge(await Promise.all(parts.map(read)), regions));
    }""",
        [[[as_text(part.boxes), as_text(part.scores)] for part in parts], regions],
    )
    same_faces(from_faces(given), wanted)


@pytest.mark.parametrize("kind", ["WEBP", "PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_are_read_upright(tab, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    smooth = Image.fromarray(noise(4, 5)).resize((50, 40), Image.Resampling.BICUBIC)
    smooth.save(content, kind, exif=exif, **options)
    given = tab.evaluate(
        """async ([file, kind]) => {
        const { readPhoto } = await import("/photos.js");
        const photo = await readPhoto(new Blob([await bytes(file)], { type: kind }), 1);
        return [...(await sent(photo)), photo.turned];
    }""",
        [as_text(np.frombuffer(content.getvalue(), np.uint8)), f"image/{kind.lower()}"],
    )
    wanted = read_image(content.getvalue())
    assert np.abs(from_picture(given[:3]).astype(int) - wanted).max() <= (3 if kind == "JPEG" else 0)
    assert given[3] == (kind == "WEBP" and orientation > 1)


def test_transparent_parts_are_white_and_profiles_are_passed_over(tab):
    """As in Python, which takes the numbers of a file as they are."""
    pixels = np.dstack([noise(20, 30), np.linspace(0, 255, 600).reshape(20, 30).astype(np.uint8)])
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    swapped = bytearray(profile.tobytes())
    red, blue = swapped.index(b"rXYZ"), swapped.index(b"bXYZ")
    swapped[red : red + 4], swapped[blue : blue + 4] = b"bXYZ", b"rXYZ"
    for values, options in ((pixels, {}), (pixels[..., :3], {"icc_profile": bytes(swapped)})):
        content = io.BytesIO()
        Image.fromarray(values).save(content, "PNG", **options)
        given = tab.evaluate(
            """async (file) => {
            const { readPhoto } = await import("/photos.js");
            return sent(await readPhoto(new Blob([await bytes(file)]), 1));
        }""",
            as_text(np.frombuffer(content.getvalue(), np.uint8)),
        )
        assert np.abs(from_picture(given).astype(int) - read_image(content.getvalue())).max() <= 1


_TOY = """(image, width, height) => [4, 8, 16, 32].map((stride) => {
    const columns = width / stride, count = columns * (height / stride);
    const map = new Float32Array(5 * count).fill(-50, 0, count);
    const channel = { 8: 0, 32: 1 }[stride];
    if (channel !== undefined)
      for (let place = 0; place < count; place++) {
        let sum = 0;
        const left = (place % columns) * stride, top = Math.floor(place / columns) * stride;
        for (let y = top; y < top + stride; y++)
          for (let x = left; x < left + stride; x++) sum += image[channel * width * height + y * width + x];
        map[place] = 0.1 * (sum / stride ** 2) - 20.5;
      }
    return map;
})"""
"""The network that `toy_model` makes."""


@pytest.mark.parametrize("size", [(160, 320), (200, 120), (2304, 2048)])
def test_a_photo_is_searched_as_in_python(tab, toy_model, size):
    """With faces on borders of tiles and large ones, which come from the reduced views."""
    height, width = size
    large = [(x, y) for x in range(64, width - 64, 320) for y in range(32, height - 64, 288)]
    small = [(x, y) for x in range(0, width - 8, 104) for y in range(0, height - 8, 136)]
    pixels = paint(height, width, small, large)
    if height > 2000:
        pixels[512:1024, 512:1024] = (0, 255, 0)
    given = tab.evaluate(
        f"""async ([photo]) => {{
        const {{ propose }} = await import("/first_stage.js");
        return faces(await propose(await picture(photo), 0.3, {{ run: {_TOY}, enlarges: false }}));
    }}""",
        [as_picture(pixels)],
    )
    same_faces(from_faces(given), Detector(toy_model).detect(pixels, threshold=0.3))


RULES = second_stage().rules


@pytest.mark.parametrize("model", RULES)
def test_scores_are_fused_as_in_python(tab, model):
    rule = FusionRule.from_dict(RULES[model])
    grid = np.meshgrid([0, 0.05, 0.2, 0.5, 0.69, 0.95, 1], [-20, -3, -0.4, 0, 1.7, 4.9, 20], [0.5, 3, 11.3, 24, 64, 900])
    scores, logits, sides = (values.ravel().astype(np.float32) for values in grid)
    thresholds = [0, 0.05, 0.15, 0.25, 0.4, 0.69, 0.9, 0.97, 1]
    given, lowest = tab.evaluate(
        """async ([rule, scores, logits, sides, thresholds]) => {
        const { fused, minProposalScore } = await import("/fusion.js");
        const scored = scores.map((score, n) => fused(rule, score, logits[n], sides[n]));
        return [scored, thresholds.map((threshold) => minProposalScore(rule, threshold))];
    }""",
        [RULES[model], scores.tolist(), logits.tolist(), sides.tolist(), thresholds],
    )
    np.testing.assert_allclose(given, rule.fuse(scores, logits, sides), atol=1e-6)
    np.testing.assert_allclose(lowest, [rule.min_proposal_score(one) for one in thresholds], atol=1e-6)


def toy_judgements(crops: np.ndarray) -> Judgements:
    """What a judge might say that looks at means: one that reads nothing but the crops."""
    red, green, blue = (crops.mean((1, 2)) / 255).T
    box = np.stack([red - blue, 3 * (green - 0.5), 4 * (blue - 0.5), red - green], 1)
    return Judgements((4 * (red - 0.5)).astype(np.float32), box.astype(np.float32))


_TOY_JUDGE = """async (crops) => {
    const mean = (values) => values.reduce((sum, one) => sum + one) / values.length;
    const means = crops.map((crop) => [0, 1, 2].map((channel) => mean(crop.slice(256 * channel, 256 * channel + 256))));
    const offsetsOf = ([red, green, blue]) => [red - blue, 3 * (green - 0.5), 4 * (blue - 0.5), red - green];
    return {
        logits: Float32Array.from(means, ([red]) => 4 * (red - 0.5)),
        offsets: Float32Array.from(means.flatMap(offsetsOf)),
    };
}"""
"""The same."""


@pytest.mark.parametrize("model", RULES)
@pytest.mark.parametrize("count", [0, 3, 200])
def test_candidates_are_judged_as_in_python(tab, model, count):
    """Small and large ones, unlikely and sure ones, some at the border, some on others; in several batches."""
    rule = FusionRule.from_dict(RULES[model])
    pixels = np.asarray(Image.fromarray(noise(12, 16)).resize((320, 240), Image.Resampling.BICUBIC))
    random = np.random.default_rng(count)
    corners, sizes = random.uniform(0, [300, 220], (count, 2)), random.uniform(4, 30, (count, 2))
    boxes = np.concatenate([corners, corners + sizes], 1)
    boxes[: count // 3] = boxes[count // 3 : 2 * (count // 3)] + 1.5
    boxes = boxes.clip(0, [320, 240] * 2)
    proposals = Faces(boxes, np.sort(random.uniform(0.05, 0.99, count))[::-1])
    places = np.flatnonzero(rule.selects(proposals.boxes, proposals.scores))
    judged = toy_judgements(cut_crops(pixels, crop_squares(proposals.boxes[places]), 16))
    wanted = fused(proposals, places, judged, rule, 320, 240)
    given = tab.evaluate(
        f"""async ([photo, proposals, rule]) => {{
        const {{ judged }} = await import("/second_stage.js");
        const given = await read(proposals), before = String(given.boxes) + given.scores, batches = [];
        const judge = async (crops) => (batches.push(crops.length), ({_TOY_JUDGE})(crops));
        const found = await judged(await picture(photo), given, {{ judge, rule }});
        return [...(await faces(found)), batches, String(given.boxes) + given.scores === before];
    }}""",
        [as_picture(pixels), [as_text(proposals.boxes), as_text(proposals.scores)], RULES[model]],
    )
    assert sum(given[2]) == len(places) and max(given[2], default=0) <= 32 and given[3], "what was given must stay as it is"
    faces = from_faces(given[:2])
    assert (np.diff(faces.scores) <= 0).all() and len(faces) <= count
    if count == 200:
        assert len(places) > 64 and len(faces) < count
    if count:
        same_faces(faces, wanted)


@pytest.mark.parametrize("method", ["blur", "pixelate", "solid"])
@pytest.mark.parametrize("strength", [1, 3, 5])
def test_faces_are_masked_as_in_python(tab, method, strength):
    pixels = noise(90, 120)
    boxes = np.array([[10.2, 12.7, 17.9, 21.1], [40, 20, 80, 75.5], [100, -4, 130, 20], [-30, -30, -20, -20]], np.float32)
    wanted = pixels.copy()
    mask_faces([Plane(wanted[..., channel], 1, 1, 0) for channel in range(3)], boxes, MaskStyle(method, strength=strength))
    given = tab.evaluate(
        """async ([photo, boxes, method, strength]) => {
        const { masked } = await import("/masking.js");
        const given = await picture(photo);
        const before = String(given.pixels);
        const made = masked(given, boxes, method, strength);
        return [...(await sent(made)), String(given.pixels) === before];
    }""",
        [as_picture(pixels), boxes.astype(float).round(3).tolist(), method, strength],
    )
    made = from_picture(given[:3])
    assert given[3], "the picture itself must stay as it is"
    assert np.abs(made.astype(int) - wanted).max() <= 1  # means just between two numbers
    assert ((made != pixels) == (wanted != pixels)).mean() > 0.999 and (made != pixels).mean() > 0.1


def test_frames_are_drawn_as_in_python(tab):
    pixels = noise(120, 160)
    boxes = np.array([[10.5, 12.2, 17.5, 21.6], [40, 2, 110, 118], [-3, 50, 20, 90], [150, 100, 175, 140]], np.float32)
    given = tab.evaluate(
        """async ([photo, boxes]) => {
        const made = (await import("/framing.js")).framed(await picture(photo), boxes);
        return sent(made);
    }""",
        [as_picture(pixels), boxes.tolist()],
    )
    np.testing.assert_array_equal(from_picture(given), np.asarray(Faces(boxes, np.ones(4)).draw(pixels)))


@pytest.mark.parametrize("box", [[20.3, 30.1, 27.9, 39.4], [0, 0, 14, 25], [60, 50, 99.5, 79]])
def test_crops_to_restore_are_those_of_python(tab, box):
    pixels = noise(80, 100)
    wanted = cut_crops(pixels, crop_squares(np.array([box], np.float32)), 16)[0]
    given = tab.evaluate(
        """async ([photo, box]) => {
        const { restored } = await import("/restoring.js");
        let crop;
        const made = await restored(await picture(photo), box, async (values) => {
            crop = values;
            return Float32Array.from({ length: 3 * 64 * 64 }, (_, at) => at / 12287 * 1.2 - 0.1);
        });
        return [await text(crop), ...(await sent(made))];
    }""",
        [as_picture(pixels), np.float32(box).tolist()],
    )
    crop = from_text(given[0], np.float32).reshape(3, 16, 16).transpose(1, 2, 0)
    same_pixels(np.rint(crop * 255), wanted)
    shown = from_picture(given[1:])
    values = (np.arange(12288) / 12287 * 1.2 - 0.1).astype(np.float32).reshape(3, 64, 64).transpose(1, 2, 0)
    np.testing.assert_array_equal(shown, np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8))

"""Crops and their cache: boxes stay on the faces, whatever is done to the photo."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
cv2 = pytest.importorskip("cv2")

from tinyfaces.data.annotations import AnnotatedImage, AnnotationError  # noqa: E402
from tinyfaces.detection.boxes import mirror  # noqa: E402
from tinyfaces.detection.images import ImageError  # noqa: E402
from tinyfaces.training.cache import open_cache  # noqa: E402
from tinyfaces.training.photo_crops import (  # noqa: E402
    CropBatch,
    CropDataset,
    CropSettings,
    Part,
    compressed,
    cut_cell,
    degrade,
    ignore_mask,
    left_empty,
    turned,
    write_lines,
)


def _photo(folder, name, width, height, boxes, ignore=()):
    """A dark photo with each face a white box, each ignored one grey."""
    pixels = np.full((height, width, 3), 20, np.uint8)
    flags = np.array([number in ignore for number in range(len(boxes))], bool)
    for (x1, y1, x2, y2), skip in zip(boxes, flags, strict=True):
        pixels[y1:y2, x1:x2] = 130 if skip else 255
    Image.fromarray(pixels).save(folder / name)
    known = np.array(boxes, np.float32).reshape(-1, 4)
    return AnnotatedImage(folder / name, width, height, known, flags, np.ones(len(known), np.float32))


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    images = []
    for number in range(4):
        width, height = int(rng.integers(300, 900)), int(rng.integers(300, 900))
        boxes = []
        for x in range(20, width - 80, 90):
            for y in range(20, height - 80, 90):
                w, h = rng.integers(12, 60, 2)
                boxes.append((x, y, x + int(w), y + int(h)))
        images.append(_photo(tmp_path, f"{number}.png", width, height, boxes, ignore=(0, 5)))
    images.append(_photo(tmp_path, "none.png", 200, 150, []))
    return images


def test_the_cache_holds_the_pixels_and_is_used_again(photos, tmp_path):
    cache = open_cache(photos, tmp_path / "cache", workers=1)
    for number, image in enumerate(photos):
        assert (cache[number] == np.asarray(Image.open(image.path))).all()
    files = [(f.name, f.stat().st_mtime_ns) for f in (tmp_path / "cache").iterdir()]
    open_cache(photos, tmp_path / "cache", workers=1)
    assert [(f.name, f.stat().st_mtime_ns) for f in (tmp_path / "cache").iterdir()] == files and len(files) == 1


def test_a_photo_listed_twice_is_decoded_once(photos, tmp_path):
    cache = open_cache([photos[1], photos[0], photos[1]], tmp_path / "cache", workers=1)
    for number, image in enumerate([photos[1], photos[0], photos[1]]):
        assert (cache[number] == np.asarray(Image.open(image.path))).all()
    (file,) = (tmp_path / "cache").iterdir()
    assert file.stat().st_size == sum(image.width * image.height * 3 for image in photos[:2]) and len(cache) == 3
    with pytest.raises(AnnotationError, match="its annotation says 7x"):
        open_cache([replace(photos[0], width=7), photos[0]], tmp_path / "cache", workers=1)


def test_a_failed_cache_leaves_nothing(photos, tmp_path):
    photos[1].path.write_bytes(b"broken")
    with pytest.raises(ImageError, match=r"1\.png"):
        open_cache(photos, tmp_path / "cache", workers=1)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_photo_of_another_size_is_told(photos, tmp_path):
    Image.new("RGB", (10, 10)).save(photos[2].path)
    with pytest.raises(AnnotationError, match="is 10x10"):
        open_cache(photos, tmp_path / "cache", workers=1)


def _mean_inside(pixels, box):
    x1, y1, x2, y2 = np.array([np.ceil(box[0]), np.ceil(box[1]), np.floor(box[2]), np.floor(box[3])], int)
    return pixels[y1:y2, x1:x2].mean()


@pytest.mark.parametrize("seed", range(30))
def test_boxes_lie_on_the_faces(photos, tmp_path, seed):
    rng = np.random.default_rng(seed)
    image = photos[seed % 4]
    cell = np.full((160, 160, 3), 114, np.uint8)
    settings = CropSettings(size=160, turned_share=0.0, lying_share=0.3)
    boxes, ignore, part = cut_cell(np.asarray(Image.open(image.path)), image, cell, settings, rng)
    assert 0 in (part.x, 160 - part.x - part.width) and 0 in (part.y, 160 - part.y - part.height)
    assert (boxes >= 0).all() and (boxes <= 160).all() and len(boxes) == len(ignore)
    large = ((boxes[:, 2:] - boxes[:, :2]) > 4).all(1)
    assert (large & ~ignore).any()
    for box, skipped in zip(boxes[large], ignore[large], strict=True):
        assert _mean_inside(cell, box) > (90 if skipped else 200)
    inside = np.zeros((160, 160), bool)
    for x1, y1, x2, y2 in np.round(boxes).astype(int):
        inside[max(y1 - 2, 0) : y2 + 2, max(x1 - 2, 0) : x2 + 2] = True
    assert (cell[~inside].max(-1) > 200).mean() < 0.01


def test_chosen_faces_get_the_wanted_heights(photos, tmp_path):
    settings = CropSettings(size=128, small_share=1.0, small_heights=(10, 12), scales=(0.05, 8), turned_share=0, lying_share=0)
    image = _photo(tmp_path, "one.png", 400, 400, [(180, 180, 230, 240)])
    for seed in range(20):
        cell = np.zeros((128, 128, 3), np.uint8)
        boxes, _, _ = cut_cell(np.asarray(Image.open(image.path)), image, cell, settings, np.random.default_rng(seed))
        assert 9.5 <= boxes[0, 3] - boxes[0, 1] <= 12.5


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_so_many_cells_show_any_place_at_a_quarter_to_the_whole_of_its_size(tmp_path, share):
    image = _photo(tmp_path, "one.png", 1600, 1200, [(700, 500, 800, 600)])
    settings = CropSettings(small_share=1.0, small_heights=(20.0, 20.0), turned_share=0, lying_share=0, anywhere_share=share)
    pixels, rng, chosen, heights = np.asarray(Image.open(image.path)), np.random.default_rng(3), 0, []
    for _ in range(300):
        boxes, ignored, _ = cut_cell(pixels, image, np.zeros((448, 448, 3), np.uint8), settings, rng)
        height = float((boxes[:, 3] - boxes[:, 1])[~ignored].max(initial=0.0))
        chosen += abs(height - 20) < 1  # around the face, which anywhere else is 25 px or none
        heights.append(height)
    assert abs(chosen / 300 - (1 - share)) < 0.09
    assert share == 0 or (25 < max(heights) <= 101 and min(heights) == 0)


def test_turned_boxes_hold_the_turned_faces():
    rng = np.random.default_rng(0)
    for degrees in (-90, -30, -7, 12, 25, 90):
        piece = np.zeros((200, 200, 3), np.uint8)
        middle, axes = rng.integers(60, 140, 2), rng.integers(15, 40, 2)
        cv2.ellipse(piece, tuple(map(int, middle)), tuple(map(int, axes)), 0, 0, 360, (255,) * 3, -1)
        before = np.concatenate([middle - axes, middle + axes + 1])[None].astype(np.float32)
        picture, boxes = turned(piece, before, degrees)
        y, x = np.nonzero(picture[..., 0] > 127)
        inner = (x > 1) & (y > 1) & (x < 198) & (y < 198) & (np.abs(picture[y, x].astype(int) - 114).max(1) > 30)
        found = [x[inner].min(), y[inner].min(), x[inner].max() + 1, y[inner].max() + 1]
        np.testing.assert_allclose(boxes[0], found, atol=1.6)


def test_what_a_photo_leaves_empty_is_filled_without_overlap(photos, tmp_path):
    cell = Part(16, 32, 100, 80)
    for used in (Part(0, 0, 60, 50), Part(40, 0, 60, 50), Part(0, 30, 60, 50), Part(40, 30, 60, 50), Part(0, 0, 100, 80)):
        canvas = np.zeros((200, 200), int)
        for x, y, width, height in [*left_empty(cell, used, 1), Part(cell.x + used.x, cell.y + used.y, used.width, used.height)]:
            canvas[y : y + height, x : x + width] += 1
        expected = np.zeros((200, 200), int)
        expected[32:112, 16:116] = 1
        np.testing.assert_array_equal(canvas, expected)
    assert left_empty(cell, Part(0, 0, 60, 50), 41) == []
    assert left_empty(cell, Part(0, 0, 60, 50), 40) == [Part(76, 32, 40, 80)]


def test_letters_are_written_beside_the_faces():
    boxes = np.array([[100, 100, 160, 180]], np.float32)
    written = 0
    for seed in range(20):
        pixels = np.full((256, 256, 3), 114, np.uint8)
        write_lines(pixels, boxes, np.random.default_rng(seed))
        assert (pixels[100:180, 100:160] == 114).all()
        written += int((pixels != 114).any())
    assert written > 10


def test_crops_are_a_function_of_seed_and_number(photos, tmp_path):
    cache = open_cache(photos, tmp_path / "cache", workers=1)
    settings = CropSettings(size=128)
    weights = np.array([1, 1, 1, 1, 0.5])

    def crops(first, length, seed=3):
        data = CropDataset(photos, cache, weights, settings, seed, first, length)
        return [data[number] for number in range(length)]

    whole, later, other = crops(0, 8), crops(5, 3), crops(0, 8, seed=4)
    for a, b in zip(whole[5:], later, strict=True):
        assert (a.pixels == b.pixels).all() and (a.boxes == b.boxes).all() and (a.ignored == b.ignored).all()
    assert any((a.pixels != b.pixels).any() for a, b in zip(whole, other, strict=True))
    batch = CropBatch.of(whole)
    assert batch.pixels.shape == (8, 128, 128, 3) and batch.ignored.shape == (8, 32, 32)
    assert [int((batch.owners == n).sum()) for n in range(8)] == [len(crop.boxes) for crop in whole]
    mirrored = batch.mirrored()
    assert (mirrored.pixels.numpy() == batch.pixels.numpy()[:, :, ::-1]).all()
    assert (mirrored.ignored.numpy() == batch.ignored.numpy()[:, :, ::-1]).all()
    assert np.allclose(mirrored.boxes.numpy(), mirror(batch.boxes.numpy(), 128)) and len(batch.boxes) > 8
    with pytest.raises(IndexError):
        CropDataset(photos, cache, weights, settings, 3, 0, 2)[2]


def test_ignore_mask_covers_what_it_touches():
    mask = ignore_mask(np.array([[5.0, 8, 12, 9]]), 32)
    assert np.argwhere(mask).tolist() == [[2, 1], [2, 2]]


def test_degrading_changes_values_only():
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    changed = 0
    for seed in range(20):
        worse = degrade(pixels.copy(), np.random.default_rng(seed))
        assert worse.shape == pixels.shape and worse.dtype == np.uint8
        changed += bool((worse != pixels).any())
    assert 10 <= changed < 20


def test_light_is_coloured_now_and_then():
    grey = np.full((8, 8, 3), 100, np.uint8)
    means = np.array([degrade(grey, np.random.default_rng(seed)).mean((0, 1)) for seed in range(600)])
    strong = means.max(axis=1) / np.maximum(means.min(axis=1), 1) > 1.4
    assert 0.03 < strong.mean() < 0.09  # 0.6 x 0.15, less those made grey and those of like channels


def test_a_crop_around_a_hard_negative_shows_it(tmp_path):
    """A photo with a face on the left and, far from it, a blue hard negative."""
    image = _photo(tmp_path, "one.png", 1200, 800, [(60, 60, 120, 140)])
    negative = np.array([[900, 600, 960, 660]], np.float32)
    pixels = np.asarray(Image.open(image.path)).copy()
    pixels[600:660, 900:960] = (0, 0, 255)
    image = replace(image, hard_negatives=negative)
    settings = CropSettings(size=256, grids=(1,), grid_shares=(1.0,), negative_share=0.5, scales=(0.5, 1.4))
    rng, shown, faces = np.random.default_rng(5), 0, 0
    for _ in range(200):
        cell = np.zeros((256, 256, 3), np.uint8)
        boxes, ignore, _ = cut_cell(pixels, image, cell, settings, rng)
        blue = ((cell[..., 2] > 200) & (cell[..., 0] < 60)).sum()
        shown += blue > 0.25 * (60 * settings.own_scales[0]) ** 2
        faces += bool((~ignore).any())
        assert not (blue > 0 and len(boxes)), "one or the other: no crop reaches from one to the other"
    assert abs(shown / 200 - 0.5) < 0.1 and abs(faces / 200 - 0.5) < 0.1
    always = replace(settings, negative_share=1.0)
    for seed in range(40):
        cell = np.zeros((256, 256, 3), np.uint8)
        boxes, _, _ = cut_cell(pixels, image, cell, always, np.random.default_rng(seed))
        assert len(boxes) == 0 and (cell[..., 2] > 200).any(), "background is background"


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_so_many_cells_have_a_scale_near_that_of_the_photo(tmp_path, share):
    image = _photo(tmp_path, "one.png", 900, 900, [(400, 400, 500, 500)])
    settings = CropSettings(
        small_share=1.0, small_heights=(20.0, 20.0), own_scale_share=share, own_scales=(0.8, 1.25), turned_share=0, lying_share=0
    )
    pixels, rng, own = np.asarray(Image.open(image.path)), np.random.default_rng(3), []
    for _ in range(300):
        boxes, ignored, _ = cut_cell(pixels, image, np.zeros((448, 448, 3), np.uint8), settings, rng)
        whole = boxes[~ignored & (abs(boxes[:, 2] - boxes[:, 0] - boxes[:, 3] + boxes[:, 1]) < 1.5)]  # not cut
        if len(whole):
            height = float(whole[0, 3] - whole[0, 1])
            own.append(height > 40)
            assert abs(height - 20) < 1 or 79 <= height <= 126
    assert len(own) > 200 and abs(np.mean(own) - share) < 0.09


def test_compression_takes_red_for_red(tmp_path):
    """As Pillow compresses RGB: luminance, which is coded finely, is mostly green, some red, little blue."""
    rng = np.random.default_rng(0)
    pixels = np.clip(rng.normal(128, 40, (96, 96, 3)), 0, 255).astype(np.uint8)
    pixels[..., 2] = rng.integers(0, 256, (96, 96))
    ours = compressed(pixels, 50).astype(int)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=50)
    theirs = np.asarray(Image.open(tmp_path / "a.jpg")).astype(int)
    assert np.abs(ours - theirs).mean() < 2
    lost = np.abs(ours - pixels).mean((0, 1))
    assert lost[2] > lost[0] + 5 > lost[1]

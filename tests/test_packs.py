"""Packs: what goes in comes out, scaled with its photo, and a pack that becomes ready later is taken in."""

import gzip
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")

from tinyfaces.cli import app  # noqa: E402
from tinyfaces.data.annotations import read_coco  # noqa: E402
from tinyfaces.detection.images import read_image  # noqa: E402
from tinyfaces.training import packs  # noqa: E402
from tinyfaces.training.cache import open_cache  # noqa: E402
from tinyfaces.training.packs import PackConfig, PackLibrary, PackSource, chosen_photos, prepare_pack, write_packs  # noqa: E402
from tinyfaces.training.settings import Source, read_sources  # noqa: E402

FACE, DOUBTFUL, NEGATIVE = (40, 60, 40, 50), (150, 20, 30, 30), (100, 120, 60, 40)  # x y w h


def write_source(folder, name, count, size=(240, 180), first=0):
    """A COCO file and its photos: grey, with a white face and a bright red hard negative each."""
    images, boxes = [], []
    (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.full((size[1], size[0], 3), 40, np.uint8)
        x, y, w, h = FACE
        pixels[y : y + h, x : x + w] = 255
        x, y, w, h = NEGATIVE
        pixels[y : y + h, x : x + w] = (230, 20, 20)
        Image.fromarray(pixels).save(folder / name / f"{first + number}.png")
        entry = {"id": number, "file_name": f"{name}/{first + number}.png", "width": size[0], "height": size[1]}
        images.append({**entry, "hard_negatives": [[*NEGATIVE, 0.9]]} if number % 2 == 0 else entry)
        boxes.append({"id": 2 * number, "image_id": number, "category_id": 1, "bbox": FACE})
        boxes.append({"id": 2 * number + 1, "image_id": number, "category_id": 1, "bbox": DOUBTFUL, "ignore": 1, "score": 0.3})
    coco = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "face"}]}
    file = folder / f"{name}.json.gz"
    file.write_bytes(gzip.compress(json.dumps(coco).encode()))
    return PackSource(annotations=str(file), images=str(folder), side=1024, quality=90)


def shares(**values):
    return {"street": 0.75, "stands": 0.25, **values}


@pytest.mark.parametrize("side,scale", [(1024, 1.0), (120, 0.5)])
def test_photos_boxes_and_hard_negatives_come_back_scaled_alike(tmp_path, side, scale):
    source = write_source(tmp_path, "street", 4)
    config = PackConfig((PackSource(annotations=source.annotations, images=source.images, side=side, quality=90),))
    ((pack, photos),) = write_packs(config, tmp_path / "packs", megabytes=10, workers=1)
    assert len(photos) == 4 and pack.name == "00.zip"
    folder = prepare_pack(pack, tmp_path / "cache")
    read = read_coco(folder / packs.ANNOTATIONS, folder)
    assert sorted(len(image.hard_negatives) for image in read) == [0, 0, 1, 1]
    for image in read:
        assert (image.width, image.height) == (240 * scale, 180 * scale)
        x, y, w, h = np.array(FACE) * scale
        np.testing.assert_allclose(image.boxes[0], [x, y, x + w, y + h], atol=0.01)
        assert image.ignore.tolist() == [False, True] and image.scores[1] == pytest.approx(0.3)
        pixels = read_image(image.path).astype(int)
        assert pixels[round(y + h / 2), round(x + w / 2)].min() > 230
        for left, top, right, bottom in image.hard_negatives:
            red, green, blue = pixels[round((top + bottom) / 2), round((left + right) / 2)]
            assert red > 180 and green < 80 and blue < 80
            assert right - left == pytest.approx(NEGATIVE[2] * scale, abs=0.1)


def test_packs_are_bounded_and_each_is_a_sample_of_all_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(packs, "_ENTRY_BYTES", 10_000)  # so that ten photos fill a pack of 0.1 MB
    config = PackConfig((write_source(tmp_path, "street", 16), write_source(tmp_path, "stands", 8)))
    written = list(write_packs(config, tmp_path / "packs", megabytes=0.1, workers=1))
    assert [path.name for path, _ in written] == ["00.zip", "01.zip", "02.zip"]
    names = [[photo.image["file_name"] for photo in photos] for _, photos in written]
    assert len({name for pack in names for name in pack}) == 24
    for pack in names[:2]:
        assert 2 <= sum(name.startswith("stands") for name in pack) <= 4


def test_of_a_limited_source_photos_with_hard_negatives_come_first(tmp_path):
    source = write_source(tmp_path, "street", 10)
    chosen = chosen_photos(PackSource(annotations=source.annotations, images=source.images, limit=6))
    assert len(chosen) == 6 and sum("hard_negatives" in photo.image for photo in chosen) == 5


def test_a_pack_that_becomes_ready_later_is_taken_in(tmp_path):
    for number, name in enumerate(("street", "stands")):
        config = PackConfig((write_source(tmp_path, name, 3 + number),))
        list(write_packs(config, tmp_path / name / "packs", megabytes=10, workers=1))
        (tmp_path / "packs").mkdir(exist_ok=True)
        (tmp_path / name / "packs/00.zip").rename(tmp_path / f"packs/{number:02}.zip")
    prepare_pack(tmp_path / "packs/00.zip", tmp_path / "cache")
    library = PackLibrary(tmp_path / "packs", tmp_path / "cache", shares(), {"stands": 0.4}, doubt_from=12)
    assert library.take_in_new(at_once=True) and len(library) == 3
    assert library.weights.tolist() == [0.25] * 3
    assert all(len(image) == 2 for image in library.images)
    assert not library.take_in_new(at_once=True)
    prepare_pack(tmp_path / "packs/01.zip", tmp_path / "cache")
    assert not library.take_in_new(), "it has just looked"
    assert library.take_in_new(at_once=True) and len(library) == 7
    assert library.weights.tolist() == [0.25] * 3 + [0.25 / 4] * 4
    assert all(len(image) == 1 for image in library.images[3:]), "doubtful boxes of this set are background"
    for number, image in enumerate(library.images):
        assert (library[number] == read_image(image.path)).all()


def test_small_doubtful_boxes_stay_ignored_and_sets_need_a_share(tmp_path):
    list(write_packs(PackConfig((write_source(tmp_path, "street", 1),)), tmp_path / "packs", megabytes=10, workers=1))
    prepare_pack(tmp_path / "packs/00.zip", tmp_path / "cache")
    library = PackLibrary(tmp_path / "packs", tmp_path / "cache", shares(), {"street": 0.4}, doubt_from=31)
    library.take_in_new(at_once=True)
    assert library.images[0].ignore.tolist() == [False, True]
    with pytest.raises(ValueError, match="no share is given for street"):
        PackLibrary(tmp_path / "packs", tmp_path / "cache", {"stands": 1.0}, {}, 12).take_in_new(at_once=True)


def test_the_command_writes_packs_and_says_what_is_wrong_in_one_line(tmp_path):
    source = write_source(tmp_path, "street", 2)
    config = tmp_path / "packs.toml"
    config.write_text(f'[[source]]\nannotations = "{source.annotations}"\nimages = "{source.images}"\nside = 120\n')
    done = CliRunner().invoke(app, ["train", "pack", str(config), str(tmp_path / "packs"), "--workers", "1"])
    assert done.exit_code == 0 and "00.zip: 2 photos" in done.output, done.output
    config.write_text(f'[[source]]\nannotations = "{source.annotations}"\nimages = "{source.images}"\nsides = 120\n')
    done = CliRunner().invoke(app, ["train", "pack", str(config), str(tmp_path / "packs")])
    assert done.exit_code == 2 and "there is no setting source[0].sides, perhaps source[0].side is meant" in done.output
    (tmp_path / "packs/00.zip").write_bytes(b"broken")
    (tmp_path / "packs/00.zip").rename(tmp_path / "packs/07.zip")
    with pytest.raises(ValueError, match=r"07\.zip: cannot be unpacked"):
        prepare_pack(tmp_path / "packs/07.zip", tmp_path / "cache")


def test_photos_that_cannot_be_read_are_told_and_the_others_packed(tmp_path):
    source = write_source(tmp_path, "street", 5)
    (tmp_path / "street/1.png").write_text("no photo")
    (tmp_path / "street/3.png").unlink()
    config = tmp_path / "packs.toml"
    config.write_text(f'[[source]]\nannotations = "{source.annotations}"\nimages = "{source.images}"\n')
    command = ["train", "pack", str(config), str(tmp_path / "packs"), "--workers", "1"]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "300"})
    assert done.exit_code == 1 and "00.zip: 3 photos" in done.output, done.output
    assert [line.count("left out") for line in done.stderr.splitlines()] == [1, 1]
    assert done.stderr.count("street/1.png") == done.stderr.count("street/3.png") == 1
    for file in (tmp_path / "street").iterdir():
        file.unlink()
    done = CliRunner().invoke(app, command, env={"COLUMNS": "300"})
    assert done.exit_code == 2 and "none of the 5 photos can be read" in done.stderr
    with pytest.raises(ValueError, match=r"\.png: "):
        list(write_packs(PackConfig((source,)), tmp_path / "packs", megabytes=10, workers=1))


def test_a_pack_with_a_photo_that_cannot_be_read_gives_its_others(tmp_path):
    ((pack, _),) = write_packs(PackConfig((write_source(tmp_path, "street", 4),)), tmp_path / "packs", megabytes=10, workers=1)
    with zipfile.ZipFile(pack) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content["street/2.avif"] = content["street/2.avif"][:60]
    del content["street/0.avif"]
    with zipfile.ZipFile(pack, "w") as archive:
        for name, value in content.items():
            archive.writestr(name, value)
    said = []
    prepare_pack(pack, tmp_path / "cache", said.append)
    assert len(said) == 2 and all("left out" in line for line in said)
    library = PackLibrary(tmp_path / "packs", tmp_path / "cache", shares(), {}, 12)
    library.take_in_new(at_once=True)
    assert sorted(image.path.name for image in library.images) == ["1.avif", "3.avif"]
    assert library.weights.tolist() == [0.375] * 2
    for number, image in enumerate(library.images):
        assert (library[number] == read_image(image.path)).all()


def test_a_limited_source_trains_on_the_photos_that_would_be_packed(tmp_path):
    given = write_source(tmp_path, "street", 10)
    source = Source(annotations=given.annotations, images=given.images, limit=6, doubt=0.4, share=0.5)
    images, weights = read_sources([source])
    packed = chosen_photos(PackSource(annotations=given.annotations, images=given.images, limit=6))
    assert [image.path.name for image in images] == [Path(photo.image["file_name"]).name for photo in packed]
    assert sum(len(image.hard_negatives) for image in images) == 5 and weights.tolist() == [0.5 / 6] * 6
    unlabelled, _ = read_sources([replace(source, format="unlabelled")])
    assert [image.path for image in unlabelled] == [image.path for image in images], "the same photos are decoded"
    assert all(len(image) == 1 for image in images), "doubtful boxes are background"
    (kept, *_), _ = read_sources([replace(source, doubt_from=31.0)])
    assert kept.ignore.tolist() == [False, True], "but small ones stay ignored"


def test_a_disk_without_room_for_the_cache_is_one_line(tmp_path, monkeypatch):
    given = write_source(tmp_path, "street", 2)
    images, _ = read_sources([Source(annotations=given.annotations, images=given.images)])
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9 - 200_000, 200_000))
    with pytest.raises(ValueError, match=r"cache: 2 decoded photos take 0\.0 GB, and 0\.0 GB are free"):
        open_cache(images, tmp_path / "cache", workers=1)
    assert list((tmp_path / "cache").iterdir()) == []

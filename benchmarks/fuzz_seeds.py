"""Small whole files of every format that tinyfaces reads, and ways to damage them. `fuzz.py` uses both."""

import gzip
import io
import json
import random
import re
import subprocess
import sys
import zipfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import ExifTags, Image

ROOT = Path(__file__).parents[1]
SIDES = (80, 60)
FRAMES = 6
ODD_BYTES = (0, 1, 127, 128, 255)
ODD_NUMBERS = (
    b"0", b"-1", b"1e999", b"nan", b"-inf", b"99999999999999999999", b"2147483648", b"0.5", b"null", b"true", b'""', b"[]",
    b"{}", b"1" * 400, b"1" * 5000, b"[" * 3000, b"\xff\xfe", "\u0663".encode(), b"a", b"",
)  # fmt: skip


def photos() -> dict[str, bytes]:
    """By file name. A part of the example photo with some faces, in each format and mode."""
    photo = Image.open(ROOT / "examples/solvay_1927.jpg").convert("RGB").crop((600, 520, 1000, 820)).resize(SIDES)
    rgba = photo.copy()
    rgba.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, SIDES[0]).astype(np.uint8), (SIDES[1], 1))))
    deep = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Orientation] = "Camera", 6
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2026:11:29 07:00:00"
    exif.get_ifd(ExifTags.IFD.GPSInfo).update({1: "N", 2: (1.0, 2.0, 3.0)})
    palette = photo.quantize(32)
    made = {
        "plain.jpg": (photo, {"exif": exif, "dpi": (72, 72), "comment": b"x"}), "grey.jpeg": (photo.convert("L"), {}),
        "progressive.jpg": (photo, {"progressive": True, "icc_profile": bytes(300)}), "four.jpe": (photo.convert("CMYK"), {}),
        "small.jfif": (photo, {"quality": 20, "restart_marker_blocks": 2}),
        "plain.png": (photo, {"exif": exif}), "alpha.png": (rgba, {}), "palette.png": (palette, {"transparency": 3}),
        "deep.png": (deep, {}), "bits.png": (photo.convert("1"), {}), "grey.png": (photo.convert("LA"), {}),
        "moving.png": (photo, {"save_all": True, "append_images": [photo.rotate(9)]}),
        "lossy.webp": (photo, {"exif": exif}), "lossless.webp": (rgba, {"lossless": True}),
        "moving.webp": (photo, {"save_all": True, "append_images": [photo.rotate(9)]}),
        "plain.tif": (photo, {"exif": exif}), "lzw.tiff": (rgba, {"compression": "tiff_lzw"}),
        "jpeg.tif": (photo, {"compression": "jpeg"}), "deflate.tif": (photo.convert("F"), {"compression": "tiff_adobe_deflate"}),
        "fax.tif": (photo.convert("1"), {"compression": "group4"}), "deep.tif": (deep, {"compression": "packbits"}),
        "big.tif": (photo, {"big_tiff": True}), "pages.tif": (photo, {"save_all": True, "append_images": [photo.rotate(9)]}),
        "plain.gif": (palette, {"transparency": 3}),
        "moving.gif": (photo, {"save_all": True, "append_images": [photo.rotate(9)]}),
        "plain.bmp": (photo, {}), "palette.bmp": (palette, {}), "alpha.bmp": (rgba, {}), "plain.dib": (photo, {}),
        "plain.tga": (rgba, {"compression": "tga_rle"}), "plain.ppm": (photo, {}), "grey.pgm": (photo.convert("L"), {}),
        "deep.pgm": (deep, {}), "bits.pbm": (photo.convert("1"), {}), "any.pnm": (photo, {}),
        "plain.avif": (photo, {"quality": 60, "exif": exif}), "alpha.avif": (rgba, {"quality": 60}),
        "plain.jp2": (photo, {"irreversible": True}), "deep.jp2": (deep, {}),
    }  # fmt: skip
    kinds = {".jfif": "JPEG", ".jpe": "JPEG", ".pnm": "PPM", ".pgm": "PPM", ".pbm": "PPM", ".dib": "DIB"}
    files = {}
    for name, (image, options) in made.items():
        content = io.BytesIO()
        content.name = name  # by which Pillow chooses the format
        image.save(content, kinds.get(Path(name).suffix), **options)
        files[name] = content.getvalue()
    for name in ("plain.heic", "plain.heif"):  # which share their boxes with AVIF
        files[name] = files["plain.avif"].replace(b"ftypavif", b"ftypheic")
    return files


def videos(folder: Path) -> dict[str, bytes]:
    """By file name. The same faces on the move, with sound, in each container."""
    still = Image.open(io.BytesIO(photos()["plain.png"])).convert("RGB")
    made = {
        "plain.mp4": ("libx264", "yuv420p", "aac"), "plain.m4v": ("mpeg4", "yuv420p", None),
        "full.mov": ("libx264", "yuv444p", "aac"),
        "alpha.mov": ("png", "rgba", None), "exact.mkv": ("ffv1", "yuv420p", "flac"), "plain.mkv": ("libx264", "yuv420p", "aac"),
        "plain.webm": ("libvpx", "yuv420p", "libopus"), "nine.webm": ("libvpx-vp9", "yuv420p", None),
        "plain.avi": ("mjpeg", "yuvj420p", "mp2"), "plain.ts": ("libx264", "yuv420p", "aac"),
        "plain.mts": ("mpeg2video", "yuv420p", "mp2"),
        "plain.m2ts": ("libx264", "yuv420p", None), "plain.mpg": ("mpeg2video", "yuv420p", "mp2"),
        "plain.mpeg": ("mpeg1video", "yuv420p", None),
        "plain.3gp": ("mpeg4", "yuv420p", None), "plain.flv": ("flv1", "yuv420p", None), "plain.wmv": ("wmv2", "yuv420p", None),
        "plain.ogv": ("libvpx", "yuv420p", None),
    }  # fmt: skip
    files = {}
    for name, (codec, pixels, sound) in made.items():
        place = folder / name
        kind = {".m4v": "mp4", ".mts": "mpegts", ".m2ts": "mpegts", ".wmv": "asf", ".ogv": "ogg"}.get(place.suffix)
        with av.open(str(place), "w", format=kind) as container:
            video = container.add_stream(codec, rate=25)
            video.width, video.height, video.pix_fmt = SIDES[0], SIDES[1], pixels
            audio = None if sound is None else container.add_stream(sound, rate=48000)
            container.metadata["title"] = "somebody"
            for number in range(FRAMES):
                frame = av.VideoFrame.from_image(still.rotate(2 * number)).reformat(format=pixels)
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
            if audio is not None:
                tone = av.AudioFrame.from_ndarray(np.zeros((1, 2 * 9216), np.int16), format="s16", layout="stereo")
                tone.sample_rate, tone.pts = 48000, 0
                fitted = av.AudioResampler(audio.format.name, audio.layout.name, 48000, audio.codec_context.frame_size or None)
                for part in [*fitted.resample(tone), *fitted.resample(None)]:
                    container.mux(audio.encode(part))
                container.mux(audio.encode(None))
        files[name] = place.read_bytes()
    return files


def labels(folder: Path) -> dict[str, bytes]:
    """By name: annotations, label files, regions, predictions, settings and journals, which the package itself writes or the docs
    describe. Two photos, `event/a.jpg` and `event/b.jpg`, are laid into the folder `event`."""
    from scipy.io import savemat

    (folder / "event").mkdir(parents=True, exist_ok=True)
    for name, source in (("a", "plain.jpg"), ("b", "small.jfif")):
        (folder / f"event/{name}.jpg").write_bytes(photos()[source])
    for arguments in (
        ["event", "--format", "coco", "--out", "coco.json"], ["event", "--format", "voc", "--out", "voc"],
        ["event", "--format", "yolo", "--no-scores", "--out", "yolo"], [".", "-r", "--format", "wider", "--out", "wider"],
        ["event", "--out", "found.json", "--resume"],
    ):  # fmt: skip
        command = [sys.executable, "-m", "tinyfaces", "detect", *arguments, "--model", "fast", "-q", "--threshold", "0.1"]
        subprocess.run(command, cwd=folder, check=True)
    boxes = np.array([[10, 10, 9, 12], [40, 30, 8, 9]], np.float64)

    def cell(*items):
        array = np.empty((len(items), 1), object)
        array[:, 0] = items
        return array

    truth, kept = folder / "truth.mat", folder / "kept.mat"
    savemat(
        truth,
        {
            "event_list": cell("event"), "file_list": cell(cell("a", "b")), "face_bbx_list": cell(cell(boxes, boxes[:1])),
            "invalid_label_list": cell(cell(np.zeros((2, 1)), np.ones((1, 1)))),
        },
    )  # fmt: skip
    savemat(kept, {"gt_list": cell(cell(np.array([[1], [2]]), np.array([[1]])))})
    coco = json.loads((folder / "coco.json").read_bytes())
    coco["annotations"][0] |= {"iscrowd": 1, "score": 0.5}
    coco["images"][0] |= {"width": None, "hard_negatives": [[1, 2, 3, 4, 0.5]]}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a", "b"):
            archive.writestr(f"event/{name}.txt", (folder / f"wider/event/{name}.txt").read_text())
    rows = "\n".join(" ".join(f"{value:.0f}" for value in [*box, 0, 0, 0, 0, 0, 0]) for box in boxes)
    return {
        "coco.json": json.dumps(coco).encode(), "coco.json.gz": gzip.compress(json.dumps(coco).encode(), 1),
        "wider_face_train_bbx_gt.txt": f"event/a.jpg\n2\n{rows}\nevent/b.jpg\n0\n0 0 0 0 0 0 0 0 0 0\n".encode(),
        "wider_face_train.mat": truth.read_bytes(), "wider_face_val.mat": truth.read_bytes(),
        "wider_easy_val.mat": kept.read_bytes(), "a.txt": (folder / "yolo/a.txt").read_bytes(),
        "classes.txt": b"person\nface\n", "a.xml": (folder / "voc/a.xml").read_bytes(),
        "predictions.txt": (folder / "wider/event/a.txt").read_bytes(), "predictions.zip": packed.getvalue(),
        "regions.json": b'{"left": [[0, 0], [40, 0], [40, 60], [0, 60]], "all of it": [[0, 0], [1, 0], [1, 1]]}',
        "found.journal": (folder / "found.journal").read_bytes(), "fast.toml": (ROOT / "configs/fast.toml").read_bytes(),
    }  # fmt: skip


def damaged(content: bytes, others: list[bytes], rng: random.Random, text: bool = False) -> bytes:
    """The content after one to eight changes: bytes, numbers of a header, cuts, repeats, and parts of the others.

    Args:
        content: A whole file.
        others: Whole files to take parts of.
        rng: Where chance comes from.
        text: Whether numbers and words are changed too.
    """
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if not changed:
            break
        near = min(len(changed), rng.choice((32, 128, 600, len(changed))))
        place = rng.randrange(near)
        kind = rng.random()
        if text and kind < 0.6:
            changed = bytearray(_reworded(bytes(changed), rng))
        elif kind < 0.35:
            changed[place] = rng.choice((*ODD_BYTES, rng.randrange(256)))
        elif kind < 0.5:
            number = rng.choice((0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, rng.randrange(2**32)))
            width = rng.choice((2, 4))
            changed[place : place + width] = (number % 2 ** (8 * width)).to_bytes(width, rng.choice(("little", "big")))
        elif kind < 0.62:
            del changed[rng.randrange(len(changed)) :]
        elif kind < 0.72:
            del changed[place : place + rng.choice((1, 4, 64, 1000))]
        elif kind < 0.8:
            changed[place:place] = rng.randbytes(rng.choice((1, 4, 64)))
        elif kind < 0.86:
            changed[place:place] = changed[place : place + rng.choice((8, 64, 1000))]
        elif kind < 0.9:
            span = rng.choice((16, 200, 5000))
            changed[place : place + span] = bytes([rng.choice(ODD_BYTES)]) * span
        else:
            other = rng.choice(others)
            changed = bytearray(changed[: rng.randrange(len(changed))] + other[rng.randrange(len(other)) :])
    return bytes(changed)


def _reworded(content: bytes, rng: random.Random) -> bytes:
    words = list(re.finditer(rb"-?[\d.]+|\"[^\"]*\"|[A-Za-z_]+|[\[\]{}<>,:=/]", content))
    if not words:
        return content
    word = rng.choice(words)
    kind = rng.random()
    if kind < 0.55:
        put = rng.choice(ODD_NUMBERS)
    elif kind < 0.8:
        put = rng.choice(words)[0]
    else:
        put = word[0] * 2
    return content[: word.start()] + put + content[word.end() :]

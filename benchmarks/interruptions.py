"""Kill runs at random moments, start two at once, fill the disk, and check that nothing is lost or left half-written.

    python benchmarks/interruptions.py --kills 100 --minutes 10 --levels 12

Each command works on a folder of photos and a video. What it writes is compared with an undisturbed run: the same files, of
the same content (videos: the same frames). After each kill, every result that is there must be whole. Full disks are small file
systems in memory, which only root can mount (Linux); elsewhere that part is left out. Whatever fails is printed, and the exit
code is 1.

Needs the extra video.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image

import tinyfaces.cli
import tinyfaces.jobs.clips
import tinyfaces.jobs.formats
from fuzz import broken
from tinyfaces.detection.runtime import quiet_onnxruntime

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "anonymise": "anonymise in --out out --report out.json", "json": "detect in --out out/all.json",
    "csv": "detect in --out out/all.csv", "jsonl": "detect in --out out/all.jsonl",
    "voc": "detect in/*.png --out out --format voc",
    "count": "count in --out out/all.json",
}  # fmt: skip
OWN = ("journal", ".tinyfaces")
"""What names of files have that are no results."""


def make_inputs(folder: Path, photos: int, frames: int) -> None:
    """Photos in two formats and a video, all parts of the example photo."""
    photo = Image.open(ROOT / "examples/solvay_1927.jpg").convert("RGB")
    chance = random.Random(1)
    folder.mkdir(parents=True)
    for number in range(photos):
        left, top = chance.randrange(photo.width - 640), chance.randrange(300, photo.height - 480)
        picture = photo.crop((left, top, left + 640, top + 480)).resize((320, 240))
        picture.save(folder / f"{number:03d}.{'jpg' if number % 2 else 'png'}")
    with av.open(str(folder / "clip.mp4"), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_image(photo.crop((600 + 4 * number, 480, 1240 + 4 * number, 960)).resize((320, 240)))
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(video.encode(frame.reformat(format="yuv420p")))
        container.mux(video.encode(None))


def words_of(name: str, model: str) -> list[str]:
    return [*COMMANDS[name].split(), "--model", model, "--threads", "2", "--quiet", "--resume"]


def begin(words: list[str], place: Path, told: Path | None = None) -> int:
    """The command in a process that is forked from this one, which has all imported; gives its number. told: for what it says."""
    child = os.fork()
    if child:
        return child
    code = 3
    try:
        os.chdir(place)
        for number in (1, 2):
            os.dup2(os.open((told or place) / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        code = tinyfaces.cli.app(words, standalone_mode=False) or 0
    except BaseException as error:
        ((told or place) / "raised").write_text(repr(error))
    finally:
        os._exit(code)


def end_of(child: int) -> int:
    """The exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def said(place: Path) -> str:
    """What commands said since the last time, and what they raised."""
    paths = [place / name for name in ("said", "raised") if (place / name).exists()]
    text = "".join(path.read_text(errors="replace") for path in paths)
    for path in paths:
        path.unlink()
    return text


def results(place: Path) -> list[Path]:
    return [
        path for path in sorted([*place.glob("out/**/*"), place / "out.json"])
        if path.is_file() and not any(word in path.name for word in OWN)
    ]  # fmt: skip


def content(path: Path) -> str:
    """What is compared: the bytes, or the frames of a video."""
    if path.suffix == ".mp4":
        with av.open(str(path)) as container:
            whole = hashlib.sha256(b"".join(frame.to_ndarray().tobytes() for frame in container.decode(video=0)))
    else:
        whole = hashlib.sha256(path.read_bytes())
    return whole.hexdigest()


def contents(place: Path) -> dict[str, str]:
    return {path.relative_to(place).as_posix(): content(path) for path in results(place) if not path.name.endswith(".partial")}


def half_written(place: Path) -> list[str]:
    """What is wrong with the results that can be seen; temporary files of killed processes are hidden ones."""
    found = [(path, broken(path)) for path in results(place) if not path.name.endswith(".partial")]
    return [f"{path.relative_to(place)} is not whole ({what})" for path, what in found if what]


def left_over(place: Path, whole: dict[str, str]) -> list[str]:
    """What differs from an undisturbed run at the end."""
    now = contents(place)
    wrong = [f"{name} is missing" for name in sorted(set(whole) - set(now))]
    wrong += [f"{name} is too many" for name in sorted(set(now) - set(whole))]
    wrong += [f"{name} differs" for name in sorted(set(now) & set(whole)) if now[name] != whole[name]]
    wrong += [f"{path.name} was left behind" for path in place.rglob("*.partial")]
    return wrong


def clear(place: Path) -> None:
    for name in ("out", "out.state"):
        shutil.rmtree(place / name, ignore_errors=True)
    for path in [*place.glob("out.*"), *place.glob("out_*"), place / "said", *place.glob(".*.partial")]:
        path.unlink(missing_ok=True)


def undisturbed(words: list[str], place: Path) -> tuple[dict[str, str], float]:
    """The results of a run that nobody disturbs, and its seconds."""
    begun = time.monotonic()
    code = end_of(begin(words, place))
    if code != 0:
        raise SystemExit(f"an undisturbed run ended with {code}: {said(place)}")
    whole = contents(place)
    clear(place)
    return whole, time.monotonic() - begun


def kill_at_random(place: Path, names: list[str], kills: int, model: str, chance: random.Random) -> dict:
    """Kill each command in turn, resume it, and so on; then let it end."""
    wrong: list[str] = []
    done = 0
    started = finished = 0
    for turn, name in enumerate(names):
        words = words_of(name, model)
        whole, seconds = undisturbed(words, place)
        wanted = kills * (turn + 1) // len(names)
        while done < wanted:
            child = begin(words, place)
            started += 1
            time.sleep(chance.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
            if end_of(child) == -signal.SIGKILL:
                done += 1
                wrong += [f"{name}, kill {done}: {line}" for line in half_written(place)]
            else:  # it was through: from the start again
                finished += 1
                wrong += [f"{name}, resumed before kill {done + 1}: {line}" for line in left_over(place, whole)]
                clear(place)
        if (code := end_of(begin(words, place))) != 0:
            wrong.append(f"{name}: the last run ended with {code}: {said(place)}")
        wrong += [f"{name}, at the end: {line}" for line in left_over(place, whole)]
        clear(place)
    return {"kills": done, "runs": started, "ended before": finished, "commands": names, "failures": wrong}


def two_at_once(place: Path, names: list[str], minutes: float, model: str, chance: random.Random) -> dict:
    """Start the same command twice, a random time apart, again and again; now and then one of the two is killed."""
    wrong: list[str] = []
    codes: Counter = Counter()
    known = {name: undisturbed(words_of(name, model), place) for name in names}
    until = time.monotonic() + 60 * minutes
    rounds = 0
    while time.monotonic() < until:
        name = names[rounds % len(names)]
        words, (whole, seconds) = words_of(name, model), known[name]
        first = begin(words, place)
        time.sleep(chance.choice((0, chance.uniform(0, seconds))))
        second = begin(words, place)
        killed = rounds % 3 == 2
        if killed:
            time.sleep(chance.uniform(0, seconds))
            os.kill(first, signal.SIGKILL)
        ended = (end_of(first), end_of(second))
        codes.update(ended)
        rounds += 1
        if killed:
            wrong += [f"{name}, round {rounds}: {line}" for line in half_written(place)]
            ended = (end_of(begin(words, place)),)
        if 0 not in ended or not set(ended) <= {0, 2}:
            wrong.append(f"{name}, round {rounds}: ended with {ended}: {said(place)}")
        wrong += [f"{name}, round {rounds}: {line}" for line in left_over(place, whole)]
        clear(place)
    counted = {str(code): number for code, number in sorted(codes.items())}
    return {"rounds": rounds, "minutes": minutes, "exit codes": counted, "failures": wrong}


def full_disks(place: Path, names: list[str], levels: int, model: str) -> dict:
    """Run on disks that are full after a part of the results, then make room and resume."""
    wrong: list[str] = []
    codes: Counter = Counter()
    for name in names:
        words = words_of(name, model)
        whole, _ = undisturbed(words, place)
        end_of(begin(words, place))
        needed = sum(path.stat().st_size for path in place.rglob("*") if path.is_file() and "in" not in path.parts)
        needed += 4096 * sum(1 for path in place.rglob("*") if "in" not in path.relative_to(place).parts)
        clear(place)
        for level in range(levels):
            disk = place / "disk"
            disk.mkdir()
            room = max(4096, round(needed * level / max(1, levels - 1)))
            mount(disk, room)
            try:
                (disk / "in").symlink_to(place / "in")
                code = end_of(begin(words, disk, place))
                codes[code] += 1
                told = said(place)
                where = f"{name}, {room} bytes"
                if code not in (0, 2):
                    wrong.append(f"{where}: ended with {code}: {told}")
                if len(told.splitlines()) > 1 or "Traceback" in told:
                    wrong.append(f"{where}: said {told}")
                wrong += [f"{where}: {line}" for line in half_written(disk)]
                wrong += [f"{where}: {path.name} was left behind" for path in disk.rglob("*.partial")]
                subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
                if (code := end_of(begin(words, disk, place))) != 0:
                    wrong.append(f"{where}: once there is room, it ends with {code}: {said(place)}")
                wrong += [f"{where}, once there is room: {line}" for line in left_over(disk, whole)]
            finally:
                subprocess.run(["umount", disk], check=True)
                disk.rmdir()
    counted = {str(code): number for code, number in sorted(codes.items())}
    return {"disks": levels * len(names), "exit codes": counted, "failures": wrong}


def mount(disk: Path, room: int) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", disk], check=True, capture_output=True)


def can_mount(place: Path) -> bool:
    disk = place / "try"
    disk.mkdir()
    try:
        mount(disk, 4096)
        subprocess.run(["umount", disk], check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    finally:
        disk.rmdir()
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=0, help="of two runs at once")
    parser.add_argument("--levels", type=int, default=0, help="how many disks for each command, from nearly no room to enough")
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--commands", nargs="+", default=list(COMMANDS), choices=list(COMMANDS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="fast")
    chosen = parser.parse_args()
    quiet_onnxruntime()  # imported here and not in each child
    Image.init()
    chance = random.Random(chosen.seed)
    figures: dict = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        make_inputs(place / "in", chosen.photos, chosen.frames)
        before = {path.name: path.read_bytes() for path in (place / "in").iterdir()}
        if chosen.kills:
            figures["kills"] = kill_at_random(place, chosen.commands, chosen.kills, chosen.model, chance)
        if chosen.minutes:
            figures["two at once"] = two_at_once(place, chosen.commands, chosen.minutes, chosen.model, chance)
        if chosen.levels and can_mount(place):
            figures["full disks"] = full_disks(place, chosen.commands, chosen.levels, chosen.model)
        if {path.name: path.read_bytes() for path in (place / "in").iterdir()} != before:
            figures["inputs"] = {"failures": ["a given file was changed"]}
    print(json.dumps(figures, indent=1))
    sys.exit(any(part["failures"] for part in figures.values()))


if __name__ == "__main__":
    main()

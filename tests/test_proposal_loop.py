"""The training loop: it learns, a killed run ends as an unbroken one, two processes do what one does."""

import copy
import dataclasses
import gzip
import json
import pickle
import socket
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")

from torch.distributed import run as torchrun  # noqa: E402
from torch.distributed.launcher.api import elastic_launch  # noqa: E402

import tinyfaces.training.settings as run_settings  # noqa: E402
from forked import FORK, START_METHOD, start_processes, wait_for  # noqa: E402
from tinyfaces.cli import app, main  # noqa: E402
from tinyfaces.training.batches import batches_from, new_batch_of, takes_large_crops, takes_natural_crops  # noqa: E402
from tinyfaces.training.cache import open_cache  # noqa: E402
from tinyfaces.training.checkpoints import load_network  # noqa: E402
from tinyfaces.training.muon import Muon, orthogonalise  # noqa: E402
from tinyfaces.training.networks.proposal_network import VARIANTS, ProposalNetwork  # noqa: E402
from tinyfaces.training.proposal_loop import duration, seconds_a_step, train  # noqa: E402
from tinyfaces.training.run_log import drop_later_lines  # noqa: E402
from tinyfaces.training.settings import Source, load_config, read_sources  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Twelve photos of white squares on noise, as COCO, and a configuration for them."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(12):
        pixels = rng.integers(0, 90, (200, 260, 3), np.uint8)
        for x in range(10, 220, 50):
            y, side = int(rng.integers(10, 150)), int(rng.integers(10, 40))
            pixels[y : y + side, x : x + side] = 255
            box = {"id": len(annotations), "image_id": number, "category_id": 1, "bbox": [x, y, side, side], "iscrowd": 0}
            annotations.append({**box, "area": side * side})
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 260, "height": 200})
    coco = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "face"}]}
    with gzip.open(folder / "all.json.gz", "wt") as file:
        json.dump(coco, file)
    source = f'annotations = "{folder}/all.json.gz"\nimages = "{folder}"\n'
    (folder / "small.toml").write_text(
        f'variant = "fast"\ncache = "{folder}/cache"\nsteps = 6\nbatch = 4\nwarmup = 2\nsave_every = 3\n'
        "evaluate_every = 3\nevaluate_images = 4\nworkers = 0\nthreads = 1\n"
        f"[crops]\nsize = 128\n[[train]]\n{source}[[dev]]\n{source}"
    )
    return folder


def _run(data: Path, out: Path, **overrides) -> dict:
    train(load_config(data / "small.toml", {"out": str(out), **overrides}))
    return torch.load(out / "last.pt", weights_only=True)


def _same(a: dict, b: dict, tolerance: float = 0.0) -> bool:
    return all(torch.allclose(a[name].float(), b[name].float(), rtol=0, atol=tolerance) for name in a)


@pytest.fixture
def teacher(tmp_path) -> str:
    """A checkpoint of a network that knows nothing."""
    torch.manual_seed(1)
    network = ProposalNetwork(VARIANTS["fast"])
    torch.save({"average": network.state_dict(), "variant": "fast"}, tmp_path / "teacher.pt")
    return str(tmp_path / "teacher.pt")


@pytest.mark.parametrize("taught", [False, True])
def test_a_resumed_run_ends_in_the_same_state(data, tmp_path, monkeypatch, teacher, taught):
    settings = {"echo": 2, "large_every": 2, "teacher": teacher, "large_crops": {"size": 256}} if taught else {}
    whole = _run(data, tmp_path / "whole", **settings)

    import tinyfaces.training.proposal_loop as module

    calls = 0

    def killed(*arguments, **names):
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return real(*arguments, **names)

    real = module.proposal_loss
    monkeypatch.setattr(module, "proposal_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        _run(data, tmp_path / "broken", **settings)
    assert torch.load(tmp_path / "broken/last.pt", weights_only=True)["step"] == 3
    monkeypatch.undo()
    resumed = _run(data, tmp_path / "broken", **settings)
    assert resumed["step"] == whole["step"] == 6
    assert _same(resumed["network"], whole["network"]) and _same(resumed["average"], whole["average"])
    assert not _same(whole["network"], whole["average"], 1e-4), "the average is no copy"
    lines = [json.loads(line) for line in (tmp_path / "broken/log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 6 and "best ap all" in lines[-1] and "ap all" in lines[-2]
    steps = [(line["step"], *line) for line in lines]
    assert len(set(steps)) == len(steps), "no line is there twice"
    assert list((tmp_path / "whole").glob("events.out.tfevents*"))


def test_a_run_goes_on_with_its_own_settings_and_photos_alone(data, tmp_path, teacher, monkeypatch):
    monkeypatch.setattr("tinyfaces.training.batches.START_METHOD", START_METHOD)
    _run(data, tmp_path / "run", steps=3)
    kept = {name: (tmp_path / "run" / name).read_bytes() for name in ("last.pt", "best.pt", "config.json", "log.jsonl")}
    fewer = dataclasses.replace(load_config(data / "small.toml", {}).train[0], part="rest")
    boxes = dataclasses.replace(fewer, part="all", annotations=str(tmp_path / "other.json"))
    coco = json.loads(gzip.decompress((data / "all.json.gz").read_bytes()))
    coco["annotations"][0]["bbox"][2] += 1
    (tmp_path / "other.json").write_text(json.dumps(coco))
    for changes, words in (
        ({"batch": 8}, "batch: 4, now 8)"),
        ({"variant": "accurate"}, "variant: fast, now accurate)"),
        ({"crops": {"size": 64}}, "crops.size: 128, now 64)"),
        ({"muon_lr": 0.5, "steps": 9}, "muon_lr: 0.02, now 0.5)"),
        ({"evaluate_images": 5}, "evaluate_images: 4, now 5)"),
        ({"teacher": teacher}, "teacher: none, now "),
        ({"train": [dataclasses.asdict(fewer)]}, "training photos: 12 ("),
        ({"train": [dataclasses.asdict(boxes)]}, "training photos: 12 ("),
        ({"dev": [dataclasses.asdict(fewer)]}, "dev photos: 12 ("),
        ({"steps": 2}, "has taken 3 steps already, more than the 2"),
    ):
        with pytest.raises(ValueError) as error:
            _run(data, tmp_path / "run", **{"steps": 3, **changes})
        message = str(error.value)
        assert message.startswith(f"{tmp_path}/run/last.pt: ") and "\n" not in message and words in message, message
        assert {name: (tmp_path / "run" / name).read_bytes() for name in kept} == kept, "nothing claims another run"
    free = {"workers": 1, "save_every": 2, "evaluate_every": 2, "cache": str(tmp_path / "cache"), "channels_last": False}
    assert _run(data, tmp_path / "run", steps=5, **free)["step"] == 5
    with pytest.raises(ValueError, match="batch: 4, now 8"):
        _run(data, tmp_path / "run", steps=5, batch=8)


def test_other_photos_in_the_same_folder_are_other_photos(data, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for file in data.glob("*.png"):
        (folder / file.name).write_bytes(file.read_bytes())
    source = {"annotations": str(data / "all.json.gz"), "images": str(folder)}
    _run(data, tmp_path / "run", steps=1, train=[source])
    moved = folder.rename(tmp_path / "moved" if (tmp_path / "moved").mkdir() else tmp_path / "moved/photos")
    assert _run(data, tmp_path / "run", steps=2, train=[{**source, "images": str(moved)}])["step"] == 2, "they may move"
    Image.new("RGB", (260, 200)).save(moved / "3.png")
    with pytest.raises(ValueError, match="training photos: 12"):
        _run(data, tmp_path / "run", steps=3, train=[{**source, "images": str(moved)}])


def test_checkpoints_that_are_none_or_of_something_else_are_one_line(data, tmp_path):
    (tmp_path / "run").mkdir()
    last = tmp_path / "run/last.pt"
    for content, words in ((b"broken", "cannot be read as a checkpoint"), ({"step": 1}, "network"), ([1], "not a checkpoint")):
        last.write_bytes(content) if isinstance(content, bytes) else torch.save(content, last)
        with pytest.raises(ValueError) as error:
            _run(data, tmp_path / "run", steps=1)
        assert str(error.value).startswith(f"{last}: ") and words in str(error.value) and "\n" not in str(error.value)
    command = ["train", "proposals", "--config", str(data / "small.toml"), "--set", f"out={tmp_path / 'run'}", "--set", "steps=1"]
    assert CliRunner().invoke(app, command).exit_code == 2
    assert CliRunner().invoke(app, [*command, "--fresh"]).exit_code == 0
    assert torch.load(last, weights_only=True)["step"] == 1


def test_the_best_is_the_best_by_one_measure_over_the_whole_run(data, tmp_path, monkeypatch):
    import tinyfaces.training.proposal_loop as module

    measured, real = [], module.evaluate
    aps = iter([0.3, 0.5, 0.4, 0.2, 0.45, 0.45, 0.9])

    def evaluate(network, images, cache, indices, device):
        result = real(network, images, cache, indices, device)
        measured.append((list(indices), next(aps)))
        return {name: dataclasses.replace(band, ap=measured[-1][1]) for name, band in result.items()}

    monkeypatch.setattr(module, "evaluate", evaluate)
    _run(data, tmp_path / "run", steps=4, evaluate_every=1, warmup=1)
    assert torch.load(tmp_path / "run/best.pt", weights_only=True)["step"] == 2, "though later ones were measured at the end"
    assert [len(indices) for indices, _ in measured] == [4, 4, 4, 4, 12] and measured[0][0] == measured[3][0]
    _run(data, tmp_path / "run", steps=5, evaluate_every=1, warmup=1)
    assert torch.load(tmp_path / "run/best.pt", weights_only=True)["step"] == 2, "the best before it was resumed counts"
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [line["ap all"] for line in lines if "ap all" in line] == [0.3, 0.5, 0.4, 0.2, 0.45]
    assert lines[-1]["best ap all"] == 0.9
    with pytest.raises(ValueError, match=r"best\.pt: this run would write over the weights"):
        _run(data, tmp_path / "run", start=str(tmp_path / "run/best.pt"))


def test_starting_over_leaves_nothing_of_the_run_before(data, tmp_path, monkeypatch):
    _run(data, tmp_path / "run", steps=3)
    monkeypatch.setattr("tinyfaces.training.proposal_loop.ProposalRun.learn", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(load_config(data / "small.toml", {"out": str(tmp_path / "run"), "batch": 8}), resume=False)
    assert not list((tmp_path / "run").glob("*.pt")) and (tmp_path / "run/log.jsonl").read_text() == ""
    assert json.loads((tmp_path / "run/config.json").read_text())["batch"] == 8


def test_lines_of_the_log_that_are_written_again_go(tmp_path):
    log = tmp_path / "log.jsonl"
    drop_later_lines(log, 3)
    assert not log.exists()
    log.write_text('{"step": 1}\n{"step": 3}\n{"step": 4}\n{"st')
    drop_later_lines(log, 3)
    assert log.read_text() == '{"step": 1}\n{"step": 3}\n'


def test_the_last_steps_normalise_by_the_statistics_gathered_before(data, tmp_path, teacher):
    begun = torch.load(teacher, weights_only=True)["average"]
    for fixed, moved in ((6, 0), (4, 2)):
        ended = _run(data, tmp_path / str(fixed), start=teacher, fixed_norm_steps=fixed)["network"]
        counts = {name: int(ended[name] - begun[name]) for name in begun if name.endswith("num_batches_tracked")}
        assert counts and set(counts.values()) == {moved}
        statistics = [name for name in begun if name.endswith(("running_mean", "running_var"))]
        assert all(torch.equal(ended[name], begun[name]) == (moved == 0) for name in statistics)
        assert not any(torch.equal(ended[name], begun[name]) for name in begun if name.startswith("heads"))


def test_each_batch_is_taken_echo_times_and_large_ones_among_them(data):
    config = load_config(data / "small.toml", {"echo": 3, "large_every": 4, "steps": 120})
    taken = [new_batch_of(step, config) for step in range(config.steps)]
    counts = [taken.count(new) for new in range(1, 40)]
    assert counts[:7] == [3] * 7 and sorted(set(counts)) == [1, 2, 3]
    assert [new for new in range(12) if takes_large_crops(new, config)] == [3, 7, 11]
    images, weights = read_sources(config.train)
    cache = open_cache(images, Path(config.cache))
    config = dataclasses.replace(config, steps=100, workers=0)
    whole = list(batches_from(images, cache, weights, config, 0, 0, 1, CPU))
    later = list(batches_from(images, cache, weights, config, 70, 0, 1, CPU))
    for a, b in zip(whole[70:], later, strict=True):
        assert torch.equal(a.crops.pixels, b.crops.pixels) and torch.equal(a.crops.boxes, b.crops.boxes)
    sizes = {new_batch_of(step, config): batch.crops.pixels.shape[1] for step, batch in enumerate(whole)}
    assert [new for new, size in sizes.items() if size == config.large_crops.size][:3] == [3, 7, 11]


def test_crops_are_made_in_processes_started_afresh(data):
    """They open the cache themselves, and make the crops that this process would."""
    config = load_config(data / "small.toml", {"steps": 2, "workers": 1})
    images, weights = read_sources(config.train)
    cache = open_cache(images, Path(config.cache))
    assert len(pickle.dumps(cache)) < 2_000 < cache.pixels.nbytes
    again = pickle.loads(pickle.dumps(cache.of(np.array([5, 2]))))
    assert (again[0] == cache[5]).all() and (again[1] == cache[2]).all()
    contexts, real = [], torch.utils.data.DataLoader
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.utils.data, "DataLoader", lambda *given, **named: (contexts.append(named), real(*given, **named))[1])
        made = list(batches_from(images, cache, weights, config, 0, 0, 1, CPU))
    assert contexts[0]["multiprocessing_context"] == "spawn"
    here = batches_from(images, cache, weights, dataclasses.replace(config, workers=0), 0, 0, 1, CPU)
    for one, other in zip(made, here, strict=True):
        assert torch.equal(one.crops.pixels, other.crops.pixels) and torch.equal(one.crops.boxes, other.crops.boxes)


@pytest.mark.parametrize("echo", [1, 2])
def test_the_last_steps_see_photos_near_their_own_size(data, echo):
    settings = {"steps": 120, "natural_steps": 60, "echo": echo, "natural_crops.scales": [1.0, 1.0]}
    config = load_config(data / "small.toml", settings)
    assert config.natural_crops.size == 128 and config.natural_crops.grids == (1,)
    images, weights = read_sources(config.train)
    batches = list(batches_from(images, open_cache(images, Path(config.cache)), weights, config, 0, 0, 1, CPU))
    real = {round(float(side)) for image in images for side in image.boxes[:, 3] - image.boxes[:, 1]}

    def of_their_size(batch):
        heights = (batch.crops.boxes[:, 3] - batch.crops.boxes[:, 1]).round().int().tolist()
        return np.mean([height in real for height in heights])

    natural = [takes_natural_crops(new_batch_of(step, config), config) for step in range(120)]
    assert sum(natural[:60]) == 0 and sum(natural) >= 40 and (echo > 1 or sum(natural) == 60)
    shares = np.array([of_their_size(batch) for batch in batches])
    assert shares[natural].mean() > shares[~np.array(natural)].mean() + 0.2
    without = dataclasses.replace(config, natural_steps=0)
    assert not any(takes_natural_crops(new_batch_of(step, without), without) for step in range(120))


@pytest.mark.parametrize("crops", ["crops", "large_crops", "natural_crops"])
def test_crops_that_do_not_divide_are_refused(data, crops):
    with pytest.raises(ValueError, match=rf"small\.toml: {crops}\.size is \d+, must be a multiple"):
        load_config(data / "small.toml", {f"{crops}.grids": [3], f"{crops}.grid_shares": [1.0]})


@pytest.mark.slow
def test_it_learns(data, tmp_path):
    settings = {"steps": 80, "batch": 8, "crops.size": 64, "ema": 0.95, "save_every": 80, "evaluate_every": 80}
    _run(data, tmp_path / "run", **settings)
    last = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()][-1]
    assert last["best ap all"] > 0.6
    best = load_network(tmp_path / "run/best.pt")[0].state_dict()
    assert _same(best, torch.load(tmp_path / "run/last.pt", weights_only=True)["average"])


def _distance(a: dict, b: dict) -> float:
    """How far two networks' weights lie apart."""
    return sum((a[name].double() - b[name].double()).square().sum().item() for name in a if a[name].is_floating_point()) ** 0.5


def _torchrun(node: int, port: int, words: list[str]) -> None:
    """What torchrun does on one of two machines, but that the command is forked from it rather than started afresh."""
    machines = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "localhost", "--master-port", str(port)]
    options = torchrun.parse_args([*machines, "--node-rank", str(node), "--start-method", FORK, "tinyfaces"])
    elastic_launch(torchrun.config_from_args(options)[0], _command)(*words)


def _command(*words: str) -> None:
    sys.argv = ["tinyfaces", *words]
    main()


@pytest.mark.slow
def test_two_processes_on_two_nodes_learn_what_one_does_from_the_same_crops(data, tmp_path, teacher):
    """torchrun begins one process on each of two "nodes", as it would on two machines; both train, and one writes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    settings = {"start": teacher, "fixed_norm_steps": 6, "steps": 6, "evaluate_every": 100, "teacher": teacher}
    options = [text for name, value in {**settings, "out": tmp_path / "two"}.items() for text in ("--set", f"{name}={value}")]
    words = ["train", "proposals", "--config", str(data / "small.toml"), *options]
    running = start_processes(2, _torchrun, port, words)
    one = _run(data, tmp_path / "one", **settings)
    wait_for(running)
    two = torch.load(tmp_path / "two/last.pt", weights_only=True)
    begun = torch.load(teacher, weights_only=True)["average"]
    assert two["step"] == one["step"] == 6
    moved, apart = _distance(one["network"], begun), _distance(two["network"], one["network"])
    assert apart < 0.02 * moved, (apart, moved)
    assert _distance(two["average"], one["average"]) < 0.02 * moved


def test_fine_tuning_starts_from_the_weights(data, tmp_path):
    _run(data, tmp_path / "first", steps=3)
    weights = load_network(tmp_path / "first/best.pt")[0].state_dict()
    tuned = _run(data, tmp_path / "second", steps=1, start=str(tmp_path / "first/best.pt"), muon_lr=0.0, adamw_lr=0.0)
    learnt = {name: value for name, value in tuned["network"].items() if "running" not in name and "num_batches" not in name}
    assert _same(learnt, {name: weights[name] for name in learnt})


def test_weights_that_do_not_fit_are_told_in_one_line(data, tmp_path):
    other, cut = tmp_path / "other.pt", tmp_path / "cut.pt"
    torch.save({"average": ProposalNetwork(VARIANTS["accurate"]).state_dict(), "variant": "accurate"}, other)
    torch.save({"average": ProposalNetwork(VARIANTS["accurate"]).state_dict(), "variant": "fast"}, cut)
    for path, words in (
        (other, "weights of accurate, not of fast"),
        (cut, "cannot be read"),
        (tmp_path / "none.pt", "no such file"),
    ):
        with pytest.raises(ValueError) as error:
            _run(data, tmp_path / "run", steps=1, start=str(path))
        assert str(error.value).startswith(str(path)) and words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "overrides,word",
    [
        ({"variant": "huge"}, "huge"),
        ({"speed": 3}, "speed"),
        ({"crops.size": 100}, "multiple of 32"),
        ({"crops.colour": 1}, "colour"),
    ],
)
def test_wrong_settings_name_the_file(data, overrides, word):
    with pytest.raises(ValueError, match=word) as caught:
        load_config(data / "small.toml", overrides)
    assert "small.toml" in str(caught.value)


@pytest.mark.parametrize(
    "setting,words",
    [
        ("stepz=3", "there is no setting stepz, perhaps steps is meant"),
        ("steps=many", "steps is 'many', must be a whole number"),
        ("steps=1.5", "steps is 1.5, must be a whole number"),
        ("bfloat16=perhaps", "bfloat16 is 'perhaps', must be true or false"),
        ("crops.small_share=half", "crops.small_share is 'half', must be a number"),
        ("crops=3", "crops is 3, must be a section"),
        ("steps.all=3", "steps is no section"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(data, setting, words):
    result = CliRunner().invoke(app, ["train", "proposals", "--config", str(data / "small.toml"), "--set", setting])
    assert result.exit_code == 2 and len(result.output.splitlines()) == 1, result.output
    assert "small.toml" in result.output and words in result.output


def test_settings_have_their_types(data):
    config = load_config(data / "small.toml", {"bfloat16": "no", "compile": "yes", "muon_lr": 1, "crops.grids": [1, 2, 1]})
    assert config.bfloat16 is False and config.compile is True and type(config.muon_lr) is float
    assert config.crops.size == 128 and config.crops.grids == (1, 2, 1) and config.large_crops.size == 896


def test_ones_own_photos_in_one_command(data, tmp_path):
    command = [
        "train", "proposals", "--config", str(data / "small.toml"), "--annotations", str(data / "all.json.gz"),
        "--images", str(data), "--set", f"out={tmp_path / 'own'}", "--set", "steps=2",
    ]  # fmt: skip
    result = CliRunner().invoke(app, command, env={"COLUMNS": "23"})
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "2 steps of 4 crops" in said and "about" in said and "measuring on 1 photos" in said
    assert torch.load(tmp_path / "own/last.pt", weights_only=True)["step"] == 2
    alone = CliRunner().invoke(app, command[:6])
    assert alone.exit_code == 2 and "--annotations and --images go together" in " ".join(alone.output.split())


def test_photos_without_labels_are_the_teachers(data, tmp_path, teacher):
    text = (data / "small.toml").read_text()
    unlabelled = f'[[train]]\nimages = "{data}"\nformat = "unlabelled"\n'
    (tmp_path / "more.toml").write_text(text.replace("[[dev]]", unlabelled + "[[dev]]"))
    config = load_config(tmp_path / "more.toml", {"teacher": teacher, "crops.scales": [1.0, 1.0]})
    images, weights = read_sources(config.train)
    assert len(images) == 24 and np.allclose(weights, 1 / 12)
    assert all(photo.boxes.tolist() == [[0, 0, 260, 200]] and photo.ignore.all() for photo in images[12:])
    listed = dataclasses.replace(config.train[1], annotations=config.train[0].annotations)
    again, _ = read_sources([*config.train[:1], listed])
    assert [photo.path for photo in again[12:]] == [photo.path for photo in again[:12]]
    assert all(photo.boxes.tolist() == [[0, 0, 260, 200]] and photo.ignore.all() for photo in again[12:])
    only = dataclasses.replace(config, train=config.train[1:], steps=12)
    images, weights = read_sources(only.train)
    steps = batches_from(images, open_cache(images, Path(config.cache)), weights, only, 0, 0, 1, CPU)
    batches = [step.crops for step in steps]
    assert not any(len(batch.boxes) for batch in batches)
    assert torch.cat([batch.ignored.flatten() for batch in batches]).float().mean() > 0.7  # all but what photos leave empty

    train(dataclasses.replace(only, steps=2, out=str(tmp_path / "run")))
    assert all(value.isfinite().all() for value in load_network(tmp_path / "run/best.pt")[0].state_dict().values())
    with pytest.raises(ValueError, match=r"more\.toml: photos without labels teach nothing without a teacher"):
        load_config(tmp_path / "more.toml", {})
    (tmp_path / "measured.toml").write_text(text.replace("[[dev]]", unlabelled.replace("train", "dev") + "[[dev]]"))
    with pytest.raises(ValueError, match=r"measured\.toml: photos without labels can't be measured on"):
        load_config(tmp_path / "measured.toml", {"teacher": teacher})
    (tmp_path / "none.toml").write_text(text.replace(f'annotations = "{data}/all.json.gz"\n', "", 1))
    with pytest.raises(ValueError, match=r"none\.toml: a source has no annotations"):
        load_config(tmp_path / "none.toml", {})


def test_photos_that_are_missing_or_cannot_be_read_are_told_and_the_others_train(data, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for file in data.glob("*.png"):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "3.png").unlink()
    (folder / "4.png").write_text("no photo")
    command = [
        "train", "proposals", "--config", str(data / "small.toml"), "--annotations", str(data / "all.json.gz"),
        "--images", str(folder), "--set", f"out={tmp_path / 'run'}", "--set", "steps=1",
    ]  # fmt: skip
    result = CliRunner().invoke(app, command, env={"COLUMNS": "300"})
    assert result.exit_code == 1 and torch.load(tmp_path / "run/last.pt", weights_only=True)["step"] == 1, result.output
    lines = [line for line in result.stderr.splitlines() if "left out" in line]
    assert sum("4.png" in line for line in lines) == 1 and all("3.png" in line or "4.png" in line for line in lines)
    for file in folder.iterdir():
        file.unlink()
    result = CliRunner().invoke(app, [*command, "--fresh"], env={"COLUMNS": "300"})
    assert result.exit_code == 2 and "none of the 12 images" in result.stderr and len(result.stderr.splitlines()) == 1


def test_held_out_photos_and_the_rest_are_all():
    class Photo(NamedTuple):
        number: int
        hard_negatives: tuple = ()

    parts = {}
    for part in ("held out", "rest"):
        source = Source(annotations="x.json", images="x", part=part)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run_settings, "read_coco", lambda *_: [Photo(n) for n in range(45)])
            patch.setattr(run_settings, "dismiss_doubtful", lambda photo, *_: photo)
            parts[part] = [photo.number for photo in read_sources([source])[0]]
    assert parts["held out"] == [0, 20, 40] and sorted(parts["held out"] + parts["rest"]) == list(range(45))


@torch.no_grad()
def test_a_trial_step_leaves_the_network_as_it_was():
    torch.manual_seed(0)
    network = ProposalNetwork(VARIANTS["fast"])
    before = copy.deepcopy(network.state_dict())
    with torch.enable_grad():
        assert seconds_a_step(network, network, torch.zeros(2, 3, 64, 64)) > 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert [duration(s) for s in (10, 100, 3590, 7500)] == ["1 min", "2 min", "1 h 00 min", "2 h 05 min"]


def test_wrong_files_are_one_line(data, tmp_path):
    (tmp_path / "bad.toml").write_text("variant = ")
    for name in (tmp_path / "bad.toml", tmp_path / "none.toml"):
        done = CliRunner().invoke(app, ["train", "proposals", "--config", str(name)])
        assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1 and done.stderr.count(name.name) == 1


def test_orthogonalise_brings_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((16, 144), (64, 32), (3, 20, 20)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.3 and values.max() < 1.35
    update = orthogonalise(torch.diag(torch.tensor([1.0, 0.5, 0.2])))
    torch.testing.assert_close(update, torch.diag(update.diagonal()), atol=1e-5, rtol=0)


def test_muon_treats_weights_of_one_shape_as_if_each_were_alone():
    torch.manual_seed(1)
    together = [torch.nn.Parameter(torch.randn(8, 4, 3, 3)) for _ in range(3)] + [torch.nn.Parameter(torch.randn(4, 8, 1, 1))]
    alone = [torch.nn.Parameter(weight.detach().clone()) for weight in together]
    optimisers = [Muon(together, lr=0.1, weight_decay=0.01)] + [Muon([weight], lr=0.1, weight_decay=0.01) for weight in alone]
    for _ in range(3):
        for weight, other in zip(together, alone, strict=True):
            weight.grad = torch.randn_like(weight)
            other.grad = weight.grad.clone()
        for optimiser in optimisers:
            optimiser.step()
    for weight, other in zip(together, alone, strict=True):
        assert torch.allclose(weight, other, atol=1e-5)


def test_muon_moves_weights_against_the_gradient_at_its_rate():
    weight = torch.nn.Parameter(torch.zeros(8, 4, 3, 3))
    optimiser = Muon([weight], lr=0.1, momentum=0.9)
    gradient = torch.randn(8, 4, 3, 3)
    weight.grad = gradient.clone()
    optimiser.step()
    assert (weight.data * gradient).sum() < 0
    norms = torch.linalg.svdvals(weight.data.flatten(1)) / 0.1
    assert norms.min() > 0.3 and norms.max() < 1.35


def test_averaged_weights_lie_between(tmp_path):
    networks = []
    for seed in range(2):
        torch.manual_seed(seed)
        networks.append(ProposalNetwork(VARIANTS["fast"]))
        torch.save({"average": networks[-1].state_dict(), "variant": "fast"}, tmp_path / f"{seed}.pt")
    files = [str(tmp_path / name) for name in ("0.pt", "1.pt", "mean.pt")]
    result = CliRunner().invoke(app, ["train", "average", *files, "--share", "0.25"])
    assert result.exit_code == 0, result.output
    mean = load_network(tmp_path / "mean.pt")[0].state_dict()
    for name, value in networks[0].state_dict().items():
        torch.testing.assert_close(mean[name].float(), 0.25 * value.float() + 0.75 * networks[1].state_dict()[name].float())
    torch.save({"average": ProposalNetwork(VARIANTS["accurate"]).state_dict(), "variant": "accurate"}, tmp_path / "other.pt")
    result = CliRunner().invoke(app, ["train", "average", files[0], str(tmp_path / "other.pt"), str(tmp_path / "x.pt")])
    assert result.exit_code != 0 and "other.pt: is 'accurate'" in " ".join(result.output.split())
    assert not (tmp_path / "x.pt").exists()

"""The second stage's training: it restores and tells apart, and a killed run ends as an unbroken one."""

import json
import os
import signal
import socket
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")
cv2 = pytest.importorskip("cv2")

import tinyfaces.training.second_stage_loop as module  # noqa: E402
from forked import start_processes, wait_for  # noqa: E402
from tinyfaces.cli import app, main  # noqa: E402
from tinyfaces.training.candidate_batches import draw, make_batch, make_pools  # noqa: E402
from tinyfaces.training.candidates import Candidates  # noqa: E402
from tinyfaces.training.networks.second_stage_networks import make_networks  # noqa: E402
from tinyfaces.training.second_stage_loop import train_second_stage  # noqa: E402
from tinyfaces.training.second_stage_measures import average_precision, collapse, psnr  # noqa: E402
from tinyfaces.training.settings import SecondStageConfig, load_second_stage_config  # noqa: E402


def _candidates(count=240) -> Candidates:
    """Faces are discs on a dark ground, the rest squares; each low crop is the reduced high one."""
    rng = np.random.default_rng(0)
    high = np.zeros((count, 64, 64, 3), np.uint8)
    face = np.arange(count) % 2 == 0
    y, x = np.mgrid[:64, :64]
    for number in range(count):
        cx, cy, r = rng.integers(26, 38), rng.integers(26, 38), rng.integers(12, 20)
        inside = (x - cx) ** 2 + (y - cy) ** 2 < r**2 if face[number] else (abs(x - cx) < r) & (abs(y - cy) < r)
        high[number] = rng.integers(0, 60)
        high[number][inside] = rng.integers(120, 256, 3)
    low = np.stack([cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA) for image in high])
    ones = np.ones(count, np.float32)
    box = np.where(face[:, None], 0.1, 0).astype(np.float32).repeat(4, 1)
    overlap = np.where(face, 0.7, 0.0).astype(np.float32)
    numbers = np.arange(count, dtype=np.int32)
    return Candidates(low, high, numbers, face, ones / 2, overlap, 10 * ones, box, numbers // 2)


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "read_candidates", lambda folder: _candidates())

    def call(name, **settings):
        small = {"steps": 6, "pretrain_steps": 2, "batch": 8, "save_every": 3, "evaluate_every": 100, "threads": 1}
        train_second_stage(SecondStageConfig(candidates="here", out=str(tmp_path / name), **{**small, **settings}))
        lines = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        return torch.load(tmp_path / name / "last.pt", weights_only=True), lines

    return call


def test_a_resumed_run_ends_in_the_same_state(run, monkeypatch, tmp_path):
    whole, _ = run("whole")
    calls, real = 0, module.average_gradients

    def killed(*arguments):
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "average_gradients", killed)
    with pytest.raises(KeyboardInterrupt):
        run("broken")
    assert torch.load(tmp_path / "broken/last.pt", weights_only=True)["step"] == 3
    monkeypatch.setattr(module, "average_gradients", real)
    resumed, _ = run("broken")
    for network in ("generator", "discriminator", "average"):
        assert all(torch.equal(resumed[network][name], value) for name, value in whole[network].items())
    weight = "up_sampling.head.0.0.weight"
    assert (whole["average"][f"generator.{weight}"] - whole["generator"][weight]).abs().max() > 1e-6, "the average is no copy"


def test_a_run_goes_on_with_its_own_settings_and_candidates_alone(run, monkeypatch, tmp_path):
    run("one")
    config = (tmp_path / "one/config.json").read_text()
    for changes, words in (
        ({"batch": 16}, "batch: 8, now 16)"),
        ({"generator": "bicubic"}, "generator: srn+rn, now bicubic)"),
        ({"pretrain_steps": 3}, "pretrain_steps: 2, now 3)"),
        ({"steps": 5}, "has taken 6 steps already"),
    ):
        with pytest.raises(ValueError) as error:
            run("one", **changes)
        assert str(error.value).startswith(f"{tmp_path}/one/last.pt: ") and words in str(error.value)
    monkeypatch.setattr(module, "read_candidates", lambda folder: _candidates(200))
    with pytest.raises(ValueError, match=r"candidates: 240 \(\w+\), now 200 \("):
        run("one")
    assert (tmp_path / "one/config.json").read_text() == config
    monkeypatch.undo()
    monkeypatch.setattr(module, "read_candidates", lambda folder: _candidates())
    state, _ = run("one", steps=7, save_every=1, evaluate_every=7)
    assert state["step"] == 7
    with pytest.raises(ValueError, match=r"last\.pt: this run would write over"):
        run("one", start=str(tmp_path / "one/last.pt"))


def _command(tmp_path: Path, name: str, **settings) -> list[str]:
    """A training on candidates that lie in a folder."""
    folder = tmp_path / "candidates"
    folder.mkdir(exist_ok=True)
    data = _candidates(80)
    np.savez(folder / "00000.npz", **{f.name: getattr(data, f.name) for f in fields(Candidates)})
    (folder / "manifest.json").write_text(json.dumps({"shards": [{"file": "00000.npz"}]}))
    (tmp_path / "second_stage.toml").write_text(f'candidates = "{folder}"\nbatch = 8\nthreads = 1\nevaluate_every = 1000\n')
    chosen = {"out": tmp_path / name, "pretrain_steps": 4, **settings}
    options = [text for key, value in chosen.items() for text in ("--set", f"{key}={value}")]
    return ["tinyfaces", "train", "second-stage", "--config", str(tmp_path / "second_stage.toml"), *options]


def _killed(rank: int, words: list[str]) -> None:
    learn = module.SecondStageRun.learn

    def killed(self, batch):
        if self.step == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return learn(self, batch)

    module.SecondStageRun.learn = killed
    sys.argv = words
    main()


def _with_fixed_norms(rank: int, port: int, words: list[str]) -> None:
    """One of two processes, as torchrun would begin it."""
    os.environ |= {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.nn.BatchNorm2d.train = lambda self, mode=True: torch.nn.Module.train(self, False)
    sys.argv = words
    main()


@pytest.mark.slow
def test_a_killed_run_loses_only_what_came_after_the_last_checkpoint(tmp_path):
    last = tmp_path / "killed/last.pt"
    with pytest.raises(torch.multiprocessing.ProcessExitedException) as ended:
        wait_for(start_processes(1, _killed, _command(tmp_path, "killed", steps=8, save_every=4)))
    assert ended.value.exit_code == -signal.SIGKILL
    assert torch.load(last, weights_only=True)["step"] == 4
    settings = {"out": str(tmp_path / "killed"), "pretrain_steps": 4, "steps": 8, "save_every": 100}
    train_second_stage(load_second_stage_config(tmp_path / "second_stage.toml", settings))
    assert torch.load(last, weights_only=True)["step"] == 8
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed/log.jsonl").read_text().splitlines()]
    assert steps[-1] == 8
    assert [p.name for p in last.parent.glob("*.partial")] in ([], ["last.partial"])


def _weights(state: dict, part: str) -> "torch.Tensor":
    return torch.cat([value.double().flatten() for name, value in state[part].items() if value.is_floating_point()])


@pytest.mark.slow
def test_two_processes_learn_what_one_does_from_the_same_candidates(tmp_path, monkeypatch):
    """With normalisations that are fixed, in float32; test_processes has the others."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    settings = {"steps": 6, "pretrain_steps": 2, "adversarial": 0.1, "classification": 0.1, "box": 0.1, "warmup": 2}
    running = start_processes(2, _with_fixed_norms, port, _command(tmp_path, "two", **settings))
    monkeypatch.setattr(torch.nn.BatchNorm2d, "train", lambda self, mode=True: torch.nn.Module.train(self, False))
    file = tmp_path / "second_stage.toml"
    train_second_stage(load_second_stage_config(file, {"out": str(tmp_path / "one"), **settings}))
    wait_for(running)
    one, two = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("one", "two"))
    torch.manual_seed(0)
    networks = dict(zip(("generator", "discriminator"), make_networks("slim", "srn+rn"), strict=True))
    assert two["step"] == one["step"] == 6
    for part, network in networks.items():
        moved = (_weights(one, part) - _weights({part: network.state_dict()}, part)).norm()
        assert (_weights(two, part) - _weights(one, part)).norm() < 0.05 * moved, part


@pytest.mark.parametrize("parts", ["srn", "bicubic", "none"])
def test_parts_alone_train_too(run, parts):
    state, lines = run(parts, generator=parts, pretrain_steps=0, steps=4)
    assert state["parts"] == parts and "face accuracy" in lines[-2]
    frozen = [name for name in state["generator"] if "weight" in name]
    assert bool(frozen) == (parts == "srn")


@pytest.mark.parametrize(
    ("parts", "networks"),
    [
        ("none", {"x.onnx": ("face", "box")}),
        ("srn+rn", {"x.generator.onnx": ("enlarged", "restored"), "x.discriminator.onnx": ("real", "face", "box")}),
    ],
)
def test_what_export_says_it_wrote_is_there(run, tmp_path, parts, networks):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    run("trained", generator=parts, pretrain_steps=0, steps=2)
    result = CliRunner().invoke(app, ["export", str(tmp_path / "trained/last.pt"), str(tmp_path / "out/x.onnx")])
    assert result.exit_code == 0, result.output
    said = {Path(line.split()[1].rstrip(",")).name for line in result.stdout.splitlines() if line.startswith("wrote ")}
    assert said == set(networks) == {path.name for path in (tmp_path / "out").glob("*.onnx")}
    for name, outputs in networks.items():
        session = onnxruntime.InferenceSession(str(tmp_path / "out" / name), providers=["CPUExecutionProvider"])
        assert tuple(port.name for port in session.get_outputs()) == outputs
    assert (tmp_path / "out/x.safetensors").is_file()


@pytest.mark.parametrize("parts", ["bicubic", "none"])
def test_where_the_generator_has_nothing_to_learn_pre_training_is_none(run, parts):
    """The average of the discriminator's weights stays between its weights, past `pretrain_steps` too."""
    state, lines = run(parts, generator=parts, pretrain_steps=11, steps=13, evaluate_every=13)
    same, _ = run(f"{parts}-0", generator=parts, pretrain_steps=0, steps=13, evaluate_every=13)
    assert all(torch.equal(state["average"][name], value) for name, value in same["average"].items())
    assert "face accuracy" in lines[0]


def test_the_generator_may_learn_more_seldom_and_a_run_may_begin_from_weights(run, tmp_path):
    first, _ = run("first")
    after, lines = run("after", start=str(tmp_path / "first/last.pt"), steps=4, pretrain_steps=0, generator_every=8, lr=1e-4)
    weights = {name: value for name, value in first["average"].items() if "num_batches" not in name and "running" not in name}
    moved = {name: (after[name.split(".")[0]][name.split(".", 1)[1]] - value).abs().max() for name, value in weights.items()}
    # step 0 alone moved the generator, each weight by at most Adam's rate, which warms up; the others moved the discriminator
    generator = max(change for name, change in moved.items() if name.startswith("generator"))
    discriminator = max(change for name, change in moved.items() if name.startswith("discriminator"))
    assert 0 < generator < 1.1e-6 < discriminator
    (means,) = [line for line in lines if line["step"] == 4 and "pixel" in line]
    assert means["adversarial"] > 0, "the mean over the steps that have it"


def test_the_generator_may_stay_as_it_is(run, tmp_path):
    first, _ = run("first")
    after, lines = run("after", start=str(tmp_path / "first/last.pt"), steps=4, pretrain_steps=3, generator_every=0)
    kept = {name: value for name, value in first["average"].items() if name.startswith("generator.")}
    assert kept and all(torch.equal(after["average"][name], value) for name, value in kept.items()), "its statistics too"
    assert not torch.equal(after["average"]["discriminator.face.weight"], first["average"]["discriminator.face.weight"])
    assert "face" in lines[0] and "adversarial" not in lines[0]


def test_the_discriminator_may_begin_anew_behind_a_generator_that_goes_on(run, tmp_path):
    first, _ = run("first")
    again = {"start": str(tmp_path / "first/last.pt"), "steps": 1, "generator_every": 0, "lr": 0.0}
    kept, _ = run("kept", **again)
    anew, _ = run("anew", **again, start_discriminator=False)
    torch.manual_seed(0)
    random = make_networks("slim", "srn+rn")[1].state_dict()
    name = "face.weight"
    assert torch.equal(kept["discriminator"][name], first["average"][f"discriminator.{name}"])
    assert torch.equal(anew["discriminator"][name], random[name])
    assert all(torch.equal(anew["generator"][name], value) for name, value in kept["generator"].items())


def test_undecided_candidates_are_drawn_three_times_as_often_and_sharp_ones_by_request():
    count = 60
    data = replace(_candidates(count), score=np.linspace(0, 1, count, dtype=np.float32))
    data.target[::2] = -1
    config = SecondStageConfig(candidates="here", batch=64, sharp=1, held_out=5)
    pools, held = make_pools(data, config)
    batches = np.array([draw(pools, config, step) for step in range(900)])
    assert batches.shape == (900, 64) and not np.isin(batches, held).any()
    first, others = batches[:, ::4], batches.reshape(900, 16, 4)[:, :, 1:]
    assert (data.target[first] >= 0).all() and set(first.flat) == set(np.flatnonzero((data.target >= 0) & (data.photo % 5 > 0)))
    drawn = np.bincount(others.ravel(), minlength=count)
    wanted = np.where((data.score > 0.15) & (data.score < 0.93), 3.0, 1.0) * (data.photo % 5 > 0)
    assert drawn == pytest.approx(wanted / wanted.sum() * drawn.sum(), rel=0.2)
    assert np.array_equal(draw(pools, config, 7), batches[7]) and not np.array_equal(batches[7], batches[8])
    without = np.array([draw(pools, replace(config, sharp=0), step) for step in range(900)])
    drawn = np.bincount(without.ravel(), minlength=count)
    assert drawn == pytest.approx(wanted / wanted.sum() * drawn.sum(), rel=0.2)


@pytest.mark.parametrize("missing", ["faces", "others", "sharp"])
def test_a_pool_that_is_empty_is_named(missing):
    data = _candidates(40)
    if missing == "sharp":
        data.target[:] = -1
    else:
        data.face[:] = missing == "others"
    with pytest.raises(ValueError, match=f"here: no candidates to train on among the {missing}"):
        make_pools(data, SecondStageConfig(candidates="here"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sharp = 5", "sharp is 5, must be 0 to 4"),
        ("sharp = 0", "sharp = 0 leaves the generator nothing to restore"),
    ],
)
def test_a_share_of_sharp_ones_that_cannot_be_is_refused(tmp_path, line, words):
    file = tmp_path / "second_stage.toml"
    file.write_text(f'candidates = "x"\n{line}\n')
    with pytest.raises(ValueError, match=words):
        load_second_stage_config(file, {})


@pytest.mark.slow
def test_it_learns_to_restore_and_to_tell(run):
    _, lines = run("learns", steps=90, pretrain_steps=40, batch=16, lr=4e-3, ema=0.9, evaluate_every=90)
    result = next(line for line in reversed(lines) if "ap discriminator" in line)
    assert result["psnr srn+rn"] > result["psnr bicubic"] + 1
    assert result["ap discriminator"] > 0.9 > result["ap proposals"] + 0.2
    joint = [line for line in lines if "real accuracy" in line]
    assert {"discriminator", "adversarial", "face accuracy", "pixel"} <= set(joint[-1])


def test_psnr_and_average_precision_are_their_formulas():
    a, b = torch.full((1, 3, 4, 4), 0.5), torch.full((1, 3, 4, 4), 0.6)
    assert psnr(a, b).item() == pytest.approx(20, abs=1e-3)
    # right at ranks 1 and 3: (1 + 2/3) / 2
    assert average_precision(np.array([0.9, 0.8, 0.7, 0.1]), np.array([True, False, True, False])) == pytest.approx(5 / 6)


def test_mirroring_mirrors_the_box():
    data = _candidates(40)
    plain = make_batch(data, np.arange(40), None)
    mirrored = make_batch(data, np.arange(40), np.random.default_rng(0))
    flipped = mirrored.box[:, 0] < 0
    assert flipped.any() and (plain.box[:, 0] > 0).sum() > flipped.sum()
    light = mirrored.low.mean() / plain.low.mean()
    assert 0.8 < light < 1.2 and (plain.low.max() <= 1)
    for before, after in ((plain.low, mirrored.low), (plain.high, mirrored.high)):
        for number in np.flatnonzero(data.face):
            kept, pixels = before[number], after[number]
            expected = kept.flip(2) if flipped[number] else kept
            assert np.corrcoef(expected.flatten(), pixels.flatten())[0, 1] > 0.97
        assert any(np.corrcoef(kept.flatten(), kept.flip(2).flatten())[0, 1] < 0.9 for kept in before[flipped])
    halves = [make_batch(data, np.arange(40), np.random.default_rng(0), slice(rank, None, 2)) for rank in range(2)]
    for rank, half in enumerate(halves):
        assert torch.equal(half.low, mirrored.low[rank::2]) and torch.equal(half.box, mirrored.box[rank::2])
    assert plain.has_target.all() and plain.high.shape == (40, 3, 64, 64)


def test_collapse_is_reported():
    healthy = {"spread": 1.0, "real accuracy": 0.8, "adversarial": 1.0}
    assert collapse([healthy] * 3) == ""
    assert "differ" in collapse([{**healthy, "spread": 0.1}] * 3)
    assert "99.9%" in collapse([{**healthy, "real accuracy": 0.999, "adversarial": 9.0}] * 3)


def test_wrong_settings_name_the_file(tmp_path):
    file = tmp_path / "second_stage.toml"
    file.write_text('candidates = "x"\n')
    config = load_second_stage_config(file, {"steps": 5, "bfloat16": "no"})
    assert config.steps == 5 and config.bfloat16 is False
    for overrides, word in (
        ({"variant": "huge"}, "huge"),
        ({"speed": 1}, "speed"),
        ({"batch": 6}, "multiple of 4"),
        ({"stepz": 3}, "there is no setting stepz, perhaps steps is meant"),
        ({"steps": "many"}, "steps is 'many', must be a whole number"),
    ):
        with pytest.raises(ValueError, match=word) as caught:
            load_second_stage_config(file, overrides)
        assert "second_stage.toml" in str(caught.value)

"""Training of several networks at once: it takes ten steps on a CPU, goes on from its checkpoint, and takes packs in."""

import json
import sys

import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")

from test_packs import write_source  # noqa: E402
from tinyfaces.cli import app  # noqa: E402
from tinyfaces.training import together  # noqa: E402
from tinyfaces.training.checkpoints import load_network  # noqa: E402
from tinyfaces.training.folding import folded  # noqa: E402
from tinyfaces.training.networks.proposal_network import FAST, VARIANTS, ProposalNetwork  # noqa: E402
from tinyfaces.training.packs import PackConfig, PackLibrary, prepare_pack, write_packs  # noqa: E402
from tinyfaces.training.together import Clock, endless_batches, load_together_config, train_together  # noqa: E402


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A configuration of two small networks, one growing from the other and teaching it, and a pack of four photos."""
    (pack,) = write_packs(PackConfig((write_source(tmp_path, "street", 4),)), tmp_path / "packs", megabytes=10, workers=1)
    assert pack[0].exists()
    torch.manual_seed(0)
    torch.save({"average": ProposalNetwork(FAST).state_dict(), "variant": "fast"}, tmp_path / "fast.pt")
    # "thorough" of this test is a block deeper and a little wider than "fast"
    larger = type(FAST)(widths=(16, 24, 32, 48, 64), depths=(1, 1, 1, 1), pyramid=(16, 32, 32, 32))
    monkeypatch.setitem(VARIANTS, "thorough", larger)
    text = f"""packs = "{tmp_path}/packs"
out = "{tmp_path}/run"
cache = "{tmp_path}/cache"
batch = 4
bfloat16 = false
warmup = 2
fixed_norm_from = 0.8
shares.street = 1.0
[networks.thorough]
start = "{tmp_path}/fast.pt"
[networks.fast]
start = "{tmp_path}/fast.pt"
teacher = "thorough"
teacher_from = 0.2
[crops]
size = 64
[natural_crops]
size = 64
negative_share = 0.5
[large_crops]
size = 128
"""
    (tmp_path / "together.toml").write_text(text)
    return tmp_path / "together.toml"


def run(config, steps, **overrides):
    said = []
    train_together(load_together_config(config, overrides), workers=0, steps=steps, say=said.append)
    return torch.load(config.parent / "run/last.pt", weights_only=True), said


@pytest.mark.slow
def test_ten_steps_of_two_networks_and_on_from_the_checkpoint(config):
    began = {"fast": load_network(config.parent / "fast.pt")[0].state_dict()}
    state, said = run(config, 10)
    assert state["step"] == 10 and said[0].startswith("4 photos ready") and said[-1].startswith("done: 10 steps")
    (line,) = [json.loads(text) for text in (config.parent / "run/log.jsonl").read_text().splitlines()]
    assert line["step"] == 10 and len(line["thorough"]) == 2 and len(line["fast"]) == 3
    for variant in ("thorough", "fast"):
        network, known = load_network(config.parent / f"run/{variant}.pt")
        assert known == variant and all(value.isfinite().all() for value in network.state_dict().values())
    weights = "heads.0.weight"
    kept, moved = state["fast"]["average"][weights], state["fast"]["network"][weights]
    assert not torch.equal(moved, began["fast"][weights]) and not torch.equal(kept, moved), "the average is no copy"
    # normalisations keep their statistics in the last two of ten steps
    assert state["fast"]["network"]["stem.1.num_batches_tracked"] == began["fast"]["stem.1.num_batches_tracked"] + 8

    again, said = run(config, 13)
    assert any(text.startswith("going on from step 10") for text in said)
    assert again["step"] == 13 and again["seconds"] > state["seconds"]
    assert again["fast"]["network"]["stem.1.num_batches_tracked"] < 13
    finished, said = run(config, 13)
    assert finished["step"] == 13
    assert torch.equal(finished["thorough"]["network"][weights], again["thorough"]["network"][weights])


def test_a_frozen_trunk_stays_and_the_rest_learns(config):
    began = load_network(config.parent / "fast.pt")[0].state_dict()
    frozen = {"networks.fast.frozen_trunk": True, "fixed_norm_from": 1.0}
    run(config, 2, **frozen)
    state, _ = run(config, 3, **frozen)  # resumed
    for name, value in state["fast"]["network"].items():
        stays = name.startswith(("stem", "fine", "stages", "context"))
        assert torch.equal(value, began[name]) == stays, name


def test_looking_through_a_folded_trunk_changes_nothing():
    torch.manual_seed(1)
    network = ProposalNetwork(FAST).eval()
    network.freeze_trunk()
    images = torch.rand(1, 3, 64, 96) * 255
    for folded_, whole in zip(network.answers(folded(network).trunk(images)), network(images), strict=True):
        torch.testing.assert_close(folded_, whole, rtol=1e-4, atol=1e-4)
    sum(output.square().sum() for output in network(images)).backward()
    learning = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert learning and all(name.startswith(("laterals", "from_above", "branches", "heads")) for name in learning)


def test_a_run_goes_on_with_its_own_settings_and_packs_alone(config):
    run(config, 1)
    last = config.parent / "run/last.pt"
    kept = last.read_bytes()
    for changes, words in (
        ({"batch": 8}, "batch: 4, now 8)"),
        ({"shares.street": 0.5}, "shares.street: 1.0, now 0.5)"),
        ({"networks.fast.teacher": ""}, "networks.fast.teacher: thorough, now )"),
        ({"networks.fast.start": ""}, "networks.fast.start: "),
    ):
        with pytest.raises(ValueError) as error:
            run(config, 2, **changes)
        assert str(error.value).startswith(f"{last}: ") and words in str(error.value), error.value
    with pytest.raises(ValueError, match=r"fast\.pt: this run would write over"):
        run(config, 2, **{"networks.fast.start": str(config.parent / "run/fast.pt")})
    more = write_packs(PackConfig((write_source(config.parent, "street", 2, first=4),)), config.parent / "more", 10, 1)
    next(more)[0].rename(config.parent / "packs/01.zip")
    assert last.read_bytes() == kept
    assert run(config, 2, seconds=5.0)[0]["step"] == 2, "packs may come"
    (config.parent / "packs/00.zip").unlink()
    (config.parent / "packs/00").rename(config.parent / "gone")
    with pytest.raises(ValueError, match=r"pack 00: \w+, now gone\)"):
        run(config, 3)
    done = CliRunner().invoke(app, ["train", "together", str(config), "--steps", "1", "--workers", "0", "--fresh"])
    assert done.exit_code == 0 and torch.load(last, weights_only=True)["step"] == 1, done.output


def test_a_broken_pack_is_told_and_the_others_train(config):
    (config.parent / "packs/07.zip").write_bytes(b"broken")
    command = ["train", "together", str(config), "--steps", "1", "--workers", "0"]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "300"})
    assert done.exit_code == 1 and "done: 1 steps" in done.output, done.output
    assert done.stderr.count("07.zip: cannot be unpacked") == 1
    assert CliRunner().invoke(app, [*command, "--prepare", str(config.parent / "packs/07.zip")]).exit_code == 2
    (config.parent / "packs/07.zip").unlink()
    assert CliRunner().invoke(app, command).exit_code == 0


def test_a_resumed_run_sees_the_crops_that_an_unbroken_one_would(config):
    settings = load_together_config(config, {"mosaics_until": 0.0})
    prepare_pack(config.parent / "packs/00.zip", config.parent / "cache")
    library = PackLibrary(config.parent / "packs", config.parent / "cache", settings.shares, {}, 12)
    library.take_in_new(at_once=True)
    whole, later = Clock(1e9, None), Clock(1e9, None)
    later.go_on(3, 0.0)
    batches = endless_batches(library, settings, whole, workers=0)
    unbroken = [next(batches) for _ in range(8)]
    batches = endless_batches(library, settings, later, workers=0)
    for batch in unbroken[3:]:
        assert torch.equal(batch.pixels, next(batches).pixels)
    sizes = [batch.pixels.shape[:2] for batch in unbroken]
    assert sizes == [(4, 64)] * 3 + [(1, 128)] + [(4, 64)] * 3 + [(1, 128)]


@pytest.mark.slow
def test_a_pack_that_becomes_ready_during_the_run_is_taken_in(config, monkeypatch):
    monkeypatch.setattr("tinyfaces.training.packs._LOOK_EVERY", 0.0)
    more = config.parent / "more"
    list(write_packs(PackConfig((write_source(more, "street", 5, first=4),)), more / "packs", megabytes=10, workers=1))
    libraries, real = [], together.open_library

    def opened(*arguments):
        libraries.append(real(*arguments))
        return libraries[0]

    learn, steps = together.Pupil.learn, 0

    def learning(self, *arguments):
        nonlocal steps
        steps += 1
        if steps == 3:
            (more / "packs/00.zip").rename(config.parent / "packs/01.zip")
            prepared = CliRunner().invoke(
                app, ["train", "together", str(config), "--prepare", str(config.parent / "packs/01.zip")]
            )
            assert prepared.exit_code == 0, prepared.output
        return learn(self, *arguments)

    monkeypatch.setattr(together, "open_library", opened)
    monkeypatch.setattr(together.Pupil, "learn", learning)
    drawn = []
    real_crops = together.CropDataset
    monkeypatch.setattr(together, "CropDataset", lambda *given: (drawn.append(len(given[2])), real_crops(*given))[1])
    run(config, 4, large_every=0, mosaics_until=0.0)
    assert len(libraries[0]) == 9
    assert drawn[0] == 4 and drawn[-1] == 9, "crops are drawn from the new photos too"


def test_the_time_ends_a_run_and_sets_its_rate(config, monkeypatch):
    clock = Clock(100.0, None)
    clock.go_on(7, 50.0)
    assert clock.progress() == pytest.approx(0.5, abs=0.01)
    settings = load_together_config(config, {"warmup": 1})
    rates = [together.learning_rate(50, progress, settings) for progress in (0.0, 0.5, 1.0)]
    assert rates == pytest.approx([1.0, 0.505, 0.01])
    assert Clock(100.0, 4).progress() == 0.0
    state, _ = run(config, None, seconds=0.4)
    assert state["seconds"] >= 0.4 and state["step"] >= 1
    again, _ = run(config, None, seconds=0.4)
    assert again["step"] == state["step"], "no time is left"


def test_a_checkpoint_is_written_during_the_run(config, monkeypatch):
    monkeypatch.setattr(together, "_SAVE_EVERY", 0.0)
    saved, real = [], together.save_run
    monkeypatch.setattr(together, "save_run", lambda *arguments: (saved.append(arguments[1].step), real(*arguments)))
    run(config, 3)
    assert saved == [1, 2, 3, 3]


def test_the_command_runs_without_msgspec_too(config, monkeypatch):
    for name in ("msgspec", "scipy", "onnx", "torchmetrics"):
        monkeypatch.setitem(sys.modules, name, None)
    folders = ["--packs", str(config.parent / "packs"), "--cache", str(config.parent / "c"), "--out", str(config.parent / "run")]
    command = ["train", "together", str(config), *folders, "--seconds", "100", "--workers", "0", "--steps", "1", "--batch", "2"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and "done: 1 steps" in done.output, done.output
    assert done.output.count("msgspec is not installed") == 1


@pytest.mark.parametrize(
    "setting,words",
    [
        ("stepz=3", "there is no setting stepz"),
        ("batch=many", "batch is 'many', must be a whole number"),
        ("bfloat16=perhaps", "bfloat16 is 'perhaps', must be true or false"),
        ("crops.sizes=3", "there is no setting crops.sizes, perhaps crops.size is meant"),
        ("networks.fast.teachers=x", "there is no setting networks.fast.teachers"),
        ("networks.fast.teacher=accurate", "networks.fast.teacher is 'accurate', which is not among the networks"),
        ("natural_crops.size=128", "natural_crops.size is 128, must be crops.size, 64"),
    ],
)
def test_wrong_settings_are_one_line(config, setting, words):
    done = CliRunner().invoke(app, ["train", "together", str(config), "--set", setting])
    assert done.exit_code == 2 and words in done.output and len(done.output.splitlines()) == 1, done.output


def test_the_shipped_configurations_are_valid():
    from pathlib import Path

    from tinyfaces.training.settings import load_config, load_second_stage_config
    from tinyfaces.training.typed_toml import load_settings

    configs = Path(__file__).parents[1] / "configs"
    chosen = load_together_config(configs / "together.toml", {})
    assert chosen.batch == 192 and chosen.large_crops.size == 896 and set(chosen.networks) == {"thorough", "accurate", "fast"}
    assert {load_config(configs / f"{name}.toml", {}).variant for name in ("accurate", "fast")} == {"accurate", "fast"}
    for name in ("accurate", "fast"):
        alone = load_config(configs / f"{name}.toml", {})
        shares = {Path(one.annotations).name.removesuffix("_train.json.gz"): one.share for one in alone.train if one.labelled}
        assert shares == chosen.shares and alone.crops == chosen.crops and alone.large_crops == chosen.large_crops
        assert alone.natural_crops == chosen.natural_crops and alone.crops.negative_share == 0.2
        assert not {one.annotations for one in alone.dev} & {one.annotations for one in alone.train}
    assert load_second_stage_config(configs / "second_stage.toml", {}).real_fake_weight == 0.2
    assert len(load_settings(PackConfig, configs / "packs.toml", {}).source) == 22

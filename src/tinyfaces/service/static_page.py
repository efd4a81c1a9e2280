"""The web page as static files: the models run in the browser's tab, and photos never leave it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tinyfaces import __version__
from tinyfaces.detection.detector import Detector
from tinyfaces.detection.fusion import FusionRule
from tinyfaces.detection.runtime import RuntimeOptions
from tinyfaces.jobs.cover_threshold import BY_HEIGHT
from tinyfaces.weights import second_stage, shipped_model

RUNTIME_VERSION = "1.30.0"
"""The version of onnxruntime-web that the page was tested with."""
GET_RUNTIME = f"npm install onnxruntime-web@{RUNTIME_VERSION}"
"""The command that brings it."""
RUNTIME_FOLDER = Path("node_modules/onnxruntime-web/dist")
"""Where that command puts it."""

_RUNTIME_FILES = {
    # Servers that do not know .mjs would keep browsers from running it.
    "ort.wasm.bundle.min.mjs": ("ort.js", "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90"),
    "ort-wasm-simd-threaded.wasm": ("ort.wasm", "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"),
}
_GENERATOR, _JUDGE = "models/generator.onnx", "models/judge.onnx"
_LIMITS = {"megabytes": 200, "megapixels": 100}
_SERVICE = Path(__file__).parent
_PAGE_FILES = ("index.html", "app.js", "stage.js", "style.css", "icon.svg", "example.jpg")
"""Files of the service's page that the static one has too."""
_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; "
    "worker-src 'self' blob:; base-uri 'none'; form-action 'none'"
)
_IN_TAB = {
    '<meta charset="utf-8">': f'<meta charset="utf-8">\n  <meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
    "Pictures are sent to this service only, and none is kept.": "Pictures stay in this tab: they are sent nowhere.",
    '<a href="docs">API</a>': '<a href="models/README.txt">Models</a>',
}
"""What the page says in place of what it says about the service."""


class StaticPageError(ValueError):
    """The page cannot be made. The message is one line."""


@dataclass(frozen=True)
class TabModel:
    """A model of the static page.

    Args:
        name: By which it is chosen.
        file: The ONNX file.
        threshold: The score from which a detection counts as a face at first.
        enlarges: Whether small photos are enlarged, as for shipped models.
        rule: How the second stage judges its proposals; None for the first stage alone.
        trained_on: What is known of that, and what the weights may be used for.
    """

    name: str
    file: Path
    threshold: float
    enlarges: bool
    rule: FusionRule | None
    trained_on: str


def tab_model(model: str, precision: str) -> TabModel:
    """A shipped model or an ONNX file as the page takes it. precision: "float32" or "int8". Raises ModelError."""
    options = RuntimeOptions(device="cpu", precision=precision)
    detector = Detector(model, device="cpu", precision=precision)  # which says what is wrong with it
    shipped = shipped_model(model)
    file = options.file_for(Path(model) if shipped is None else shipped.path)
    about = "your own model" if shipped is None else f"trained on {shipped.training_data}"
    name = Path(model).stem if shipped is None else shipped.name
    rule = None if shipped is None else FusionRule.from_dict(second_stage().rules[shipped.name])
    return TabModel(name, file, detector.threshold, detector.scale is None, rule, about)


def static_page(models: Sequence[TabModel], runtime: Path, precision: str) -> dict[str, bytes]:
    """The files of the page.

    Args:
        models: What can be chosen; the first is the default.
        runtime: The folder with the files of onnxruntime-web.
        precision: "float32" or "int8", for the networks of the second stage.

    Returns:
        Contents by path below the page's folder.

    Raises:
        StaticPageError: Two models have the same name, or onnxruntime-web is missing or another version.
        OSError: A file cannot be read.
    """
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise StaticPageError(f"model '{name}' is given twice")
    files = _runtime_files(runtime)
    for name in _PAGE_FILES:
        files[f"page/{name}"] = (_SERVICE / "page" / name).read_bytes()
    for source in sorted((_SERVICE / "tab").glob("*.js")):
        files[f"tab/{source.name}"] = source.read_bytes()
    files["page/engine.js"] = b'export * from "../tab/engine.js";\n'
    files["index.html"] = _index(files.pop("page/index.html").decode()).encode()
    options = RuntimeOptions(device="cpu", precision=precision)
    files[_GENERATOR] = options.file_for(second_stage().generator_path).read_bytes()
    if any(model.rule for model in models):
        files[_JUDGE] = options.file_for(second_stage().judge_path).read_bytes()
    for model in models:
        files[f"models/{model.name}.onnx"] = model.file.read_bytes()
    files["models/README.txt"] = _about(models).encode()
    files["site.json"] = f"{json.dumps(_offers(models), indent=1)}\n".encode()
    return files


def _runtime_files(folder: Path) -> dict[str, bytes]:
    files = {}
    for given, (name, known) in _RUNTIME_FILES.items():
        path = folder / given
        if not path.is_file():
            raise StaticPageError(f"{path}: no such file; the page needs onnxruntime-web: {GET_RUNTIME}, then give its folder as "
                                  f"--runtime {RUNTIME_FOLDER.as_posix()}")  # fmt: skip
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != known:
            raise StaticPageError(f"{path}: is damaged or of another version than {RUNTIME_VERSION} (SHA-256); {GET_RUNTIME}")
        files[f"runtime/{name}"] = content
    return files


def _index(page: str) -> str:
    for in_service, in_tab in _IN_TAB.items():
        assert page.count(in_service) == 1, in_service
        page = page.replace(in_service, in_tab)
    return page


def _offers(models: Sequence[TabModel]) -> dict[str, object]:
    """What the service says at /v1/models, as far as the page needs it."""
    known = [
        {
            "name": model.name, "threshold": model.threshold, "file": f"models/{model.name}.onnx", "enlarges": model.enlarges,
            "second_stage": None if model.rule is None else {"judge": _JUDGE, "rule": model.rule.to_dict()},
        }
        for model in models
    ]  # fmt: skip
    return {
        "version": __version__, "models": known, "limits": _LIMITS, "restores": True, "generator": _GENERATOR,
        "cover_threshold": BY_HEIGHT,
    }  # fmt: skip


def _about(models: Sequence[TabModel]) -> str:
    lines = [f"{model.name}: {model.trained_on}" for model in models]
    if any(model.rule for model in models):
        lines.append(f"judge, which looks at small faces again: trained on {second_stage().training_data}")
    lines.append(f"generator, which restores small faces: trained on {second_stage().training_data}")
    return "\n".join([
        f"Models of tinyfaces {__version__}", "", *lines, "",
        "The models that tinyfaces ships are for research use only, as the photos they were trained on were given for research.",
        f"The folder runtime holds ONNX Runtime Web {RUNTIME_VERSION}, Copyright (c) Microsoft Corporation, MIT License.", "",
    ])  # fmt: skip

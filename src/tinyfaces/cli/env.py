"""`tinyfaces env`."""

import os
import platform
from collections.abc import Iterator, Mapping
from importlib import metadata

import typer

from tinyfaces import __version__
from tinyfaces.cli.options import SOME_FAILED, app, command
from tinyfaces.detection.devices import PROVIDERS, chosen_device
from tinyfaces.detection.processors import allowed_cpus, features, multiplies_int8, processor_name, quota_cpus, usable_cpus
from tinyfaces.detection.runtime import quiet_onnxruntime, quiet_openvino

_PACKAGES = (
    "numpy", "pillow", "onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "openvino", "pillow-heif", "pillow-jxl-plugin",
    "rawpy", "av", "pyvips", "fastapi", "torch", "ray",
)  # fmt: skip


@command(app)
def env() -> None:
    """Show versions, processors and devices, what is chosen and why: for a bug report.

    Exit code: 0, or 1 if ONNX Runtime is missing or has two owners, which the last lines say.
    """
    owners = metadata.packages_distributions()
    faults = list(_two_owners("onnxruntime", owners))
    if not owners.get("onnxruntime"):
        faults.append("no package with the module onnxruntime is installed: pip install onnxruntime")
    warnings = _two_owners("cv2", owners)  # which no detection needs
    for line in (*_lines(), *(f"warning: {line}" for line in warnings), *(f"fault: {line}" for line in faults)):
        typer.echo(line)
    if faults:
        raise typer.Exit(SOME_FAILED)


def _lines() -> Iterator[str]:
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    yield f"tinyfaces {__version__}, Python {platform.python_version()}, {system}"
    versions = {name: _version(name) for name in _PACKAGES}
    yield "packages: " + ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    yield "not installed: " + (", ".join(name for name, version in versions.items() if not version) or "nothing")
    yield f"processor: {processor_name()}; features: {', '.join(features()) or 'none that matter'}"
    quota = quota_cpus()
    limit = "no quota of a container" if quota is None else f"a container's quota of {quota:g}"
    yield f"processors used: {usable_cpus()} of {os.cpu_count()} ({allowed_cpus()} allowed, {limit})"
    try:
        onnxruntime = quiet_onnxruntime()
        there = onnxruntime.get_available_providers()
    except (ImportError, AttributeError) as error:
        yield f"onnxruntime cannot be used: {error}"
        return
    devices = [device for device, (provider, _) in PROVIDERS.items() if provider in there]
    yield f"devices: {', '.join(devices)} (providers of onnxruntime: {', '.join(there)})"
    if versions["openvino"]:
        yield f"devices of openvino: {', '.join(quiet_openvino().Core().available_devices)}"
    choice = chosen_device(onnxruntime)
    yield f"--device auto: {choice.device}, as {choice.why}"
    fast = choice.device == "cpu" and multiplies_int8()
    why = "the processor multiplies int8 in one step" if fast else "int8 is faster only on a CPU with VNNI or dot product"
    yield f"--precision auto: {'int8' if fast else 'float32'}, as {why}"


def _two_owners(module: str, owners: Mapping[str, list[str]]) -> Iterator[str]:
    """A line where several packages bring a module, each over the files of the other."""
    packages = sorted(set(owners.get(module, [])))
    if len(packages) > 1:
        yield (
            f"{' and '.join(packages)} both own the module {module}: pip uninstall {' '.join(packages)}, then "
            f"pip install {packages[-1]} or the one that you want"
        )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""

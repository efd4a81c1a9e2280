"""Settings from TOML files, each value checked against its field's type; what all configurations of a training are read with.

msgspec does the checking (extra `train`). A machine without it, such as a GPU lent for minutes, takes the values as they are:
carry its wheel along to have them checked there too.
"""

import dataclasses
import difflib
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

Settings = TypeVar("Settings")

_WORDS = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}
_WANTED = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file holds. Raises ValueError with one line that names the file."""
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits too, and arrays as deep
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None


def load_settings(kind: type[Settings], path: Path, overrides: Mapping[str, object]) -> Settings:
    """Read a TOML file into a dataclass.

    Args:
        kind: the dataclass. Fields may be dataclasses themselves (sections of the file, over the field's default), tuples of
            them (arrays of sections) or dictionaries of them.
        path: the file.
        overrides: values by name that are put over the file's; "crops.size" is `size` of the section `crops`.

    Returns:
        An instance of `kind`.

    Raises:
        ValueError: one line that names the file and the setting, where a value is missing, unknown or of another type.
    """
    values = read_toml(path)
    for name, value in overrides.items():
        *sections, key = name.split(".")
        inner = values
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ValueError(f"{path}: {section} is no section, so there is no {name}")
        inner[key] = value
    if not _can_check():
        print("msgspec is not installed: the types of settings are not checked", file=sys.stderr)
    try:
        settings: Settings = _built(kind, values, "")
    except _SettingError as error:
        raise ValueError(f"{path}: {error}") from None
    return settings


class _SettingError(ValueError):
    """What is wrong with a setting; the message begins with its name."""


def _built(kind: Any, values: Any, prefix: str, base: Any = None) -> Any:
    """An instance of a dataclass: of `values` alone, or over those of `base`."""
    if not isinstance(values, dict):
        raise _SettingError(f"{prefix.rstrip('.')} is {values!r}, must be a section")
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    given = {}
    for name, value in values.items():
        if name not in fields:
            near = difflib.get_close_matches(name, fields, 1)
            raise _SettingError(f"there is no setting {prefix}{name}" + (f", perhaps {prefix}{near[0]} is meant" if near else ""))
        given[name] = _value(hints[name], value, f"{prefix}{name}", _default(fields[name]))
    if base is not None:
        return dataclasses.replace(base, **given)
    missing = [name for name, field in fields.items() if name not in given and _default(field) is dataclasses.MISSING]
    if missing:
        raise _SettingError(f"{prefix}{missing[0]} is missing")
    return kind(**given)


def _value(hint: Any, value: Any, name: str, default: Any) -> Any:
    """A value as its type has it, dataclasses built from their sections."""
    inner = get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _built(hint, value, f"{name}.", None if default is dataclasses.MISSING else default)
    if get_origin(hint) is dict and dataclasses.is_dataclass(inner[1]) and isinstance(value, dict):
        return {key: _built(inner[1], one, f"{name}.{key}.") for key, one in value.items()}
    if get_origin(hint) is tuple and dataclasses.is_dataclass(inner[0]) and isinstance(value, list | tuple):
        return tuple(_built(inner[0], one, f"{name}[{number}].") for number, one in enumerate(value))
    if hint is bool and isinstance(value, str):
        value = _WORDS.get(value.lower(), value)
    if not _can_check():
        return tuple(value) if isinstance(value, list) else value
    import msgspec

    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        wanted = _WANTED.get(hint)
        raise _SettingError(f"{name} is {value!r}" + (f", must be {wanted}" if wanted else f" ({error})")) from None


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _can_check() -> bool:
    try:
        import msgspec  # noqa: F401
    except ImportError:
        return False
    return True

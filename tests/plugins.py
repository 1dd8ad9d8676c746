"""Installs a package for a test: its modules and what pip would note of it, in a folder."""

import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path

WORDPLAY = Path(__file__).parents[1] / "docs" / "wordplay"


def install(source: Path, into: Path) -> Path:
    """Install a folder with a pyproject.toml; put `into` on the path to have it."""
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    for module in source.glob("*.py"):
        shutil.copy(module, into)
    _note(into, project["name"], project["version"], project["entry-points"]["bosal.rules"])
    return into


def install_module(
    into: Path, name: str, code: str, rules: Mapping[str, str], version: str = "0.1"
) -> Path:
    """Install one module of the given code, and its rules by name."""
    (into / f"{name}.py").write_text(code)
    _note(into, name.replace("_", "-"), version, rules)
    return into


def _note(into: Path, name: str, version: str, rules: Mapping[str, str]) -> None:
    info = into / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"{rule} = {where}" for rule, where in rules.items()]
    (info / "entry_points.txt").write_text("\n".join(["[bosal.rules]", *lines, ""]))

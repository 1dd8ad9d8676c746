"""What is shipped: the packages whole, typed, and nothing beside them."""

from pathlib import Path, PurePosixPath

from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "bosal": "proto",
    "bosal_client": "clients/python",
    "bosal_command": "clients/python",
    "bosal_decoding": "decoding",
    "bosal_kernels": "kernels",
    "bosal_lab": "lab",
    "bosal_models": "lab",
    "bosal_server": "server",
}
SUFFIXES = {".py", ".pyi", ".proto", ".yaml", ".json", ".jsonl", ".safetensors", ".md", ".toml"}


def in_wheel() -> set[str]:
    return {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}


def in_source() -> set[str]:
    return {file.distribution_path for file in SdistBuilder(str(ROOT)).recurse_included_files()}


def test_the_wheel_holds_typed_packages_and_what_they_read() -> None:
    files = {PurePosixPath(name) for name in in_wheel()}
    assert {file.parts[0] for file in files} == set(PACKAGES)
    assert {PurePosixPath(name, "py.typed") for name in PACKAGES} <= files
    others = {file for file in files if file.suffix not in SUFFIXES and file.name != "py.typed"}
    assert others == set()
    weights = {file for file in files if file.suffix == ".safetensors"}
    assert {file.parts[0] for file in weights} == {"bosal_models"}


def test_the_source_archive_makes_the_same_wheel() -> None:
    files = in_source()
    for name in in_wheel():
        assert f"{PACKAGES[name.partition('/')[0]]}/{name}" in files, name
    folders = tuple(f"{folder}/{package}/" for package, folder in PACKAGES.items())
    pages = {name for name in files if not name.startswith(folders)}
    assert {"README.md", "LICENSE"} <= pages
    assert all("/" not in name for name in pages), pages


def test_an_image_is_built_from_no_more_than_it_needs() -> None:
    lines = (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines()
    given = {line.removeprefix("!") for line in lines if line.startswith("!")}
    needed = {"LICENSE", "README.md", "constraints.txt", "pyproject.toml"}
    assert given == needed | {f"{folder}/{package}" for package, folder in PACKAGES.items()}
    assert "*" in lines

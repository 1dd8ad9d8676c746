"""Lists the packages a server is made of, with their licences: THIRD_PARTY_NOTICES.md.

python -m bosal_server.notices > THIRD_PARTY_NOTICES.md
"""

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution, requires

_ROOT = "bosal"
_EXTRA = "server"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HEAD = """# Third-party notices

What `pip install 'bosal[server]'` installs on Linux beside this project, as its metadata says.
Made by `make notices`; each package carries its own licence text.

| package | licence | home |
|---|---|---|
"""


def packages() -> dict[str, Distribution]:
    """Return every distribution the server needs, by name, found through what they require."""
    found: dict[str, Distribution] = {}
    left = [_ROOT]
    while left:
        name = left.pop()
        for line in requires(name) or ():
            wanted, _, marker = line.partition(";")
            if "extra ==" in marker and not (name == _ROOT and f"'{_EXTRA}'" in _quoted(marker)):
                continue
            match = _NAME.match(wanted)
            assert match is not None
            key = match[0].lower().replace("_", "-")
            if key in found or key == _ROOT:
                continue
            try:
                found[key] = distribution(key)
            except PackageNotFoundError:
                continue  # For another platform.
            left.append(key)
    return dict(sorted(found.items()))


def licence(one: Distribution) -> str:
    """Return what a package says of its licence, in a few words."""
    stated = _field(one, "License-Expression")
    if not stated:
        classified = [
            value.split(" :: ")[-1]
            for value in one.metadata.get_all("Classifier") or ()
            if value.startswith("License ::")
        ]
        stated = ", ".join(classified) or _field(one, "License") or "see its text"
    return stated.strip().splitlines()[0][:80]


def home(one: Distribution) -> str:
    urls = [value.partition(", ")[2] for value in one.metadata.get_all("Project-URL") or ()]
    return _field(one, "Home-page") or next(iter(urls), "")


def document() -> str:
    rows = [f"| {name} | {licence(one)} | {home(one)} |" for name, one in packages().items()]
    return _HEAD + "\n".join(rows) + "\n"


def _field(one: Distribution, name: str) -> str:
    return next(iter(one.metadata.get_all(name) or ()), "")


def _quoted(marker: str) -> str:
    return marker.replace('"', "'")


if __name__ == "__main__":
    sys.stdout.write(document())

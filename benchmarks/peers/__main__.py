"""``python -m benchmarks.peers [NAME ...]``: make the environments of the named peers, by default of all."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys

from benchmarks.peers import PEERS, VARIABLE, python_of


def make(name: str) -> bool:
    """Make the environment of a peer anew; whether that worked. One that is not whole is removed."""
    folder, whole = python_of(name).parents[1], False
    shutil.rmtree(folder, ignore_errors=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python_of(name), "-m", "pip", "install", "--quiet", *PEERS[name].requirements], check=True)
        whole = True
        print(f"{name}: {PEERS[name].title} is in {folder}", flush=True)
    except subprocess.CalledProcessError as error:
        print(f"{name}: {error}", file=sys.stderr)
    finally:
        if not whole:
            shutil.rmtree(folder, ignore_errors=True)
    return whole


def main() -> None:
    text = f"Make the environments of peers, in .peers or where {VARIABLE} points. They take some gigabytes."
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=text)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(PEERS)}; default: all")
    names = parser.parse_args().names or list(PEERS)
    if unknown := [n for n in names if n not in PEERS]:
        parser.error(f"unknown peer {', '.join(unknown)}; there are {', '.join(PEERS)}")
    failed = [name for name in names if not make(name)]
    if failed:
        sys.exit(f"Not installed: {', '.join(failed)}.")


if __name__ == "__main__":
    main()

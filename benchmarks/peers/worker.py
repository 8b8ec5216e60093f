"""The process of a peer: answers requests, one line of JSON each, until its input ends.

============  ===========================================  ==========================================
request       fields                                       answer
============  ===========================================  ==========================================
``build``     module, work, precision, arrays, build       ``calls``: names of what can be called
``call``      build, what                                  ``arrays``: path of an .npz with the results
``time``      build, what, calls                           ``seconds`` of each call
============  ===========================================  ==========================================

An error is answered with its traceback in ``error``. Libraries print what they like: stdout is kept for the answers,
and what is printed goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

Calls = dict[str, Callable[[], Any]]


def build(request: dict[str, Any]) -> Calls:
    """Read the arrays of a problem and hand them to the peer's module."""
    with np.load(request["arrays"]) as file:
        problem = dict(file)
    return getattr(import_module(request["module"]), request["work"])(problem, request["precision"])


def call(function: Callable[[], Any], request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The results of one call."""
    path = folder / f"{request['build']}-{request['what']}-results.npz"
    np.savez(path, *[np.asarray(array) for array in function()])
    return {"arrays": str(path)}


def timed(function: Callable[[], Any], calls: int) -> dict[str, Any]:
    """The seconds of each of some calls."""
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds}


def answer(request: dict[str, Any], builds: dict[int, tuple[Calls, Path]]) -> dict[str, Any]:
    """What one request asks for."""
    number = request["build"]
    if request["request"] == "build":
        builds[number] = build(request), Path(request["arrays"]).parent
        return {"calls": list(builds[number][0])}
    calls, folder = builds[number]
    function = calls[request["what"]]
    if request["request"] == "call":
        return call(function, request, folder)
    return timed(function, request["calls"])


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    builds: dict[int, tuple[Calls, Path]] = {}
    for line in sys.stdin:
        try:
            found = answer(json.loads(line), builds)
        except Exception:  # noqa: BLE001 - the parent raises it
            found = {"error": traceback.format_exc()}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()

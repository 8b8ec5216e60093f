"""Peers of the benchmarks: their processes, what is said of those that fail, die or are missing."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from benchmarks import _timing, peers
from benchmarks.peers import Peer, PeerError, Remote

FAKE = Peer("Fake", (), dict.fromkeys(("w2", "doubled", "failing"), ("complex128",)), 6, "tests.fake_peer")


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """The only peer, installed: an environment whose interpreter is this one."""
    monkeypatch.setattr(peers, "PEERS", {"fake": FAKE, "absent": Peer("Absent", (), {"w2": ("complex64",)})})
    monkeypatch.setenv(peers.VARIABLE, str(tmp_path))
    python = peers.python_of("fake")
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return python


def test_results_and_times_come_back(fake):
    with peers.started("doubled") as remotes:
        assert list(remotes) == ["Fake, complex128"]
        remote = remotes["Fake, complex128"]
        first, second = remote.build({"x": np.array([1.5])})["call"], remote.build({"x": np.eye(2)})["call"]
        np.testing.assert_array_equal(first()[0], [3.0])
        np.testing.assert_array_equal(second()[0], 2 * np.eye(2))
        np.testing.assert_array_equal(first()[0], [3.0])
        times = first.seconds(3)
    assert len(times) == 3
    assert all(0 < t < 1 for t in times)


def test_peers_take_turns_with_local_cases(fake):
    effort = _timing.Effort(rounds=2, seconds=0.0, warm_up=1)
    with Remote("fake", "doubled", "complex128") as remote:
        medians = _timing.interleaved({"there": remote.build({"x": 1.0})["call"], "here": lambda: None}, effort)
    assert list(medians) == ["there", "here"]
    assert all(t > 0 for t in medians.values())


def test_an_error_comes_with_its_traceback_and_the_process_lives(fake):
    with Remote("fake", "failing", "complex128") as remote:
        call = remote.build({})["call"]
        for ask in (call, lambda: call.seconds(2)):
            with pytest.raises(PeerError, match=r"(?s)Fake failed.*fake_peer.py.*cannot divide"):
                ask()


def test_a_module_that_cannot_be_imported_is_an_error(fake, monkeypatch):
    monkeypatch.setitem(peers.PEERS, "fake", Peer("Fake", (), {}, module="tests.no_such_peer"))
    with Remote("fake", "w2", "complex128") as remote, pytest.raises(PeerError, match="no_such_peer"):
        remote.build({})


def test_a_process_that_dies_says_its_last_words(fake):
    with Remote("fake", "failing", "complex128") as remote:
        calls = remote.build({})
        with pytest.raises(PeerError, match=r"(?s)Fake ended with exit status 3.*last words"):
            calls["die"]()
        with pytest.raises(PeerError, match="exit status 3"):
            calls["call"]()


def test_processes_end_with_the_context(fake):
    context = peers.started("doubled")
    process = context.__enter__()["Fake, complex128"]._process
    assert process.poll() is None
    assert not context.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)  # goes on
    assert process.returncode is not None


def test_missing_interpreters_are_named(fake):
    assert "Missing: Absent (" in peers.absences("w2")[0]
    assert not peers.absences("doubled")
    fake.unlink()
    assert "Missing: Fake; Absent (" in peers.absences("w2")[0]
    with peers.started("w2") as remotes:
        assert remotes == {}


def test_w2_measures_a_peer(fake, monkeypatch):
    from benchmarks import w2_large_states as w2

    monkeypatch.setattr(w2, "QUICK_SIZES", ((3, 2), (7, 1)))
    report = w2.run(quick=True)
    row = next(r for r in report.rows if r[0] == "Fake, complex128")
    assert row[1] == "double"
    assert "x)" in row[2]
    assert row[3] == ""  # more qubits than it can take
    assert report.check[0]["differences"]["Fake, complex128"]["gradient difference"] <= 1e-9
    assert "Missing: Absent" in report.markdown()


def test_a_peer_that_is_wrong_is_not_timed(fake, monkeypatch):
    from benchmarks import w2_large_states as w2

    right = peers.RemoteCall.__call__
    monkeypatch.setattr(peers.RemoteCall, "__call__", lambda call: [1.001 * a for a in right(call)])
    monkeypatch.setattr(w2, "QUICK_SIZES", ((3, 1),))
    monkeypatch.setattr(w2, "interleaved", lambda *_: pytest.fail("timed"))
    with pytest.raises(_timing.ResultsDifferError, match="gradient of Fake, complex128"):
        w2.run(quick=True)


def test_unknown_peers_cannot_be_made():
    command = [sys.executable, "-m", "benchmarks.peers", "nobody"]
    done = subprocess.run(command, cwd=peers.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown peer nobody; there are catalyst" in done.stderr

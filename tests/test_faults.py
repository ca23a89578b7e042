"""Nothing is lost: kill -9 at random and at every call, a full disk, a failing disk, two starts at once."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imagemill.dataset import Dataset
from imagemill.dataset.verify import verify

from .conftest import Command, contents

ROOT = Path(__file__).parents[1]


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "imagemill", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*arguments: object) -> int:
    """Run to the end and return the exit code."""
    process = start(*arguments)
    process.communicate()
    return process.returncode


@pytest.mark.parametrize(("fault", "least"), [("kill", 40), ("ENOSPC", 15), ("EIO", 15)])
def test_a_run_stopped_at_any_call_continues_to_the_same_bytes(tmp_path: Path, fault: str, least: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.sweep", fault, tmp_path],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= least


def kill_at_random(tmp_path: Path, kills: int) -> None:
    rng = random.Random(kills)
    table = tmp_path / "prompts.txt"
    table.write_text("".join(f"picture {number}\n" for number in range(1100)))
    common = ["generate", table, "--model", "fake", "--seed", 3, "--batch-size", 4, "--quiet"]
    assert finish(*common, "-o", tmp_path / "reference", "--latency", 0.012) == 0
    seen: set[str] = set()
    done = 0
    folder = tmp_path / "killed-0"
    for number in range(kills):
        process = start(*common, "-o", folder, "--latency", 0.012, "--workers", 1 + number % 2)
        time.sleep(rng.uniform(0.35, 0.9))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (folder / "job.toml").exists():
            records = {record["file_name"] for record in Dataset(folder)}
            assert seen <= records, "a committed image was lost"
            seen = records
        if process.returncode == 0 or len(seen) == 1100:
            # It had finished before the kill: compare, and begin another.
            done += 1
            assert contents(folder) == contents(tmp_path / "reference")
            shutil.rmtree(folder)
            folder, seen = tmp_path / f"killed-{done}", set()
    assert finish(*common, "-o", folder, "--latency", 0.012) == 0
    assert contents(folder) == contents(tmp_path / "reference")
    assert verify(Dataset(folder), reader=False) == []


def test_a_run_killed_20_times_at_random_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    kill_at_random(tmp_path, 20)


@pytest.mark.slow
def test_a_run_killed_200_times_at_random_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    kill_at_random(tmp_path, 200)


def test_of_two_starts_at_once_one_wins_and_the_other_exits_with_5(tmp_path: Path, prompts: Path) -> None:
    for attempt in range(2):
        folder = tmp_path / f"out-{attempt}"
        processes = [
            start("generate", prompts, "-o", folder, "--model", "fake", "--seed", 1, "--latency", 2) for _ in range(4)
        ]
        errors = [process.communicate()[1] for process in processes]
        assert sorted(process.returncode for process in processes) == [0, 5, 5, 5], errors
        losing = next(error for process, error in zip(processes, errors, strict=True) if process.returncode == 5)
        assert "is being written by process" in losing
        assert verify(Dataset(folder), reader=False) == []


def test_a_full_disk_exits_with_6_and_goes_on_when_there_is_space(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True, check=False)
    if mount.returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    try:
        table = tmp_path / "prompts.txt"
        table.write_text("".join(f"picture {number}\n" for number in range(200)))
        common = ["generate", table, "-o", disk / "out", "--model", "fake", "--seed", 3, "--quiet"]
        process = start(*common)
        error = process.communicate()[1]
        assert process.returncode == 6
        assert "no space left" in error
        assert "hint: free some space" in error
        assert "Traceback" not in error
        before = len(Dataset(disk / "out"))
        assert 0 < before < 200
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert finish(*common) == 0
        assert verify(Dataset(disk / "out"), reader=False) == []
        assert len(Dataset(disk / "out")) == 200
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_says_how_to_continue_and_exits_with_130(
    tmp_path: Path, imagemill: Command, signum: signal.Signals
) -> None:
    if signal.getsignal(signum) is signal.SIG_IGN:
        pytest.skip(f"{signum.name} is ignored where the tests run, as under nohup, and so by what they start")
    table = tmp_path / "prompts.txt"
    table.write_text("".join(f"picture {number}\n" for number in range(400)))
    arguments = ["generate", table, "-o", tmp_path / "out", "--model", "fake", "--latency", "0.05", "--seed", "1"]
    process = start(*arguments)
    while not (tmp_path / "out" / "images" / "part-000001" / "metadata.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signum)
    began = time.monotonic()
    error = process.communicate(timeout=10)[1]
    assert time.monotonic() - began < 5
    assert process.returncode == 130
    assert "Continue: imagemill generate" in error
    assert "Traceback" not in error
    assert imagemill("verify", tmp_path / "out", "--no-reader").code == 0
    again = imagemill(*arguments, "--json")
    assert again.code == 0
    assert again.json["done"] == 400


def test_workers_stop_when_their_parent_is_killed(tmp_path: Path) -> None:
    table = tmp_path / "prompts.txt"
    table.write_text("".join(f"picture {number}\n" for number in range(4000)))
    process = start(
        "generate", table, "-o", tmp_path / "out", "--model", "fake", "--latency", 0.05, "--workers", 2, "--seed", 1
    )
    while not list((tmp_path / "out").glob("images/*/*.png")):
        assert process.poll() is None
        time.sleep(0.02)
    lock = json.loads((tmp_path / "out" / ".imagemill" / "lock").read_text())
    os.kill(lock["pid"], signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # Dead, and still in the table of processes.
    assert Dataset(tmp_path / "out").writer == ""
    process.communicate()
    time.sleep(0.5)
    files = len(list((tmp_path / "out").glob("images/*/*.png")))
    time.sleep(0.5)
    assert len(list((tmp_path / "out").glob("images/*/*.png"))) == files


def test_a_worker_that_dies_ends_the_run_and_the_next_one_continues(tmp_path: Path) -> None:
    table = tmp_path / "prompts.txt"
    table.write_text("".join(f"picture {number}\n" for number in range(100)))
    common = ["generate", table, "-o", tmp_path / "out", "--model", "fake", "--seed", 1]
    process = start(*common, "--latency", 0.5, "--workers", 2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        process.communicate()
        pytest.skip("needs /proc to find the workers")
    while not list((tmp_path / "out").glob("images/*/*.png")):
        assert process.poll() is None
        time.sleep(0.02)
    workers = [
        int(pid) for pid in children.read_text().split() if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    os.kill(workers[0], signal.SIGKILL)
    error = process.communicate()[1]
    assert process.returncode == 1
    assert "a worker process ended with code -9" in error
    assert finish(*common, "--latency", 0.5, "--quiet") == 0
    assert verify(Dataset(tmp_path / "out"), reader=False) == []


def test_a_worker_killed_in_mid_message_ends_the_run(tmp_path: Path) -> None:
    table = tmp_path / "prompts.txt"
    table.write_text("".join(f"{number} {'word ' * 20000}\n" for number in range(60)))
    process = start("generate", table, "-o", tmp_path / "out", "--model", "fake", "--workers", 2, "--seed", 1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not list((tmp_path / "out").glob("images/*/*.png")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGSTOP)
    time.sleep(1)  # the pipes fill
    if not children.exists():
        process.kill()
        process.communicate()
        pytest.skip("needs /proc to find the workers")
    for pid in children.read_text().split():
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(int(pid), signal.SIGKILL)
    process.send_signal(signal.SIGCONT)
    error = process.communicate(timeout=20)[1]
    assert process.returncode == 1
    assert "a worker process ended with code -9" in error


@pytest.mark.parametrize("after", [0.01, 0.06])
@pytest.mark.parametrize("to", [os.kill, os.killpg])
def test_an_interrupt_while_workers_are_started_leaves_no_traceback(
    tmp_path: Path, prompts: Path, after: float, to: Callable[[int, int], None]
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "imagemill", "generate", prompts, "-o", "out", "--model", "fake", "--workers", "12"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (tmp_path / "out" / "README.md").exists():
        assert process.poll() is None
        time.sleep(0.002)
    time.sleep(after)
    to(process.pid, signal.SIGINT)
    error = process.communicate(timeout=20)[1]
    assert process.returncode == 130
    assert "Traceback" not in error


def test_a_signal_that_was_ignored_at_the_start_stays_ignored(tmp_path: Path, prompts: Path) -> None:
    slow = ("-o", "out", "--model", "fake", "--latency", "0.2", "--batch-size", "1", "--quiet")
    process = subprocess.Popen(
        [
            "/bin/sh",
            "-c",
            'trap "" HUP; exec "$@"',
            "sh",
            sys.executable,
            "-m",
            "imagemill",
            "generate",
            prompts,
            *slow,
        ],
        stdout=subprocess.DEVNULL,
    )
    while not (tmp_path / "out" / "README.md").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=20) == 0


@pytest.mark.parametrize("place", range(1, 12))
def test_a_folder_that_cannot_be_synced_is_an_error_with_a_hint(
    imagemill: Command, prompts: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    fsync, seen = os.fsync, 0

    def failing(descriptor: int) -> None:
        nonlocal seen
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            seen += 1
            if seen == place:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    ran = imagemill("generate", prompts, "-o", "out", "--model", "fake", "--seed", 1)
    assert ran.code == 1
    assert "hint: check the disk" in ran.err


def test_a_disk_with_no_room_for_the_lock_exits_with_6(
    imagemill: Command, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    assert imagemill("generate", prompts, "-o", "out", "--model", "fake").code == 6

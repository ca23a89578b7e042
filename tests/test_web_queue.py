"""The queue: jobs run in their order, each in a process of its own, and nothing is lost when the server is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from imagemill.dataset import Dataset
from imagemill.dataset.verify import verify
from imagemill.errors import LockedError, UsageError
from imagemill.server.web.queue.jobs import Progress
from tests.web_server import Served, ended, until

pytest.importorskip("apsw", reason="the queue needs apsw: pip install '.[serve]'")

ROWS = 24


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.csv"
    path.write_text("prompt\n" + "".join(f"picture {number}\n" for number in range(ROWS)))
    return path


def generate(queue: Any, table: Path, output: Path, *flags: str, device: str = "cpu") -> int:
    arguments = ["generate", str(table), f"--output={output}", "--model=fake", *flags]
    job: int = queue.add("generate", output.name, arguments, output=output, device=device)
    return job


def starts(queue: Any, job: int) -> int:
    return int(queue.log_of(job).read_text().count("] started\n"))


def post(web: Served, job: int, action: str, body: Any = None, status: int = 200) -> Any:
    answer = web.client.post(f"/api/jobs/{job}/{action}", json=body or {})
    assert answer.status_code == status, answer.text
    return answer.json()


def test_a_job_runs_to_its_end_and_tells_how_far_it_is(web: Served, table: Path) -> None:
    job = generate(web.state.queue, table, web.folder / "made", "--latency=0.2", "--fail-text=picture 7")
    shown = until(lambda: found if (found := web.state.queue.get(job).progress).newest else None)
    # No image is shown before it is counted.
    assert len(shown.newest) <= shown.done
    now = web.client.get(f"/api/jobs/{job}").json()
    assert (now["state"], now["total"], now["there"]) == ("running", ROWS, True)
    assert now["rate"] > 0
    done = ended(web.state.queue, job)
    assert (done.state, done.exit_code, done.progress.done, done.progress.failed) == ("done", 3, 23, {"model_error": 1})
    assert done.progress.newest[0] == "23-0"
    assert verify(Dataset(web.folder / "made")) == []
    assert "23 of 24" in web.client.get("/executions").text
    log = web.client.get(f"/api/jobs/{job}/log").json()
    assert "1 request failed" in log["text"]
    assert web.client.get(f"/api/jobs/{job}/log", params={"start": log["end"]}).json()["text"] == ""
    assert "some failed" in web.client.get(f"/executions/{job}").text


def test_a_paused_job_goes_on_where_it_stopped(web: Served, table: Path) -> None:
    queue = web.state.queue
    job = generate(queue, table, web.folder / "made", "--latency=1")
    until(lambda: queue.get(job).progress.done >= 8)
    assert post(web, job, "pause")["wanted"] == "paused"
    paused = until(lambda: found if (found := queue.get(job)).state == "paused" else None)
    assert 8 <= paused.progress.done < ROWS
    assert len(list((web.folder / "made").rglob("*.png"))) == paused.progress.done
    post(web, job, "resume")
    done = ended(queue, job)
    assert (done.state, done.progress.done, done.progress.total) == ("done", ROWS, ROWS)
    assert starts(queue, job) == 2


def test_a_job_that_waits_is_paused_moved_cancelled_and_removed(web: Served, table: Path) -> None:
    queue = web.state.queue
    first = generate(queue, table, web.folder / "first", "--latency=9")
    until(lambda: queue.get(first).state == "running")
    a, b, c = (generate(queue, table, web.folder / name) for name in "abc")
    post(web, c, "move", {"before": a})
    post(web, a, "move", {"after": b})
    assert [each["id"] for each in web.client.get("/api/jobs").json()["jobs"]] == [first, c, b, a]
    post(web, c, "move", {"before": first}, status=400)
    post(web, c, "move", {}, status=422)
    assert post(web, b, "pause")["state"] == "paused"
    assert post(web, c, "cancel")["state"] == "cancelled"
    post(web, c, "remove")
    post(web, c, "remove", status=404)
    post(web, first, "remove", status=400)
    post(web, first, "cancel")
    assert ended(queue, first).state == "cancelled"
    assert ended(queue, a).state == "done"
    assert queue.get(b).state == "paused"
    assert not (web.folder / "c").exists()
    assert not (web.folder / "b").exists()


def test_what_failed_is_made_again(web: Served, table: Path) -> None:
    queue = web.state.queue
    job = generate(queue, table, web.folder / "made", "--fail-text=picture 1", "--fail-attempts=1")
    assert ended(queue, job).progress.failed == {"model_error": 11}
    again = post(web, job, "retry")
    assert again["id"] != job
    first = web.client.get(f"/api/jobs/{job}").json()
    assert (first["chip"], first["color"], first["again"]) == ("done, 11 failed", "warn", False)
    assert ended(queue, again["id"]).progress.done == 11
    assert len(list((web.folder / "made").rglob("*.png"))) == ROWS
    # The first one says what is true now, and offers no retry of nothing.
    first = web.client.get(f"/api/jobs/{job}").json()
    assert (first["chip"], first["done"], first["failed"], first["again"]) == ("done", ROWS, {}, False)
    assert "11 of them failed at first, and were made since" in first["line"]
    for each in (job, again["id"]):
        post(web, each, "retry", status=400)


def test_where_all_failed_at_first_a_retry_that_makes_them_is_told(web: Served, table: Path) -> None:
    queue = web.state.queue
    job = generate(queue, table, web.folder / "made", "--fail-text=picture", "--fail-attempts=1")
    assert ended(queue, job).state == "failed"
    again = post(web, job, "retry")["id"]
    ended(queue, again)
    first = until(lambda: found if (found := queue.get(job)).state == "done" else None)
    assert (first.progress.done, first.progress.mended, first.message, first.again) == (ROWS, ROWS, "", False)


def test_what_failed_before_a_job_was_cancelled_is_not_taken_for_made(web: Served, table: Path) -> None:
    queue = web.state.queue
    job = generate(queue, table, web.folder / "made", "--latency=1", "--fail-text=picture 1")
    until(lambda: queue.get(job).progress.failed)
    post(web, job, "cancel")
    failed = ended(queue, job).progress.failed
    assert failed
    assert post(web, job, "retry")["id"] == job
    done = ended(queue, job)
    assert (done.state, done.progress.done, done.progress.failed) == ("done", 13, {"model_error": 11})
    assert done.again


def test_time_left_is_only_told_while_images_come() -> None:
    told = {"total": 12, "done": 6, "failed": {}, "seconds": 0.05, "times": 2, "at": 1000.0}
    usual = Progress().continued(told, False, 1001.0)
    assert (usual.rate, usual.seconds_left, usual.silent) == (120.0, 0.05, 0)
    silent = Progress().continued(told, False, 1060.0)
    assert (round(silent.rate, 2), silent.seconds_left, silent.silent) == (0.1, None, 60)
    slow = Progress().continued(told | {"seconds": 60.0}, False, 1060.0)
    assert (slow.rate, slow.seconds_left) == (0.1, 60.0)
    assert Progress().continued(told | {"done": 0}, False, 1060.0).rate == 0


def test_a_job_that_cannot_run_says_why_and_is_tried_again(web: Served, tmp_path: Path) -> None:
    queue = web.state.queue
    table = tmp_path / "later.csv"
    job = generate(queue, table, web.folder / "made")
    failed = ended(queue, job)
    assert (failed.state, failed.exit_code) == ("failed", 2)
    assert "later.csv" in failed.message
    assert failed.hint
    table.write_text("prompt\na picture\n")
    assert post(web, job, "retry")["id"] == job
    assert ended(queue, job).progress.done == 1


def test_a_killed_process_is_not_taken_for_one_that_has_finished(web: Served, table: Path) -> None:
    queue = web.state.queue
    job = generate(queue, table, web.folder / "made", "--latency=0.5")
    until(lambda: queue.get(job).progress.done)
    os.kill(pid_of(web.folder, job), signal.SIGKILL)
    failed = ended(queue, job)
    assert (failed.state, failed.exit_code) == ("failed", None)
    assert "killed" in failed.message
    post(web, job, "retry")
    assert ended(queue, job).progress.done == ROWS


def test_devices_work_at_once_and_datasets_have_one_writer(web: Served, table: Path) -> None:
    queue = web.state.queue
    here = generate(queue, table, web.folder / "here", "--latency=1")
    same = generate(queue, table, web.folder / "same")
    reads = queue.add(
        "score", "here", ["status", str(web.folder / "here")], source=web.workspace.id_of(web.folder / "here"),
        device="cuda:1",
    )  # fmt: skip
    there = generate(queue, table, web.folder / "there", "--latency=1", device="cuda:0")
    until(lambda: queue.get(here).progress.done and queue.get(there).progress.done)
    assert queue.get(here).state == queue.get(there).state == "running"
    assert queue.get(same).state == queue.get(reads).state == "queued"
    assert queue.writer_of(web.workspace.id_of(web.folder / "here")).id == here
    assert [job.id for job in queue.users_of(web.workspace.id_of(web.folder / "here"))] == [here, reads]
    assert ended(queue, reads).started >= queue.get(here).ended
    assert {ended(queue, job).state for job in (same, there)} == {"done"}


def test_a_second_server_on_a_folder_is_refused(web: Served) -> None:
    with pytest.raises(LockedError, match=f"already served by process {os.getpid()}"):
        looked_at(web.folder).start()


def test_a_token_of_the_server_is_not_given_to_jobs(web: Served, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEMILL_TOKEN", "secret")
    job = generate(web.state.queue, table, web.folder / "made", "--latency=1")
    until(lambda: web.state.queue.get(job).progress.total)
    environment = Path(f"/proc/{pid_of(web.folder, job)}/environ")
    if environment.exists():
        assert b"secret" not in environment.read_bytes()
        assert int(Path(f"/proc/{pid_of(web.folder, job)}/stat").read_text().split()[18]) == 10
    web.state.queue.cancel(job)
    ended(web.state.queue, job)


SERVER = """
import sys, time
from imagemill.server.web.events import Events
from imagemill.server.web.queue import Queue
from imagemill.server.web.workspace import Workspace
queue = Queue(Workspace(sys.argv[1]), Events())
queue.start()
print("ready", flush=True)
time.sleep(1000)
"""


@contextmanager
def server(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that runs the queue of a folder until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def looked_at(folder: Path) -> Any:
    """The queue as its table has it, without running anything."""
    from imagemill.server.web.events import Events
    from imagemill.server.web.queue import Queue
    from imagemill.server.web.workspace import Workspace

    return Queue(Workspace(folder), Events())


def pid_of(folder: Path, job: int) -> int:
    progress = sorted((folder / ".imagemill-server" / "jobs" / str(job)).glob("progress-*.json"))[-1]
    return int(json.loads(progress.read_text())["pid"])


def test_a_job_outlives_its_server_and_the_next_one_takes_it_up(tmp_path: Path, table: Path) -> None:
    folder = tmp_path / "served"
    queue = looked_at(folder)
    job = generate(queue, table, folder / "made", "--latency=0.4")
    with server(folder):
        until(lambda: list((folder / "made").rglob("*.png")))
    # Killed without a word; its job goes on, and the next server watches the same process.
    pid = pid_of(folder, job)
    os.kill(pid, 0)
    assert queue.get(job).state == "running"
    with server(folder):
        done = ended(queue, job)
    assert (done.state, done.exit_code, done.runs, starts(queue, job)) == ("done", 0, 1, 1)
    assert Dataset(folder / "made").counts().done == ROWS
    assert verify(Dataset(folder / "made")) == []


def test_a_job_that_ended_while_no_server_ran_is_not_run_again(tmp_path: Path, table: Path) -> None:
    folder = tmp_path / "served"
    queue = looked_at(folder)
    job = generate(queue, table, folder / "made", "--latency=0.1", "--fail-text=picture 7")
    with server(folder):
        until(lambda: list((folder / "made").rglob("*.png")))
    until(lambda: "exit_code" in json.loads(progress_file(folder, job).read_text()))
    with server(folder):
        done = ended(queue, job)
    assert (done.state, done.exit_code, done.runs, starts(queue, job)) == ("done", 3, 1, 1)


def progress_file(folder: Path, job: int) -> Path:
    return folder / ".imagemill-server" / "jobs" / str(job) / "progress-1.json"


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM])
def test_what_ended_with_the_machine_or_the_service_goes_on(tmp_path: Path, table: Path, stop: signal.Signals) -> None:
    folder = tmp_path / "served"
    queue = looked_at(folder)
    job = generate(queue, table, folder / "made", "--latency=0.2")
    with server(folder) as running:
        until(lambda: len(list((folder / "made").rglob("*.png"))) >= 8)
        running.kill()
        os.kill(pid_of(folder, job), stop)
    if stop == signal.SIGTERM:
        until(lambda: "exit_code" in json.loads(progress_file(folder, job).read_text()))
    with server(folder):
        done = ended(queue, job)
    assert (done.state, done.runs, starts(queue, job)) == ("done", 2, 2)
    assert (done.progress.done, done.progress.total) == (ROWS, ROWS)
    assert Dataset(folder / "made").counts().done == ROWS
    assert verify(Dataset(folder / "made")) == []


def test_a_table_that_is_damaged_is_told_and_a_new_one_begins_anew(tmp_path: Path, table: Path) -> None:
    folder = tmp_path / "served"
    job = generate(looked_at(folder), table, folder / "made")
    files = folder / ".imagemill-server" / "jobs" / str(job)
    files.mkdir(parents=True)
    (files / "log").write_text("of the first job with this number\n")
    for path in files.parents[1].glob("queue.db*"):
        path.unlink()
    (files.parents[1] / "queue.db").write_bytes(b"anything else" * 1_000)
    with pytest.raises(UsageError, match="is damaged, or no queue"):
        looked_at(folder)
    (files.parents[1] / "queue.db").unlink()
    queue = looked_at(folder)
    assert generate(queue, table, folder / "made") == job
    assert not queue.log_of(job).exists()


def test_a_wish_to_pause_outlives_the_server(tmp_path: Path, table: Path) -> None:
    folder = tmp_path / "served"
    queue = looked_at(folder)
    job = generate(queue, table, folder / "made", "--latency=100")
    with server(folder):
        until(lambda: queue.get(job).state == "running")
    queue.pause(job)
    with server(folder):
        until(lambda: queue.get(job).state == "paused")
    assert not list((folder / "made").rglob("*.png"))


def test_twenty_restarts_lose_and_repeat_nothing(tmp_path: Path, table: Path) -> None:
    folder = tmp_path / "served"
    queue = looked_at(folder)
    jobs = [generate(queue, table, folder / f"made-{number}", "--latency=0.3") for number in range(2)]
    web_queue = None
    for _ in range(20):
        # In this process: what is killed above is a process, here it is only where the queue's thread is.
        web_queue = looked_at(folder)
        web_queue.start()
        until(lambda: any(queue.get(job).state == "running" or queue.get(job).over for job in jobs))
        time.sleep(0.05)
        web_queue.close()
    web_queue = looked_at(folder)
    web_queue.start()
    assert [ended(queue, job).state for job in jobs] == ["done", "done"]
    web_queue.close()
    assert [starts(queue, job) for job in jobs] == [1, 1]
    for number in range(2):
        dataset = Dataset(folder / f"made-{number}")
        assert dataset.counts().done == ROWS
        assert verify(dataset) == []

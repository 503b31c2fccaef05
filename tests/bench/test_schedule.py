"""The order of calls, and when one is put off."""

import pytest

from llmproxy.bench.schedule import Job, Queue, fair_order


def test_every_prompt_goes_to_all_targets_before_the_next() -> None:
    jobs = fair_order(50, [0, 1, 2], 2, seed=7)
    assert len({(job.prompt, job.target, job.repeat) for job in jobs}) == len(jobs) == 300
    assert [job.order for job in jobs] == list(range(300))
    for at in range(0, 300, 3):
        block = jobs[at : at + 3]
        assert len({job.prompt for job in block}) == 1 and {job.target for job in block} == {0, 1, 2}
    assert {jobs[at].target for at in range(0, 300, 3)} == {0, 1, 2}, "one target always goes first"
    assert jobs == fair_order(50, [0, 1, 2], 2, seed=7) != fair_order(50, [0, 1, 2], 2, seed=8)


def test_a_paused_target_lets_the_others_go_first() -> None:
    queue = Queue([Job(0, 0, 0, 0), Job(1, 0, 1, 0), Job(2, 1, 0, 0)])
    queue.pause(0, 100)
    first = queue.take()
    assert isinstance(first, Job) and first.target == 1
    wait = queue.take()
    assert isinstance(wait, float) and 99 < wait <= 100


def test_a_job_may_wait_by_itself() -> None:
    queue = Queue([Job(0, 0, 0, 0), Job(1, 1, 0, 0)])
    job = queue.take()
    assert isinstance(job, Job)
    queue.put_back(job, 100)
    assert queue.take() == Job(1, 1, 0, 0)
    wait = queue.take()
    assert isinstance(wait, float) and 99 < wait <= 100 and queue
    queue = Queue([])
    queue.put_back(job)
    assert queue.take() == job
    assert queue.take() is None and not queue


def test_calls_begin_no_faster_than_the_rate() -> None:
    queue = Queue([Job(0, 0, 0, 0), Job(1, 1, 0, 0)], seconds_between=50)
    assert isinstance(queue.take(), Job)
    wait = queue.take()
    assert wait == pytest.approx(50, abs=1)

"""The order in which an event loop gets to its work."""

import asyncio

import pytest

from llmproxy.transports.turns import STEPS_AT_ONCE, Turns


@pytest.mark.parametrize(("look_seconds", "together"), [(0, 4), (12, 4), (24, 6), (400, 11)])
def test_what_is_new_is_looked_for_every_few_steps(
    look_seconds: int, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    now = 0

    def take(what: str, seconds: int) -> None:
        nonlocal now
        done.append(what)
        now += seconds

    async def run() -> None:
        loop, turns = asyncio.get_running_loop(), Turns()

        def look() -> None:
            take("look", look_seconds)
            if done.count("step") < 11:
                loop.call_soon(look)

        def go_on() -> None:
            for _ in range(11):
                turns.add(lambda: take("step", 1))

        loop.call_soon(look)
        loop.call_soon(go_on)
        while done.count("step") < 11:
            await asyncio.sleep(0)

    monkeypatch.setattr("llmproxy.transports.turns.perf_counter", lambda: now)
    asyncio.run(run())
    assert STEPS_AT_ONCE == 4
    batches = [len(batch) for batch in "".join("L" if what == "look" else "s" for what in done).split("L") if batch]
    assert batches[0] == max(batches) == together and sum(batches) == 11


@pytest.mark.parametrize("before", range(STEPS_AT_ONCE + 1))
def test_a_step_that_fails_stops_no_other(before: int) -> None:
    done: list[int] = []
    told: list[object] = []

    def fail() -> None:
        raise ZeroDivisionError

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        turns = Turns()
        steps = [lambda i=i: done.append(i) for i in range(2 * STEPS_AT_ONCE)]
        for step in (*steps[:before], fail, *steps[before:]):
            turns.add(step)
        for _ in range(10):
            await asyncio.sleep(0)
        turns.add(lambda: done.append(-1))
        await asyncio.sleep(0)

    asyncio.run(run())
    assert done == [*range(2 * STEPS_AT_ONCE), -1] and [type(exc) for exc in told] == [ZeroDivisionError]

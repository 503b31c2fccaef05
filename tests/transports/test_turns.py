"""The order in which an event loop gets to its work."""

import asyncio

import pytest

from llmproxy.transports.turns import STEPS_AT_ONCE, Turns


def test_what_is_new_is_looked_for_every_few_steps() -> None:
    done: list[str] = []

    async def run() -> None:
        loop, turns = asyncio.get_running_loop(), Turns()

        def look() -> None:
            done.append("look")
            if done.count("step") < 3 * STEPS_AT_ONCE - 1:
                loop.call_soon(look)

        for _ in range(3 * STEPS_AT_ONCE - 1):
            turns.add(lambda: done.append("step"))
        loop.call_soon(look)
        while done.count("step") < 3 * STEPS_AT_ONCE - 1:
            await asyncio.sleep(0)

    asyncio.run(run())
    together = ["step"] * STEPS_AT_ONCE
    assert done[: 3 * STEPS_AT_ONCE + 1] == [*together, "look", *together, "look", *together[1:]]


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

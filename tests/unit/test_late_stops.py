"""Stops that the platform hears later."""

import asyncio

from hub.late_stops import LateStops


def test_a_stop_is_told_until_it_is_heard() -> None:
    async def scenario() -> int:
        told, heard, stops = 0, asyncio.Event(), LateStops(interval_s=0.001)

        async def tell() -> bool:
            nonlocal told
            told += 1
            if told == 3:
                heard.set()
            return told == 3

        stops.add(("ada", "lab"), tell)
        await asyncio.wait_for(heard.wait(), 10)
        await asyncio.sleep(0.05)  # time for a fourth, which must not come
        return told

    assert asyncio.run(scenario()) == 3


def test_a_start_withdraws_the_stop() -> None:
    async def scenario() -> bool:
        told, stops = False, LateStops(interval_s=0.001)

        async def tell() -> bool:
            nonlocal told
            told = True
            return True

        stops.add(("ada", "lab"), tell)
        stops.withdraw(("ada", "lab"))
        await asyncio.sleep(0.05)
        return told

    assert not asyncio.run(scenario())

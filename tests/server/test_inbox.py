"""What the engine's thread says wakes those who wait for it, all at once."""

import asyncio
import threading

from dsv4.server.reply import Bell, Inbox


def test_many_are_woken_by_one_call_into_the_loop():
    async def run():
        bell, calls = Bell(), []
        call = bell.loop.call_soon_threadsafe
        inboxes = [Inbox(bell) for _ in range(20)]
        waiting = [asyncio.ensure_future(inbox.wait(10)) for inbox in inboxes]
        await asyncio.sleep(0)
        bell.loop.call_soon_threadsafe = lambda *told: calls.append(told) or call(*told)

        def say():
            for inbox in [*inboxes, *inboxes]:
                inbox.wake()

        thread = threading.Thread(target=say)
        thread.start()
        thread.join()  # the loop is held up meanwhile
        assert await asyncio.gather(*waiting) == [True] * 20
        assert len(calls) == 1
        assert not await inboxes[0].wait(0.01)  # nothing came since

    asyncio.run(run())


def test_nothing_is_missed():
    async def run():
        inbox, told, seen = Inbox(), [], 0

        def say():
            for number in range(20_000):
                told.append(number)
                inbox.wake()

        thread = threading.Thread(target=say)
        thread.start()
        while seen < 20_000:
            assert await inbox.wait(10)
            seen = len(told)
        thread.join()

    asyncio.run(run())


def test_what_came_before_is_not_waited_for():
    async def run():
        inbox = Inbox()
        inbox.wake()
        await asyncio.sleep(0)
        assert await inbox.wait(0)
        assert not await inbox.wait(0)

    asyncio.run(run())

"""A line between clients and a server that is slow, stalls or is cut: a TCP proxy on loopback."""

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import AbstractContextManager, suppress
from typing import Any

PIECE = 64 * 1024


class Line(AbstractContextManager["Line"]):
    """Passes connections on to `target`, a port of loopback, in a thread of its own.

    What is sent while the line is cut is held and arrives when it is mended, as TCP sends a lost packet again. Nobody is
    told of the cut: neither end sees its connection closed.

    Attributes:
        port: what clients dial; 0 chooses one.
        target: the server's port.
        delay_s: how much later each piece arrives, each way.
    """

    def __init__(self, target: int, port: int = 0, delay_s: float = 0.0) -> None:
        self.port, self.target, self.delay_s = port, target, delay_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._whole = asyncio.Event()

    def __enter__(self) -> "Line":
        self._thread.start()
        self._do(self._listen())
        self.mend()
        return self

    def __exit__(self, *exception: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Let nothing pass."""
        self._do(self._set(False))

    def mend(self) -> None:
        """Let everything pass again."""
        self._do(self._set(True))

    def _do(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _set(self, passes: bool) -> None:
        self._whole.set() if passes else self._whole.clear()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        await self._whole.wait()
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:  # the server is down
            to_client.close()
            return
        with suppress(asyncio.CancelledError):  # the line is at its end
            await asyncio.gather(self._pass_on(client, to_server), self._pass_on(server, to_client))

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Each piece `delay_s` after it came; a line that is slow is not narrow."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def read() -> None:
            piece = b"-"
            while piece:
                try:
                    piece = await source.read(PIECE)
                except OSError:
                    piece = b""
                pieces.put_nowait((self._loop.time() + self.delay_s, piece))

        reader = asyncio.ensure_future(read())
        try:
            while True:
                due, piece = await pieces.get()
                await asyncio.sleep(due - self._loop.time())
                await self._whole.wait()
                if not piece:
                    break
                sink.write(piece)
                await sink.drain()
        except OSError:
            pass
        finally:
            reader.cancel()
            with suppress(RuntimeError):  # the loop is at its end
                sink.close()

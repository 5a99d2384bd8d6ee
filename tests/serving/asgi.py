"""Calls an application as a server does, message by message."""

import asyncio
import json


class Client:
    """Sends bodies in chunks, and may go away; counts chunks taken, and those before the answer."""

    def __init__(self, app):
        self.app = app
        self.taken = 0
        self.answered_after = 0

    def post(self, body, **options):
        """Returns status, headers and content of ``POST /recommend``."""
        return asyncio.run(self.posted(body, **options))

    async def posted(self, body, *, headers=(), goes=None):
        chunks = [body] if isinstance(body, bytes) else body
        if isinstance(body, dict):
            chunks = [json.dumps(body).encode()]
        return await self.call("POST", "/recommend", list(chunks), headers, goes)

    def get(self, path):
        return asyncio.run(self.call("GET", path, [b""], (), None))

    async def call(self, method, path, chunks, headers, goes):
        sent, gone = [], goes or asyncio.Event()

        async def receive():
            if chunks:
                self.taken += 1
                chunk = chunks.pop(0)
                return {"type": "http.request", "body": chunk, "more_body": bool(chunks)}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if message.get("body"):
                self.answered_after = self.taken
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers],
        }
        await self.app(scope, receive, send)
        start, *parts = sent
        told = {name.decode(): value.decode() for name, value in start["headers"]}
        content = b"".join(part.get("body", b"") for part in parts)
        if told["content-type"].startswith("application/json"):
            content = json.loads(content)
        return start["status"], told, content

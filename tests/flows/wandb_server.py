"""What `wandb sync` needs of a W&B server, on this machine: it keeps what it is sent."""

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Uploaded:
    """One run as the server has it."""

    group: str
    name: str
    project: str
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    exit_codes: list[int] = field(default_factory=list)
    overwritten: int = 0
    """Rows that were sent to the place of other rows."""


class Server(ThreadingHTTPServer):
    runs: dict[str, Uploaded]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, name: str, said: dict[str, Any]) -> dict[str, Any]:
        """The data of a GraphQL answer."""
        owner = {"id": "owner", "name": "me"}
        if name == "Viewer":
            return {"viewer": {"id": "1", "username": "me", "entity": "me", "flags": "{}", "teams": {"edges": []}}}
        if name == "RunResumeStatus":
            run = self.runs.get(said["name"])
            if run is None:
                return {"model": {"bucket": None}}
            tail = json.dumps([json.dumps(row) for row in run.history[-1:]])
            bucket = {
                "id": "bucket", "name": said["name"], "displayName": run.name,
                "summaryMetrics": json.dumps(run.summary), "config": json.dumps(run.config),
                "logLineCount": 0, "historyLineCount": len(run.history),
                "eventsLineCount": 0, "historyTail": tail, "eventsTail": "[]", "tags": [], "wandbConfig": "{}",
            }  # fmt: skip
            return {"model": {"id": "model", "name": said["project"], "entity": owner, "bucket": bucket}}
        if name == "UpsertBucket":
            new = Uploaded(said.get("groupName") or "", said.get("displayName") or "", said.get("project") or "")
            run = self.runs.setdefault(said["name"], new)
            run.config |= json.loads(said.get("config") or "{}")
            bucket = {
                "id": "bucket", "name": said["name"], "displayName": run.name, "description": "", "config": "{}",
                "sweepName": None, "historyLineCount": len(run.history),
                "project": {"id": "project", "name": run.project, "entity": owner},
            }  # fmt: skip
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if name == "CreateRunFiles":
            self.runs[said["run"]].files |= set(said["files"])
            files = [{"name": file, "uploadUrl": f"{self.url}/upload/{file}"} for file in said["files"]]
            return {"createRunFiles": {"runID": "bucket", "uploadHeaders": [], "files": files}}
        return {}

    def stream(self, run: Uploaded, said: dict[str, Any]) -> None:
        files = said.get("files") or {}
        history = files.get("wandb-history.jsonl", {"offset": 0, "content": []})
        for at, row in enumerate(history["content"], start=history["offset"]):
            run.overwritten += at < len(run.history)
            run.history[at : at + 1] = [json.loads(row)]
        if "wandb-summary.json" in files:
            run.summary = json.loads(files["wandb-summary.json"]["content"][-1])
        if said.get("complete"):
            run.exit_codes.append(said.get("exitcode", 0))


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *words: Any) -> None:
        """Quiet."""

    def _body(self) -> bytes:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content

    def _reply(self, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self._reply({})

    def do_PUT(self) -> None:
        self._body()
        self._reply({})

    def do_POST(self) -> None:
        said = json.loads(self._body())
        if self.path.endswith("/graphql"):
            found = re.search(r"(?:query|mutation)\s+(\w+)", said["query"])
            self._reply({"data": self.server.answer(found.group(1) if found else "", said.get("variables") or {})})
            return
        if self.path.endswith("/file_stream"):
            self.server.stream(self.server.runs[self.path.split("/")[-2]], said)
        self._reply({})


@contextmanager
def wandb_server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), _Handler)
    server.runs = {}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

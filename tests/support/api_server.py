"""A small server of OpenAI's completions and chats over transformers models, with real logits and faults to order.

Written against transformers alone, so that it shares no code with what is tested through it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


@dataclass
class Api:
    """The server's state.

    Attributes:
        models: name -> model and tokenizer.
        port: where it listens.
        failing: statuses that the next requests are answered with; None answers as usual.
        lost: hang up on every request after so many; None never.
        poison: a request whose prompt holds this text is answered with 500.
        echo: False writes on behind a prompt instead of scoring it, as servers do that ignore ``echo``.
        logprobs: form of the loglikelihoods: ``completions``, ``content`` as chats and llama.cpp have it, ``none``, or
            ``zeros``.
        extra: tokens that the server puts before every prompt.
        context: tokens that it takes, answer included; None for any number.
        key: access token that is asked for; "" for none.
        asked: path and body of every request.
        keys: access tokens that came.
    """

    models: dict[str, tuple[Any, Any]]
    port: int = 0
    failing: list[int | None] = field(default_factory=list)
    lost: int | None = None
    poison: str = ""
    echo: bool = True
    logprobs: str = "completions"
    extra: int = 0
    context: int | None = None
    key: str = ""
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/v1/{path}"

    def calm(self) -> None:
        """Forgets every fault and request."""
        self.failing, self.lost, self.poison, self.key, self.asked, self.keys = [], None, "", "", [], set()
        self.echo, self.logprobs, self.extra, self.context = True, "completions", 0, None

    def answer(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        if body["model"] not in self.models:
            raise Refusal(404, f"The model `{body['model']}` does not exist.")
        model, tokenizer = self.models[body["model"]]
        if path.endswith("chat/completions"):
            text = tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            written = _write(model, tokenizer, ids, body)
            return {"choices": [{"index": 0, "message": {"role": "assistant", "content": written}}]}
        rows = [p if isinstance(p, list) else tokenizer(p)["input_ids"] for p in _prompts(body)]
        rows = [[tokenizer.eos_token_id] * self.extra + ids for ids in rows]
        for ids in rows:
            if self.context is not None and len(ids) + body["max_tokens"] > self.context:
                raise Refusal(400, f"This model's maximum context length is {self.context} tokens.")
        complete = self._scored if body.get("echo") else lambda *a: {"text": _write(*a, body)}
        return {"choices": [{"index": i, **complete(model, tokenizer, ids)} for i, ids in enumerate(rows)]}

    def told(self, path: str, body: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and content of the reply."""
        try:
            return 200, self.answer(path, body)
        except Refusal as refusal:
            return refusal.status, {"error": {"message": str(refusal), "code": refusal.status}}

    def _scored(self, model: Any, tokenizer: Any, ids: list[int]) -> dict[str, Any]:
        found = _echo(model, tokenizer, ids)
        columns = found["logprobs"]
        if not self.echo:
            columns = {name: column[-1:] for name, column in columns.items()}
        if self.logprobs == "content":
            written = zip(columns["token_logprobs"][-1:], columns["top_logprobs"][-1:], strict=True)
            columns = {"content": [{"logprob": number, "top_logprobs": [top]} for number, top in written]}
        elif self.logprobs == "zeros":
            columns = {**columns, "token_logprobs": [0.0] * len(columns["token_logprobs"])}
        return {"text": "", "logprobs": None if self.logprobs == "none" else columns}

    def prompt_text(self, body: Mapping[str, Any]) -> str:
        """What a request asks, as text."""
        if "messages" in body:
            return str(body["messages"])
        tokenizer = self.models[body["model"]][1]
        return "\n".join(p if isinstance(p, str) else tokenizer.decode(p) for p in _prompts(body))


class Refusal(Exception):
    """A request that the server answers with a status and its own reason, worded as vLLM words it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def _prompts(body: Mapping[str, Any]) -> list[Any]:
    """One prompt or many, as text or as token ids."""
    given = body["prompt"]
    return given if isinstance(given, list) and not isinstance(given[0], int) else [given]


@torch.inference_mode()
def _write(model: Any, tokenizer: Any, ids: list[int], body: Mapping[str, Any]) -> str:
    tokens: list[int] = []
    for _ in range(body["max_tokens"]):
        token = int(model(torch.tensor([ids + tokens])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        tokens.append(token)
    text = str(tokenizer.decode(tokens, skip_special_tokens=True))
    for stop in body.get("stop") or []:
        text = text.partition(stop)[0]
    return text


@torch.inference_mode()
def _echo(model: Any, tokenizer: Any, ids: list[int]) -> dict[str, Any]:
    spread = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    targets = [*ids[1:], int(spread[-1].argmax())]
    chosen = [None, *(float(row[token]) for row, token in zip(spread, targets, strict=True))]
    best = [None, *({tokenizer.decode([int(row.argmax())]): float(row.max())} for row in spread)]
    return {"text": "", "logprobs": {"token_logprobs": chosen, "top_logprobs": best}}


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Silent: a client may hang up at any time."""


@contextmanager
def serving(models: Mapping[str, Path]) -> Iterator[Api]:
    """Serves models by name while the block runs."""
    loaded = {
        name: (AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path))
        for name, path in models.items()
    }
    api = Api(loaded)
    server = _Server(("127.0.0.1", 0), _handler(api))
    api.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(api: Api) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with api.lock:
                api.asked.append((self.path, body))
                api.keys.add(str(self.headers.get("Authorization", "")))
                if api.lost is not None and len(api.asked) > api.lost:
                    self.close_connection = True
                    return
                status, told = self._told(body)
            content = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _told(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
            if api.key and self.headers.get("Authorization") != f"Bearer {api.key}":
                return 401, {"error": "unknown key"}
            if api.failing and (status := api.failing.pop(0)) is not None:
                return status, {"error": "told to fail"}
            if api.poison and api.poison in api.prompt_text(body):
                return 500, {"error": "this prompt is too much"}
            return api.told(self.path, body)

        def log_message(self, *_: Any) -> None:
            """Silent."""

    return Handler

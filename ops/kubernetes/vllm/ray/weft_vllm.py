"""vLLM under Ray Serve as engines of a Weft gateway: one application per vLLM, each at a path of its own.

Ray finds the machine and its GPUs, starts vLLM there, watches it and starts it again; what comes under the application's path goes to that one vLLM
as it is, its answers as they come. One application is one replica: an adapter is loaded into one vLLM, and a second replica behind the same path
would not have it. More of them are more applications, and more rows of the gateway's pool (README.md).

    serve run weft_vllm:app model=/models/base served=smollm2-135m-instruct        one, for a try
    serve deploy serve.yaml                                                        as many as are listed there
"""

import asyncio
import os
import shlex
import signal
import socket
import subprocess
import time

import aiohttp
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, StreamingResponse

START_S = 900  # longest load of a model
STOP_S = 30
LOOK_S = 1.0
# Between two connections, and nobody else's (RFC 9110, 7.6.1); the length is the other side's to find.
HOP = {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade", "host", "content-length"}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def command_of(args, port):
    """args: model, served, key_file, max_loras, max_cpu_loras, max_lora_rank, extra (words for `vllm serve`), program."""
    words = shlex.split(args.get("program", "vllm serve")) + [
        args["model"], "--served-model-name", args["served"], "--host", "127.0.0.1", "--port", str(port), "--enable-lora",
        "--max-loras", str(args.get("max_loras", 8)), "--max-cpu-loras", str(args.get("max_cpu_loras", 64)),
        "--max-lora-rank", str(args.get("max_lora_rank", 64)), "--generation-config", "vllm", "--enable-prompt-tokens-details"]
    return words + shlex.split(args.get("extra", ""))


def environment_of(args):
    env = {**os.environ, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_NO_USAGE_STATS": "1"}
    if args.get("key_file"):
        with open(args["key_file"]) as f:
            env["VLLM_API_KEY"] = f.read().strip()
    return env


def plain(headers):
    return [(k, v) for k, v in headers if k.lower() not in HOP]


class Replica:
    """One vLLM and the way to it. Ray makes it, asks it whether it is well, and lets it go."""

    def __init__(self, args):
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.session = None
        self.process = subprocess.Popen(command_of(args, self.port), env=environment_of(args), start_new_session=True)
        self.begun, self.up = time.monotonic(), False

    async def client(self):
        if self.session is None:  # on the loop that serves
            self.session = aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None, connect=10),
                                                 connector=aiohttp.TCPConnector(limit=0))
        return self.session

    async def check_health(self):
        """Raises what has Ray start another one."""
        if self.process.poll() is not None:
            raise RuntimeError(f"vLLM ended with {self.process.returncode}")
        try:
            async with (await self.client()).get(self.base + "/health", timeout=aiohttp.ClientTimeout(total=10)) as r:
                well = r.status == 200
        except (aiohttp.ClientError, asyncio.TimeoutError) as e:
            well, why = False, e
        else:
            why = f"/health says {r.status}"
        if not well and (self.up or time.monotonic() - self.begun > START_S):
            raise RuntimeError(f"vLLM is not well: {why}")
        self.up = self.up or well

    async def __call__(self, request: Request):
        """Without the application's path in front, which Ray keeps in root_path."""
        root = request.scope.get("root_path", "")
        path = request.url.path.removeprefix(root) or "/"
        url = self.base + path + (f"?{request.url.query}" if request.url.query else "")
        try:
            body = await request.body()
            answer = await (await self.client()).request(request.method, url, data=body, headers=plain(request.headers.items()), allow_redirects=False)
        except ClientDisconnect:
            return PlainTextResponse("", 499)
        except aiohttp.ClientConnectionError:
            return PlainTextResponse("vLLM is not up yet", 503, headers={"Retry-After": "2"})
        return StreamingResponse(self.pieces(answer), answer.status, dict(plain(answer.headers.items())))

    @staticmethod
    async def pieces(answer):
        """As they come. Whoever stops listening closes this, and with it the connection, so vLLM ends the request."""
        try:
            async for piece in answer.content.iter_any():
                yield piece
        finally:
            answer.close()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # what it started and left
        except ProcessLookupError:
            pass

    def __del__(self):
        self.stop()


def app(args):
    """The application of one vLLM; args as command_of() says, and gpus, cpus, streams."""
    from ray import serve
    deployment = serve.deployment(Replica, name="vllm", num_replicas=1, max_ongoing_requests=int(args.get("streams", 512)),
                                  health_check_period_s=5, health_check_timeout_s=15, graceful_shutdown_timeout_s=120,
                                  ray_actor_options={"num_gpus": float(args.get("gpus", 1)), "num_cpus": float(args.get("cpus", 2))})
    return deployment.bind(dict(args))

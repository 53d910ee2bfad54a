"""R2: what one small authenticated request costs: GET /v1/models with a key, on one core.

The gateway has a core of its own, weft-exchanges the other. Beside it, in the whole form where times are judged, nginx with one worker on the same core and `return 200` of as many bytes."""
import hashlib
import os
import shutil
import subprocess
import time

from crowd import crowd, exchanges, free_port
from gateway_process import until
from trust import row, without

CONNECTIONS = 64
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
LEAST_S, OF_NGINX = 30_000, 0.5
NGINX = shutil.which("nginx") or ("/usr/sbin/nginx" if os.path.exists("/usr/sbin/nginx") else None)

CONFIG = """daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{ access_log off; keepalive_requests 100000000; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
server {{ listen 127.0.0.1:{port}; location / {{ default_type application/json; return 200 '{text}'; }} }} }}
"""


def on_core(core, pid):
    for task in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(task), {core})


def rate(where, key, seconds):
    """Requests a second, by a client on the last core."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    try:
        return exchanges("--via", where, "--key", key, "--get", "/v1/models", "--connections", CONNECTIONS, "--seconds", seconds + 0.5)
    finally:
        os.sched_setaffinity(0, cores)


def nginx_rate(t, text, key, seconds):
    folder, port = t.folder / "nginx", free_port()
    folder.mkdir()
    (folder / "nginx.conf").write_text(CONFIG.format(folder=folder, port=port, text=text))
    p = subprocess.Popen([NGINX, "-c", folder / "nginx.conf", "-p", folder], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: (folder / "nginx.pid").exists() and p.poll() is None, what="nginx")
        time.sleep(0.3)
        core = min(os.sched_getaffinity(0))
        for child in open(f"/proc/{p.pid}/task/{p.pid}/children").read().split():
            on_core(core, int(child))
        return rate(f"127.0.0.1:{port}", key, seconds)["requests_s"]
    finally:
        p.terminate()
        p.wait(10)


def forged(key):
    """Another secret under the same public id, with the checksum that goes with it."""
    text, number = key.rsplit("_", 1)[0][:-43] + "A" * 43, ""
    n = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    for _ in range(6):
        number, n = DIGITS[n % 62] + number, n // 62
    return f"{text}_{number}"


@row("R2", "authenticated GET /v1/models on one core")
def check(t):
    seconds = t.size(short=1.5, whole=10)
    with crowd(t) as g:
        acme = g.tenant("acme")
        with acme.http() as c:
            r = c.get("/v1/models")
            assert r.status_code == 200 and r.json()["data"], r.text
            wrong = c.get("/v1/models", headers={"Authorization": f"Bearer {forged(acme.key)}"})
            none = c.get("/v1/models", headers={"Authorization": ""})
        t.count("refused without the right key", (wrong.status_code == 401) + (none.status_code == 401), least=2)
        on_core(min(os.sched_getaffinity(0)), g.process.pid)
        cpu = g.cpu_s()
        got = rate(g.at, acme.key, seconds)
        spent = g.cpu_s() - cpu
        t.count("requests", got["via"]["requests"], least=1000)
        t.count("failed", got["via"]["failed"], most=0)
        t.speed("requests a second", got["requests_s"], least=LEAST_S)
        t.speed("processor time of a request", spent * 1e6 / max(1, got["requests_s"] * (seconds + 0.5)), most=1e6 / LEAST_S, unit="us")
        if NGINX and t.whole:
            theirs = nginx_rate(t, r.text, acme.key, seconds)
            t.speed("nginx's `return` of the same bytes", theirs, unit="requests/s")
            t.speed("of nginx's rate", got["requests_s"] / theirs, least=OF_NGINX)
        else:
            t.note("beside nginx only in the whole form" if NGINX else "nginx is not installed (Debian: nginx-light): nothing to compare with")


without("R2", "the check of a key's secret", file="gateway/auth/auth.c", old="    bool equal = bytes_equal_ct(hash, k ? k->hash : nothing, SHA256_BYTES);\n", new="    bool equal = bytes_equal_ct(hash, k ? hash : nothing, SHA256_BYTES);\n")

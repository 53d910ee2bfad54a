"""Connections that drip, on the listeners that R8 leaves out: a head and a body to the admin listener, before any key is looked at, and an upload. Each is cut, however it goes on."""

import socket
import time

import pytest

from gateway_process import Gateway

DRIP_S, MOST_S = 0.2, 25  # the watcher looks once a second; a loaded machine takes longer


@pytest.fixture(scope="module")
def slow(tmp_path_factory, _model):
    g = Gateway(tmp_path_factory.mktemp("slow"), "--head-s", "1", "--body-s", "1", "--upload-slow-s", "1", fake=True)
    g.acme = g.tenant("acme")
    yield g
    g.close()


def is_cut(url, first):
    """Whether the connection ends while a byte goes out every DRIP_S."""
    host, port = url.removeprefix("http://").rsplit(":", 1)
    end = time.monotonic() + MOST_S
    with socket.create_connection((host, int(port)), timeout=5) as s:
        s.sendall(first)
        s.settimeout(DRIP_S)
        while time.monotonic() < end:
            try:
                s.sendall(b"x")
                if not s.recv(65536):
                    return True
            except TimeoutError:
                pass
            except OSError:
                return True
    return False


@pytest.mark.parametrize("head", ["POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n", "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer KEY\r\nContent-Length: 99000000\r\n",
                                  "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer KEY\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n"])
def test_a_body_that_was_refused_by_its_head_and_drips_on_is_cut(slow, head):
    assert is_cut(slow.url, (head.replace("KEY", slow.acme.key) + "\r\n{").encode())


@pytest.mark.parametrize("first", [b"GET /admin/v1/tenants HTTP/1.1\r\nHost: x\r\nX-Long: ", b"POST /admin/v1/tenants HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n{",
                                   b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n{"])
def test_whoever_drips_to_the_admin_listener_is_cut(slow, first):
    assert is_cut(slow.admin_url, first)
    assert slow.admin.get("/admin/v1/tenants").status_code == 200


def test_an_upload_that_drips_is_cut_and_leaves_nothing(slow):
    head = f"POST /v1/adapters HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {slow.acme.key}\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 900000\r\n\r\n"
    part = '--b\r\nContent-Disposition: form-data; name="weights"; filename="w"\r\n\r\n'
    assert is_cut(slow.url, (head + part).encode())
    assert slow.acme.upload("sql").status_code == 201
    assert slow.temporary() == []

"""A way between a client and a listener, for tests: what ends TLS before it, and what cuts and changes bytes."""

import select
import socket
import ssl
import threading

IDLE_S = 120
PIECE = 16384  # bytes at a time: the most that a record of TLS has


class Way:
    """At `url`. `change(bytes, n)` sees each piece of an answer, n bytes after its connection's beginning, and gives what goes on instead; None cuts.
    tls: a certificate and its key, as files. Counted: connections whose TLS was agreed on, bytes that were heard from clients, and that were answered."""

    def __init__(self, to, tls=None, change=None):
        self.to = (to.rsplit("/", 1)[-1].split(":")[0], int(to.rsplit(":", 1)[1]))
        self.change = change or (lambda data, n: data)
        self.tls = None
        if tls:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(*tls)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.listener.getsockname()[1]}"
        self.connections = self.heard = self.answered = 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        try:
            client.settimeout(IDLE_S)
            with client, (self.tls.wrap_socket(client, server_side=True) if self.tls else client) as inside, socket.create_connection(self.to) as outside:
                self.connections += 1
                self.hand_on(inside, outside)
        except OSError:  # what ssl says of a client that does not trust it is one
            pass

    def hand_on(self, inside, outside):
        n = 0
        while True:
            ready = [inside] if self.tls and inside.pending() else select.select([inside, outside], [], [], IDLE_S)[0]
            if inside in ready:
                if not (data := inside.recv(PIECE)):
                    return
                self.heard += len(data)
                outside.sendall(data)
            if outside in ready:
                data = outside.recv(PIECE)
                now = self.change(data, n) if data else None
                if now is None:
                    return
                n += len(data)
                self.answered += len(data)
                inside.sendall(now)
            if not ready:
                return

    def close(self):
        self.listener.close()


class Breaks:
    """As a Way's `change`: each answer breaks off before byte `after` of its connection, until that was so `times`."""

    def __init__(self, after, times):
        self.after, self.times = after, times

    def __call__(self, data, n):
        if self.times <= 0 or n + len(data) <= self.after:
            return data
        self.times -= 1
        return None

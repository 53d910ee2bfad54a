"""Certificates of tests: authorities of their own, and what these sign."""

import subprocess


def openssl(*args):
    r = subprocess.run(["openssl", *map(str, args)], capture_output=True, text=True, timeout=60)
    assert r.returncode == 0, r.stderr


class Authority:
    """names: it may stand for a server itself, as a certificate that signs itself does."""

    def __init__(self, folder, name, names=None):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.name, self.pem = folder, name, folder / f"{name}.pem"
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", folder / f"{name}.key", "-out", self.pem, "-days", "2",
                "-subj", f"/CN={name}", *(["-addext", f"subjectAltName={names}"] if names else []))

    def sign(self, name, names="IP:127.0.0.1", days=2):
        key, csr, pem, more = (self.folder / f"{self.name}-{name}.{end}" for end in ("key", "csr", "pem", "ext"))
        more.write_text(f"subjectAltName={names}\n")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", csr, "-subj", "/CN=receiver")
        openssl("x509", "-req", "-in", csr, "-CA", self.pem, "-CAkey", self.folder / f"{self.name}.key", "-CAcreateserial", "-days", days, "-out", pem, "-extfile", more)
        return pem, key

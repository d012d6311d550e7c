"""A registry over HTTP that fails or lies, each repository in the way its name says, until a file says that it is to be
honest: registry.py HOST:PORT IMAGE.tar FILE. IMAGE.tar is a docker-archive."""

import functools
import gzip
import hashlib
import http.server
import io
import json
import os
import socketserver
import sys
import tarfile
import threading
import time

address, archive, honest = sys.argv[1:]
host, port = address.rsplit(":", 1)
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


with tarfile.open(archive) as tar:
    files = {member.name.removeprefix("./"): tar.extractfile(member).read() for member in tar if member.isfile()}
row = json.loads(files["manifest.json"])[0]


def descriptor(kind, data, **more):
    return {"mediaType": kind, "digest": digest(data), "size": len(data), **more}


class Image:
    """The archive's image with one more file, so that no other image has its layer."""

    def __init__(self, name):
        plain = io.BytesIO(files[row["Layers"][0]])
        with tarfile.open(fileobj=plain, mode="a") as tar:
            tar.addfile(tarfile.TarInfo(name))
        config = json.loads(files[row["Config"]])
        config["rootfs"]["diff_ids"] = [digest(plain.getvalue())]
        self.config, self.layer = json.dumps(config).encode(), gzip.compress(plain.getvalue(), 1, mtime=0)
        self.blobs = {digest(data): data for data in (self.config, self.layer)}
        self.manifest = json.dumps({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", self.config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", self.layer)],
        }).encode()
        others = ({"os": "linux", "architecture": name} for name in ("s390x", "mips64le"))
        self.foreign = json.dumps({
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [descriptor(MANIFEST, self.manifest, platform=platform) for platform in others],
        }).encode()


image_of = functools.cache(Image)
REFUSALS = {
    "denied": (401, "UNAUTHORIZED", {"WWW-Authenticate": 'Basic realm="faults"'}),
    "forbidden": (403, "DENIED", {}),
    "missing": (404, "MANIFEST_UNKNOWN", {}),
    "limited": (429, "TOOMANYREQUESTS", {"Retry-After": "3600"}),
    "broken": (500, "UNKNOWN", {}),
}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, code, body, headers, cut=False):
        self.send_response(code)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True

    def do_GET(self):
        words = self.path.split("?")[0].strip("/").split("/")
        if words == ["v2"]:
            return self.answer(200, b"{}", {"Content-Type": "application/json"})
        how, (kind, what) = "/".join(words[1:-2]), words[-2:]
        image = image_of(how)
        if os.path.exists(honest):
            how = "honest"
        if how == "stalled":
            while not os.path.exists(honest):
                time.sleep(0.1)
            self.close_connection = True
            return None
        if how in REFUSALS:
            code, name, headers = REFUSALS[how]
            said = {"errors": [{"code": name, "message": f"this registry is {how}"}]}
            return self.answer(code, json.dumps(said).encode(), {"Content-Type": "application/json", **headers})
        if kind == "manifests":
            body, media = {
                "garbled-manifest": (image.manifest[:-20], MANIFEST),
                "foreign": (image.foreign, INDEX),
                "schema1": (b'{"schemaVersion":1}', SCHEMA1),
            }.get(how, (image.manifest, MANIFEST))
            said = digest(b"another") if how == "lying-manifest" else digest(body)
            return self.answer(200, body, {"Content-Type": media, "Docker-Content-Digest": said})
        body = image.blobs.get(what)
        if body is None:
            return self.answer(404, b"{}", {})
        if how == "lying-layer" and body is image.layer:
            body = bytes(len(body))
        start = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0]
        at = int(start)
        headers = {"Content-Type": "application/octet-stream", "Docker-Content-Digest": what}
        if at:
            headers["Content-Range"] = f"bytes {at}-{len(body) - 1}/{len(body)}"
        if how == "cut-layer" and body is image.layer:
            # Over and over again from the beginning, and never to the end.
            return self.answer(200, body, {**headers}, cut=True)
        return self.answer(206 if at else 200, body[at:], headers)

    do_HEAD = do_GET

    def log_message(self, form, *args):
        print(f"{threading.get_native_id()} {form % args}", file=sys.stderr, flush=True)


class Server(http.server.ThreadingHTTPServer):
    def server_bind(self):
        # The parent would ask DNS, which is not there, for its name.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address


Server((host, int(port)), Handler).serve_forever()

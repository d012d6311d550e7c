"""Those whom an API server asks about its users: outsiders.py FOLDER PORT. FOLDER has the key and the certificate of the
server (tls.key, tls.crt) and the key that signs tokens (sign.key). It is

- an OIDC issuer at https://127.0.0.1:PORT: its discovery document and its key;
- an authorization webhook at /authorize: readers may get configmaps, nobody may ever touch what is called `forbidden`;
- a token webhook at /authenticate: it knows the token `hooked`.

`outsiders.py FOLDER PORT --token '{"sub": …}'` prints a token with these claims instead."""

import base64
import http.server
import json
import ssl
import subprocess
import sys
import time

folder, port = sys.argv[1], int(sys.argv[2])
issuer = f"https://127.0.0.1:{port}"


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def openssl(*arguments, given=b""):
    return subprocess.run(["openssl", *arguments], input=given, stdout=subprocess.PIPE, check=True).stdout


def token(claims):
    now = int(time.time())
    claims = {"iss": issuer, "aud": "sampan", "iat": now, "exp": now + 600} | claims
    parts = [b64(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "one"}, claims)]
    signed = ".".join(parts)
    return f"{signed}.{b64(openssl('dgst', '-sha256', '-sign', f'{folder}/sign.key', given=signed.encode()))}"


if sys.argv[3:4] == ["--token"]:
    print(token(json.loads(sys.argv[4])))
    sys.exit()

modulus = openssl("rsa", "-in", f"{folder}/sign.key", "-noout", "-modulus").decode().strip().partition("=")[2]
KEYS = {"keys": [{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "one", "e": "AQAB", "n": b64(bytes.fromhex(modulus))}]}
DISCOVERY = {"issuer": issuer, "jwks_uri": f"{issuer}/keys", "response_types_supported": ["id_token"],
             "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["RS256"]}


def authorize(spec):
    asked = spec.get("resourceAttributes", {})
    if asked.get("name") == "forbidden":
        return {"allowed": False, "denied": True, "reason": "nobody may"}
    is_read = asked.get("verb") == "get" and asked.get("resource") == "configmaps"
    return {"allowed": is_read and "readers" in spec.get("groups", [])}


def authenticate(spec):
    if spec.get("token") != "hooked":
        return {"authenticated": False}
    return {"authenticated": True, "user": {"username": "hook:joe", "groups": ["readers"]}, "audiences": spec.get("audiences", [])}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.answer(KEYS if self.path == "/keys" else DISCOVERY)

    def do_POST(self):
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        decide = authorize if self.path.startswith("/authorize") else authenticate
        self.answer({"apiVersion": review["apiVersion"], "kind": review["kind"], "status": decide(review["spec"])})

    def log_message(self, form, *arguments):
        print(self.path, form % arguments, flush=True)


server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(f"{folder}/tls.crt", f"{folder}/tls.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()

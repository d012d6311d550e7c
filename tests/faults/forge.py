"""Forges a service account's token: forge.py KIND TOKEN KEY OTHER_KEY. KEY is the cluster's, OTHER_KEY is not."""

import base64
import json
import subprocess
import sys
import time


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def sign(key, text):
    command = ["openssl", "dgst", "-sha256", "-sign", key]
    der = subprocess.run(command, input=text.encode(), capture_output=True, check=True).stdout
    # Two integers in a sequence, as two numbers of 32 bytes.
    first = der[4 : 4 + der[3]]
    rest = der[4 + der[3] :]
    return encode(b"".join(number.lstrip(b"\0").rjust(32, b"\0") for number in (first, rest[2 : 2 + rest[1]])))


kind, token, key, other = sys.argv[1:]
head, claims, signature = token.split(".")
head, claims = json.loads(decode(head)), json.loads(decode(claims))
now = int(time.time())
changes = {
    "changed": {"sub": "system:serviceaccount:kube-system:default"},
    "expired": {"iat": now - 7200, "nbf": now - 7200, "exp": now - 3600},
    "early": {"nbf": now + 3600, "exp": now + 7200},
    "audience": {"aud": ["somebody-else"]},
    "issuer": {"iss": "https://elsewhere"},
}
claims.update(changes.get(kind, {}))
if kind == "none":
    head["alg"] = "none"
text = ".".join(encode(json.dumps(part).encode()) for part in (head, claims))
if kind == "none":
    signature = ""
elif kind != "changed":
    signature = sign(other if kind == "foreign" else key, text)
print(f"{text}.{signature}")

"""How long one exec and one short pod take, one after the other: latency.py KUBECONFIG.json IMAGE COMMAND TURNS

Prints milliseconds as JSON: `exec` from the request to the closed socket, of COMMAND in a running pod (a WebSocket, as
kubectl's), and `exit` from the creation of a pod that runs COMMAND to its phase Succeeded. COMMAND ends at once.
"""
import base64
import http.client
import json
import os
import ssl
import sys
import tempfile
import time
import urllib.parse

config = json.load(open(sys.argv[1]))
image, command, turns = sys.argv[2], sys.argv[3:-1], int(sys.argv[-1])
cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
server = urllib.parse.urlsplit(cluster["server"])


def file(of, key):
    if key in of:
        return of[key]
    with tempfile.NamedTemporaryFile(delete=False) as out:
        out.write(base64.b64decode(of[key + "-data"]))
    return out.name


names = file(cluster, "certificate-authority"), file(user, "client-certificate"), file(user, "client-key")
tls = ssl.create_default_context(cafile=names[0])
tls.load_cert_chain(names[1], names[2])
for name, of, key in zip(names, (cluster, user, user), ("certificate-authority", "client-certificate", "client-key")):
    if key not in of:
        os.unlink(name)


def connect():
    return http.client.HTTPSConnection(server.hostname, server.port, context=tls, timeout=60)


pods = "/api/v1/namespaces/default/pods"
calls = connect()


def call(method, path, body=None):
    calls.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
    answer = calls.getresponse()
    text = answer.read()
    if answer.status >= 300 and (method, answer.status) != ("GET", 404):
        sys.exit(f"{method} {path}: {answer.status} {text[:300]}")
    return json.loads(text)


def pod(name, args):
    container = {"name": "c", "image": image, "imagePullPolicy": "Never", "command": args}
    return {"metadata": {"name": name}, "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]}}


def wait(name, done):
    """Watches from before the pod is there, so that no state is missed."""
    watch = connect()
    watch.request("GET", f"{pods}?watch=1&fieldSelector=metadata.name%3D{name}")
    lines = watch.getresponse()

    def until():
        for line in lines:
            if done(json.loads(line)["object"]["status"]):
                watch.close()
                return
        sys.exit(f"the watch of {name} ended")

    return until


def gone(name):
    call("DELETE", f"{pods}/{name}?gracePeriodSeconds=0")
    while call("GET", f"{pods}/{name}").get("kind") == "Pod":
        time.sleep(0.02)


def exec_once(name):
    query = urllib.parse.urlencode([("command", word) for word in command] + [("stdout", 1), ("stderr", 1)])
    connection = connect()
    connection.connect()
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        f"GET {pods}/{name}/exec?{query} HTTP/1.1", f"Host: {server.netloc}", "Upgrade: websocket", "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: v5.channel.k8s.io", "", "",
    ]
    started = time.monotonic()
    connection.sock.sendall("\r\n".join(lines).encode())
    got = b""
    while b'"status":"Success"' not in got:
        more = connection.sock.recv(65536)
        got += more
        if not more or not got.startswith(b"HTTP/1.1 101 "):
            sys.exit(f"exec in {name}: {got!r}")
    took = time.monotonic() - started
    connection.close()
    return took


def middle(times):
    times = sorted(times)
    return {"p50": round(times[len(times) // 2] * 1000, 1), "p99": round(times[min(len(times) - 1, len(times) * 99 // 100)] * 1000, 1)}


until = wait("stays", lambda status: status.get("phase") == "Running")
call("POST", pods, pod("stays", command[:1]))
until()
exec_once("stays")
execs = [exec_once("stays") for _ in range(turns)]
gone("stays")

exits = []
for turn in range(turns):
    until = wait(f"short-{turn}", lambda status: status.get("phase") == "Succeeded")
    started = time.monotonic()
    call("POST", pods, pod(f"short-{turn}", command))
    until()
    exits.append(time.monotonic() - started)
    gone(f"short-{turn}")
print(json.dumps({"exec_ms": middle(execs), "exit_ms": middle(exits)}))

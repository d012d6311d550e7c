"""Writes as fast as it can and watches, until the server is gone: writer.py KUBECONFIG ACKNOWLEDGED SEEN ROUND. Appends
what was acknowledged (`round N RV NAME`) and what the watch told (`RV NAME TYPE`); the watch resumes where the last one
ended. With `check` for ROUND it compares both with what the server has."""

import base64
import http.client
import json
import re
import ssl
import sys
import tempfile
import threading
import urllib.parse

config, acknowledged_path, seen_path, round_ = sys.argv[1:]
PATH = "/api/v1/namespaces/default/configmaps"
text = open(config, encoding="utf-8").read()
url = urllib.parse.urlparse(re.search(r"server: (\S+)", text)[1])


def data(name):
    file = tempfile.NamedTemporaryFile(delete=True)
    file.write(base64.b64decode(re.search(name + r"-data: (\S+)", text)[1]))
    file.flush()
    return file


ca, certificate, key = data("certificate-authority"), data("client-certificate"), data("client-key")
context = ssl.create_default_context(cafile=ca.name)
context.load_cert_chain(certificate.name, key.name)


def connect():
    return http.client.HTTPSConnection(url.hostname, url.port, context=context, timeout=30)


def ask(connection, method, path, body=None):
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": kind})
    response = connection.getresponse()
    answer = json.loads(response.read())
    if response.status >= 300:
        raise SystemExit(f"{method} {path}: {answer}")
    return answer


def lines(path):
    try:
        return [line.split() for line in open(path, encoding="utf-8")]
    except FileNotFoundError:
        return []


def version(item):
    return int(item["metadata"]["resourceVersion"])


LOST = (OSError, http.client.HTTPException, json.JSONDecodeError)


def write(worker, note):
    connection = connect()
    try:
        for n in range(1_000_000):
            name = f"w{round_}-{worker}-{n}"
            made = ask(connection, "POST", PATH, {"metadata": {"name": name}, "data": {"n": str(n)}})
            note(made)
            if n % 3 == 0:
                note(ask(connection, "PATCH", f"{PATH}/{name}", {"data": {"changed": "yes"}}))
            if n % 7 == 0:
                # A deletion is told by the watch alone.
                ask(connection, "DELETE", f"{PATH}/w{round_}-{worker}-{max(n - 5, 0)}")
    except LOST:
        pass


def watch(since, until, seen):
    """From a version on, until another one or the end of the server."""
    if until is not None and since >= until:
        return
    connection = connect()
    try:
        connection.request("GET", f"{PATH}?watch=1&allowWatchBookmarks=false&resourceVersion={since}")
        for line in connection.getresponse():
            event = json.loads(line)
            if event["type"] == "ERROR":
                raise SystemExit(f"the watch from {since}: {event}")
            at = version(event["object"])
            seen.write(f"{at} {event['object']['metadata']['name']} {event['type']}\n")
            if until is not None and at >= until:
                return
    except LOST:
        if until is not None:
            raise


told = lines(seen_path)
since = int(told[-1][0]) if told else 0
if not told:
    since = version(ask(connect(), "GET", PATH))
    with open(seen_path, "w", encoding="utf-8") as start:
        start.write(f"{since} - START\n")
known = lines(acknowledged_path)
# Revisions never go back.
newest = version(ask(connect(), "GET", PATH))
highest = max([int(words[2]) for words in known] + [since])
if newest < highest:
    raise SystemExit(f"the newest revision is {newest}, but {highest} was told")

if round_ != "check":
    lock = threading.Lock()
    appending = {"mode": "a", "encoding": "utf-8", "buffering": 1}
    with open(acknowledged_path, **appending) as out, open(seen_path, **appending) as seen:

        def note(item):
            with lock:
                if version(item) <= newest:
                    out.write(f"round {round_} {version(item)} BACKWARDS-AFTER-{newest}\n")
                out.write(f"round {round_} {version(item)} {item['metadata']['name']}\n")

        threads = [threading.Thread(target=write, args=(worker, note)) for worker in range(4)]
        threads.append(threading.Thread(target=watch, args=(since, None, seen)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
else:
    # A deletion that nobody was told of may have been the last write: the watch has to come by it.
    ask(connect(), "POST", PATH, {"metadata": {"name": "end"}})
    items = {item["metadata"]["name"]: version(item) for item in ask(connect(), "GET", PATH)["items"]}
    last = max(list(items.values()) + [since])
    with open(seen_path, "a", encoding="utf-8", buffering=1) as seen:
        watch(since, last, seen)
    told = [(int(at), name, kind) for at, name, kind in lines(seen_path)]
    problems = [f"{now} follows {before} in the watch" for before, now in zip(told, told[1:]) if now[0] <= before[0]]
    seen_at = {at: (name, kind) for at, name, kind in told}
    deleted = {name for _, name, kind in told if kind == "DELETED"}
    for _, _, at, name in known:
        at = int(at)
        if name.startswith("BACKWARDS"):
            problems.append(f"{at} {name}")
        elif at not in seen_at or seen_at[at][0] != name:
            problems.append(f"{name} at {at} was acknowledged and never seen")
        elif name not in deleted and items.get(name, 0) < at:
            problems.append(f"{name} at {at} was acknowledged and is not there")
    for name, at in items.items():
        if name.startswith("w") and seen_at.get(at, ("",))[0] != name:
            problems.append(f"{name} at {at} is there and was never seen")
    print(f"{len(known)} acknowledged, {len(told)} seen, {len(items)} there")
    if problems or len(known) < 50:
        raise SystemExit("\n".join(problems[:20]) or "too few writes to say anything")

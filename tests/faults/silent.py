"""Connections that say nothing, or too little: silent.py HOST PORT RESULT CA CERTIFICATE KEY. RESULT says when all are
open, and when the server has cut all of them; it is not this program that closes any."""

import resource
import select
import socket
import ssl
import sys
import time

host, port, result, ca, certificate, key = sys.argv[1], int(sys.argv[2]), *sys.argv[3:]
PLAIN, TLS = 1000, 50
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 4096), most))


def say(text):
    with open(result, "a", encoding="ascii") as out:
        print(text, file=out)


def connect():
    return socket.create_connection((host, port), timeout=60)


def tls(*protocols):
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(list(protocols))
    context.load_cert_chain(certificate, key)
    return context.wrap_socket(connect(), server_hostname=host)


held = {}
for _ in range(PLAIN):
    held[connect()] = "one that says nothing"
for _ in range(TLS):
    held[tls("http/1.1")] = "one that says nothing after its handshake"
    held[tls("h2", "http/1.1")] = "one that negotiates HTTP/2 and says nothing"
preface = tls("h2")
preface.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
held[preface] = "one that speaks HTTP/2 and answers no ping"
once = tls("http/1.1")
once.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
held[once] = "one that asked once and stays"
slow, body = tls("http/1.1"), tls("http/1.1")
slow.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\nX-Slow: ")
held[slow] = "one that writes its header letter by letter"
body.sendall(b"POST /api/v1/namespaces HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
held[body] = "one that writes its body letter by letter"

say("all are open")
poll = select.poll()
open_, answers = {}, {}
for connection in held:
    connection.setblocking(False)
    poll.register(connection, select.POLLIN | select.POLLHUP | select.POLLERR)
    open_[connection.fileno()] = connection


def goes_on(connection):
    """Whether it is still open, after all that can be read."""
    try:
        while data := connection.recv(4096):
            answers[connection] = answers.get(connection, b"") + data
        return False
    except (ssl.SSLWantReadError, BlockingIOError):
        return True
    except OSError:
        return False


# Long after the last one should have been cut.
ends = time.monotonic() + 200
while open_ and time.monotonic() < ends:
    for number, _ in poll.poll(200):
        if not goes_on(open_[number]):
            poll.unregister(number)
            del open_[number]
    for connection in (slow, body):
        try:
            if connection.fileno() in open_:
                connection.send(b"a")
        except OSError:
            pass
left = sorted({held[connection] for connection in open_.values()})
say("still open: " + "; ".join(left) if left else "all were cut")
say(f"the slow body was answered {answers.get(body, b'')[:12].decode(errors='replace')}")

"""Many execs at once: execs.py HOST:PORT CA CERT KEY PATH COUNT. Prints how many said that they succeeded."""
import base64, os, socket, ssl, struct, sys, threading

address, ca, cert, key, path, count = sys.argv[1:]
host, port = address.rsplit(":", 1)
context = ssl.create_default_context(cafile=ca)
context.load_cert_chain(cert, key)
context.check_hostname = False
good = []


def run():
    with socket.create_connection((host, int(port)), timeout=60) as plain, context.wrap_socket(plain) as stream:
        nonce = base64.b64encode(os.urandom(16)).decode()
        stream.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {nonce}\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n".encode()
        )
        said = b""
        while data := stream.recv(65536):
            said += data
            if b"\x88\x02\x03\xe8" in said:  # the end
                stream.sendall(struct.pack("!BB", 0x88, 0x80) + b"\0\0\0\0")
                break
        # The output, and then how it ended.
        if b"here" in said.split(b'"status":"Success"')[0] and b'"status":"Success"' in said:
            good.append(1)
        else:
            print(said[-600:], file=sys.stderr)


def attempt():
    try:
        run()
    except OSError as error:
        print(error, file=sys.stderr)


threads = [threading.Thread(target=attempt) for _ in range(int(count))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(good))

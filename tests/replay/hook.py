"""A webhook's server: it answers as the tables say, and remembers what it was asked."""
import base64
import copy
import http.server
import json
import os
import socketserver
import ssl
import subprocess
import tempfile
import threading
import time


class Hook:
    """`answers` has them by path; the certificate is its own authority, and for 127.0.0.1 only."""

    def __init__(self, answers):
        self.answers, self.received = answers, {}
        with tempfile.TemporaryDirectory() as directory:
            key, certificate = os.path.join(directory, 'key'), os.path.join(directory, 'certificate')
            subprocess.run(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-subj', '/CN=hook',
                            '-addext', 'subjectAltName=IP:127.0.0.1', '-days', '30', '-keyout', key, '-out', certificate], check=True, capture_output=True)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            with open(certificate, 'rb') as file:
                authority = base64.b64encode(file.read()).decode()
        secure, plain = self.serve(Handler), self.serve(Plain)
        secure.socket = context.wrap_socket(secure.socket, server_side=True, do_handshake_on_connect=False)
        for server in (secure, plain):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        port = secure.server_address[1]
        self.told = {'url': f'https://127.0.0.1:{port}', 'port': port, 'plain': plain.server_address[1], 'ca': authority}

    def serve(self, handler):
        server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
        server.hook, server.handle_error = self, lambda *_: None
        return server

    def take(self, path):
        """What came to a path since it was last asked for."""
        return json.dumps(self.received.pop(path, []), indent=1).encode() + b'\n'


class Plain(socketserver.StreamRequestHandler):
    """One that speaks no TLS."""

    def handle(self):
        self.wfile.write(b'HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n')


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.send_error(405)

    def do_POST(self):
        hook, path = self.server.hook, self.path.partition('?')[0]
        review = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        if path == '/converting':
            wanted = [(one.get('spec') or {}).get('behave', 'good') for one in review['request']['objects']]
            answer = hook.answers[path + '/' + next((one for one in wanted if one != 'good'), 'good')]
            response = converted(review['request'], answer)
        else:
            answer = hook.answers.get(path, {})
            response = {'allowed': True, **answer}
        asked = {name: self.headers[name] for name in ('Content-Type', 'Accept')}
        hook.received.setdefault(path, []).append({'path': self.path, **asked, 'review': review})
        if '_patch' in answer:
            response['patch'] = base64.b64encode(json.dumps(answer['_patch']).encode()).decode()
            response.setdefault('patchType', 'JSONPatch')
        response.setdefault('uid', review['request']['uid'])
        response = {k: v for k, v in response.items() if v is not None and not k.startswith('_')}
        whole = {'apiVersion': answer.get('_version', review['apiVersion']), 'kind': answer.get('_kind', review['kind']), 'response': response}
        body = answer.get('_body', json.dumps(whole) + ' ' * answer.get('_huge', 0)).encode()
        time.sleep(answer.get('_sleep', 0))
        self.close_connection = answer.get('_close', False)
        if self.close_connection:
            return
        self.send_response(answer.get('_status', 200))
        headers = {'Content-Type': answer.get('_type', 'application/json'), 'Location': answer.get('_location'), 'Content-Length': len(body)}
        for name, value in headers.items():
            if value not in ('', None):
                self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)


def converted(request, answer):
    """Gadgets in the other version: what is `size` in v1 is `width` in v2."""
    objects = copy.deepcopy(request['objects'])
    for one in objects:
        one['apiVersion'] = request['desiredAPIVersion']
        spec = one.get('spec') or {}
        for old, new in (('size', 'width'), ('old', 'fresh')):
            old, new = (old, new) if one['apiVersion'].endswith('v2') else (new, old)
            if old in spec:
                spec[new] = spec.pop(old)
        merge(one, answer.get('_set', {}))
    if isinstance(answer.get('_objects'), int):
        objects *= answer['_objects']
    return {'result': {'status': 'Success'}, 'convertedObjects': answer.get('_objects') if answer.get('_objects', 2) in ([], None) else objects, **answer}


def merge(value, change):
    """Merges one object into another; null takes out what is there."""
    for key, new in change.items():
        if new is None:
            value.pop(key, None)
        elif isinstance(new, dict) and isinstance(value.get(key), dict):
            merge(value[key], new)
        else:
            value[key] = new
    return value

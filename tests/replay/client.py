"""One server: requests by number of the case, answers with what later cases take from them."""
import http.client
import json
import re
import ssl
import time
from urllib.parse import quote, urlsplit

TAKEN = re.compile(r'\$\{([^}:]+):([^}]+)\}')


class Server:
    """A server at `url`; `certificate` and `key` are its administrator's."""

    def __init__(self, url, authority, certificate, key):
        self.url = urlsplit(url)
        self.context = ssl.create_default_context(cafile=authority)
        self.context.check_hostname = False
        self.nobody = ssl.create_default_context(cafile=authority)
        self.nobody.check_hostname = False
        self.context.load_cert_chain(certificate, key)
        self.connections = {}
        self.answers = {}
        self.hook = None

    def take(self, text):
        """Fills in `${CASE:json.path}` from the answers so far; `quote:` before the case escapes it for a query."""
        def one(found):
            case, path = found.groups()
            escape = case.startswith('quote ')
            value = reach(self.answers.get(case.removeprefix('quote ')), path)
            return quote(str(value), safe='') if escape else str(value)
        return TAKEN.sub(one, text)

    def connection(self, anonymous):
        if anonymous not in self.connections:
            context = self.nobody if anonymous else self.context
            self.connections[anonymous] = http.client.HTTPSConnection(
                self.url.hostname, self.url.port, timeout=20, context=context)
        return self.connections[anonymous]

    def send(self, case):
        """Sends a case; returns status, headers, body, and the request's own text."""
        if case.fresh:
            time.sleep(1 - time.time() % 1)
        end = time.monotonic() + 10
        while True:
            answer = self.send_once(case)
            if not case.until or reach(self.answers[case.id], case.until[0]) == case.until[1] or time.monotonic() > end:
                return answer
            time.sleep(0.05)

    def send_once(self, case):
        path, body = self.take(case.path), case.body
        if case.method == 'HOOK':
            return 200, [('Content-Type', 'application/json')], self.hook.take(path), path
        headers = {'User-Agent': 'replay/1', **{k: self.take(v) for k, v in case.headers.items()}}
        if isinstance(body, Raw):
            body = body.of(self)
        elif isinstance(body, (dict, list)):
            body = self.take(json.dumps(body, separators=(',', ':'))).encode()  # as Go's clients write it
            headers.setdefault('Content-Type', 'application/json')
        elif isinstance(body, str):
            body = self.take(body).encode()
        for attempt in (0, 1):
            connection = self.connection(case.anonymous)
            try:
                connection.request(case.method, path, body=body, headers=headers)
                answer = connection.getresponse()
                if case.events is not None and answer.status == 200:
                    data = events(answer, connection, case.events)
                    connection.close()
                else:
                    data = answer.read()
                break
            except (http.client.HTTPException, ConnectionError, TimeoutError, OSError) as error:
                connection.close()
                if attempt:
                    return 0, [], f'no answer: {type(error).__name__}'.encode(), path
        try:
            self.answers[case.id] = json.loads(data)
        except ValueError:
            self.answers[case.id] = None
        if case.keep:
            self.answers[case.id + ' raw'] = data
        request = path + ' ' + (body or b'').decode('utf-8', 'replace')
        return answer.status, answer.getheaders(), data, request


def reach(value, path):
    """What stands at a dotted path, or None."""
    for part in path.split('.'):
        if isinstance(value, list):
            value = value[int(part)] if int(part) < len(value) else None
        else:
            value = value.get(part) if isinstance(value, dict) else None
    return value


class Raw:
    """The bytes that an earlier case (with `keep`) was answered with."""

    def __init__(self, case):
        self.case = case

    def of(self, server):
        return server.answers.get(self.case + ' raw', b'')


def events(answer, connection, wanted):
    """Lines of a watch: those wanted, and what comes within a moment after them."""
    data, lines, end = b'', 0, time.monotonic() + 3
    try:
        while time.monotonic() < end:
            connection.sock.settimeout(0.15 if lines >= wanted else max(0.05, end - time.monotonic()))
            chunk = answer.read1(65536)
            if not chunk:
                break
            data += chunk
            lines = data.count(b'\n')
    except (TimeoutError, OSError):
        pass
    return data

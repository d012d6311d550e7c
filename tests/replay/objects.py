"""The table of objects, and small changes to them."""
import copy
import os
import re

HERE = os.path.dirname(os.path.abspath(__file__))
TOKEN = re.compile(r'\s*([{}\[\],:]|"(?:[^"\\]|\\.)*"|[^\s{}\[\],:"]+(?:[^\S\n]+[^\s{}\[\],:"]+)*)')
# A certificate signing request for CN=full, and an authority's certificate, both in PEM within base64.
CSR = ('LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlISU1IRUNBUUF3RHpFTk1Bc0dBMVVFQXd3RVpuVnNiREJaTUJNR0J5cUdTTTQ5QWdFR0NDcUdTTTQ5QXdFSApB'
       'MElBQktSYUZybmp5SmdTOTFWVm80cmxSZVFRWEZaQWpXeTR1R1NwTjVNZlZ0TEFGaWpjaEtUSU5vK3hpdllICitDZFpweVhXbmJaaDFmMlhWeDMvWFBWSkphR2dBREFLQmdncWhrak9QUVFE'
       'QWdOSEFEQkVBaUFROVp1NUV2RE0KMUsrNmJFcHhJWWNiWWFwUXdLS0M3V2s1cFRHbkJ5U3dZQUlnV1loNkMxcDM3TGkrZSsxNEd4SlJUMjhzMEk0MAoxTWpWN1RCN3hDZmFKWE09Ci0tLS0t'
       'RU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo=')
with open(os.path.join(HERE, 'authority.b64')) as file:
    CERT = file.read().strip()


def relaxed(text):
    """JSON whose plain words need no quotes."""
    tokens = iter(TOKEN.findall(text))

    def scalar(token):
        if token.startswith('"'):
            return eval(token)  # a literal of this repository's own tables
        if token in ('true', 'false', 'null'):
            return {'true': True, 'false': False, 'null': None}[token]
        if re.fullmatch(r'-?\d+(\.\d+)?', token):
            return float(token) if '.' in token else int(token)
        return {'CSR': CSR, 'CERT': CERT, 'LONG': 'x' * 6000}.get(token, token)

    def value(token):
        if token == '[':
            out, token = [], next(tokens)
            while token != ']':
                out.append(value(token))
                token = next(tokens)
                if token == ',':
                    token = next(tokens)
            return out
        if token == '{':
            out, token = {}, next(tokens)
            while token != '}':
                key = eval(token) if token.startswith('"') else token
                assert next(tokens) == ':', (key, text)
                out[key] = value(next(tokens))
                token = next(tokens)
                if token == ',':
                    token = next(tokens)
            return out
        return scalar(token)
    return value(next(tokens))


def load():
    """{(group/version, resource): object}"""
    with open(os.path.join(HERE, 'objects.txt')) as file:
        text = file.read()
    found = {}
    for section in re.split(r'^== ', text, flags=re.M)[1:]:
        head, body = section.split('\n', 1)
        resource, version = head.split()
        value = relaxed(body)
        value.setdefault('metadata', {}).setdefault('name', 'full')
        found[version, resource] = value
    return found


def tables(name):
    """{section: [(label, [value...])]} of lines "LABEL value | value ..."; a value "old => new" is a pair."""
    with open(os.path.join(HERE, name)) as file:
        text = re.sub(r'^#.*\n', '', file.read(), flags=re.M)
    found = {}
    for section in re.split(r'^== ', text, flags=re.M)[1:]:
        head, body = section.split('\n', 1)
        rows = [line.split(None, 1) for line in re.sub(r'\n +', ' ', body).splitlines() if line]
        found[head] = [(label, [one_or_pair(part) for part in rest.split(' | ')]) for label, rest in rows]
    return found


def one_or_pair(text):
    parts = tuple(relaxed(part) for part in text.split(' => '))
    return parts if len(parts) > 1 else parts[0]


def leaves(value, path=()):
    """Paths of everything in an object but its metadata."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if path or key not in ('metadata', 'apiVersion', 'kind'):
                yield path + (key,)
                yield from leaves(inner, path + (key,))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield path + (index,)
            yield from leaves(inner, path + (index,))


def at(value, path):
    for part in path:
        value = value[part]
    return value


def changed(value, path, new):
    """A copy with another value there; without it if the new one is None."""
    value = copy.deepcopy(value)
    parent = at(value, path[:-1])
    if new is None:
        del parent[path[-1]]
    else:
        parent[path[-1]] = new
    return value


def wrong(value):
    """What could stand in a value's place and hardly fits: name of the change, and the new value."""
    yield 'drop', None
    if isinstance(value, bool):
        yield 'flip', not value
    elif isinstance(value, (int, float)):
        yield 'negative', -7
        yield 'huge', 99999999
    elif isinstance(value, str):
        yield 'empty', ''
        yield 'bad', 'Bad_Value!'
    elif isinstance(value, list):
        yield 'none', []
        if value:
            yield 'twice', value + value[:1]
    elif isinstance(value, dict):
        yield 'none', {}

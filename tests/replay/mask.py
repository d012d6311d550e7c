"""Answers without what differs from run to run, in a form that two servers can be compared in."""
import base64
import gzip
import hashlib
import json
import re

import protobuf

UUID = re.compile(r'[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}')
# Cases write times of 2020; everything later is the clock's.
TIME = re.compile(r'20(?:2[5-9]|[3-9]\d)-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(?:Z| \+0000 UTC)')
CREDENTIAL = re.compile(r'X509SHA256=[0-9a-f]{64}')
TOKEN = re.compile(r'eyJ[\w-]+\.[\w-]+\.[\w-]+')
ADDRESS = re.compile(r'10\.43\.\d+\.\d+')
REVISION = re.compile(r'(resource ?[vV]ersion:? \(?|current: |resourceVersion=|\brevision=|resourceVersion\\*": *\\*"|object meta: |in record \()\d{2,}')
ACCESS = re.compile(r'(kube-api-access-)[a-z0-9]{5}')
PORT = re.compile(r'(?:127\.0\.0\.1|10\.99\.0\.1|localhost):\d{4,5}')
AGE = re.compile(r'(?:\d+(?:ms|[smhdy]))+')
HEADERS = ('content-type', 'warning', 'retry-after', 'etag', 'location', 'allow', 'vary', 'cache-control', 'accept-patch',
           'content-encoding', 'x-content-type-options', 'strict-transport-security', 'www-authenticate', 'audit-id',
           'x-kubernetes-pf-flowschema-uid', 'x-kubernetes-pf-prioritylevel-uid', 'last-modified', 'x-varied-accept')


class Mask:
    def __init__(self, request, generated=''):
        self.request = request
        self.generated = re.compile(re.escape(generated) + r'[bcdfghjklmnpqrstvwxz2456789]{5}') if generated else None

    def text(self, text):
        text = UUID.sub('UID', text)
        text = TIME.sub(lambda m: 'TIME.us' if m.group(1) else 'TIME', text)
        text = PORT.sub('SERVER', text)
        text = ACCESS.sub(r'\1GENERATED', text)
        text = CREDENTIAL.sub('X509SHA256=SUM', TOKEN.sub('JWT', text))
        text = REVISION.sub(r'\1RV', text)
        text = ADDRESS.sub(lambda m: m.group() if m.group() in self.request else 'IP', text)
        if self.generated:
            text = self.generated.sub('GENERATED', text)
        return text

    def value(self, value, key=''):
        if isinstance(value, dict):
            if 'cells' in value and isinstance(value['cells'], list):
                value = {**value, 'cells': ['AGE' if isinstance(c, str) and AGE.fullmatch(c) else
                                            re.sub(r':3\d{4}/', ':PORT/', c) if isinstance(c, str) else c for c in value['cells']]}
            return {self.text(k): self.value(v, k) for k, v in value.items()}
        if isinstance(value, list):
            if key == 'items':  # Sampan's own parts have roles of their own
                value = [v for v in value if not (isinstance(v, dict) and str((v.get('metadata') or {}).get('name')).startswith('system:sampan:'))]
            if key == 'managedFields':  # by time, which may be one for all
                value = sorted(value, key=lambda entry: (entry.get('manager', ''), entry.get('operation', ''), entry.get('subresource', ''))
                               if isinstance(entry, dict) else ('', '', ''))
            return [self.value(v, key) for v in value]
        if isinstance(value, str):
            if key.lower().endswith('resourceversion') and value.isdigit() and value != '0':
                return 'RV'
            if key == 'continue' and value:
                return 'CONTINUE'
            return self.text(value)
        if isinstance(value, int) and key.lower().endswith('port') and 30000 <= value <= 65535 and str(value) not in self.request:
            return 'PORT'
        return value


def echo(text):
    """A cause's message without the text of a whole struct: upstream prints its internal form, or a difference of it."""
    text = re.sub(r'\n@@ [\s\S]*', '', text).rstrip('\n')
    found = re.match(r'[A-Z][a-z ]+: (?="?[\[{]|null)', text)
    if found:
        try:
            value, end = json.JSONDecoder().raw_decode(text[found.end():])
            if value in (None, []) or isinstance(value, dict) or isinstance(value, list) and any(isinstance(v, dict) for v in value) or isinstance(value, str):
                text = found.group() + '{...}' + text[found.end() + end:]
        except ValueError:
            pass
    return text


def ordered(status):
    """A Status whose causes are without structs and in a fixed order: upstream walks through maps as they come."""
    causes = (status.get('details') or {}).get('causes') or []
    if not causes or not all('field' in cause for cause in causes):
        return status
    message = status['message']
    shown = [{**cause, 'message': echo(cause.get('message', ''))} for cause in causes]
    for cause, short in zip(causes, shown):
        message = message.replace(cause.get('message', ''), short['message'], 1)

    def joined(causes):
        return ', '.join(f"{cause['field']}: {cause['message']}" for cause in causes)
    fixed = sorted(shown, key=lambda cause: (cause['field'], cause['message']))
    return {**status, 'message': message.replace(joined(shown), joined(fixed)), 'details': {**status['details'], 'causes': fixed}}


def hashed(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def wordless(value):
    """Without descriptions, as upstream's are not copied, and without unions, which no client reads."""
    if isinstance(value, dict):
        return {k: wordless(v) for k, v in value.items() if k != 'x-kubernetes-unions' and (k != 'description' or not isinstance(v, str))}
    return [wordless(v) for v in value] if isinstance(value, list) else value


def openapi(document, prefix=''):
    """A document's parts as sums: what differs is named, its text is asked for when it is looked into. With a prefix, what
    is defined below it."""
    parts = {}
    document = wordless(document)
    if prefix:
        group = '.'.join(reversed(prefix.split('.')))
        document = {'paths': [p for p in document['paths'] if group in p],
                    'definitions': {name: value for name, value in document['definitions'].items() if name.startswith(prefix)}}
    for name, part in document.items():
        if name == 'paths':
            # Their parts refer to each other by sums of their own.
            parts[name] = sorted(part)
        elif name in ('definitions', 'components') and isinstance(part, dict):
            part = part.get('schemas', part) if name == 'components' else part
            parts[name] = {key: hashed(value) for key, value in part.items()}
        else:
            parts[name] = part
    return parts


def answer(case, status, headers, data, request):
    """What is compared of an answer, as a JSON value."""
    mask = Mask(request, case.generated)
    found = {}
    for name, value in headers:
        name = name.lower()
        if name in HEADERS:
            if name == 'etag' or name == 'last-modified':
                value = 'SET'
            found[name] = found[name] + ' | ' + mask.text(value) if name in found else mask.text(value)
    if found.get('content-encoding') == 'gzip':
        data = gzip.decompress(data)
    kind = found.get('content-type', '')
    body = {}
    if case.only == 'status':
        pass
    elif case.only == 'index':
        body['paths'] = sorted(json.loads(data)['paths'])
    elif 'protobuf' in kind:
        body['protobuf'] = [mask.text(line) for line in protobuf.dump(data)]
    elif case.only == 'lines':
        # Names of metrics, checks and the like: what each line begins with.
        body['lines'] = sorted({re.split(r'[{ ]', line)[0] for line in data.decode().splitlines() if not line.startswith('# HELP')}
                               if 'version=' in kind else {mask.text(l) for l in data.decode().splitlines()})
    else:
        try:
            if 'json' not in kind or case.only == 'text':
                raise ValueError
            if case.events is not None and status == 200:
                body['events'] = [mask.value(json.loads(line)) for line in data.splitlines()]
            else:
                value = json.loads(data)
                only, _, what = case.only.partition(' ')
                if isinstance(value, dict) and value.get('kind') == 'APIResourceList':  # upstream has custom ones as they come
                    value['resources'].sort(key=lambda resource: resource['name'])
                if only == 'group':
                    value = [item for item in value['items'] if item['metadata'].get('name') == what]
                body['json'] = openapi(value, what) if only == 'openapi' and status == 200 else mask.value(value)
                if isinstance(value, dict) and value.get('kind') == 'Status':
                    body['json'] = ordered(body['json'])
                if not data.endswith(b'\n') and only != 'openapi':
                    body['newline'] = False
        except ValueError:
            try:
                text = data.decode()
                text = re.sub(r'(resourceVersion: ?"?)\d+', r'\1RV', mask.text(text))
                body['text'] = text
            except ValueError:
                body['bytes'] = base64.b64encode(data).decode()
    return {'status': status, 'headers': dict(sorted(found.items())), **body}

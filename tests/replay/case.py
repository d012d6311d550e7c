"""What a case is, and a topic's list of them."""
from dataclasses import dataclass, field


@dataclass
class Case:
    id: str
    method: str  # HOOK: what the webhooks' server was asked at this path
    path: str
    body: object = None  # a JSON value, text, or client.Raw
    headers: dict = field(default_factory=dict)
    anonymous: bool = False
    events: int = None  # a watch that should bring so many
    keep: bool = False  # the raw answer is wanted by a later case
    generated: str = ''  # names with this prefix are the server's choice
    pause: float = 0  # seconds to wait before
    until: tuple = ()  # asked again until this path of the answer has this value
    fresh: bool = False  # sent when a second begins: what the server adds has the same time
    only: str = ''  # 'status', 'lines', 'text', 'openapi [PREFIX]', 'group NAME', 'index': what of the answer counts


JSON, YAML, PROTOBUF = 'application/json', 'application/yaml', 'application/vnd.kubernetes.protobuf'
TABLE = 'application/json;as=Table;v=v1;g=meta.k8s.io'
PARTIAL = 'application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io'
PARTIALS = 'application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io'
PATCHES = {'json': 'application/json-patch+json', 'merge': 'application/merge-patch+json',
           'strategic': 'application/strategic-merge-patch+json', 'apply': 'application/apply-patch+yaml'}


class Topic:
    def __init__(self, name):
        self.name, self.cases, self.seen = name, [], {}

    def __call__(self, label, method, path, body=None, accept=None, content=None, headers=None, user=None, **more):
        """Adds a case and returns its id. `user` is impersonated: a name, or (name, group...)."""
        id = f'{self.name}/{label}'
        self.seen[id] = self.seen.get(id, 0) + 1
        if self.seen[id] > 1:
            id += f'#{self.seen[id]}'
        headers = dict(headers or {})
        if accept:
            headers['Accept'] = accept
        if content:
            headers['Content-Type'] = content
        if user:
            headers['Impersonate-User'] = user
        self.cases.append(Case(id, method, path, body, headers, **more))
        return id

    def get(self, label, path, **more):
        return self(label, 'GET', path, **more)

    def post(self, label, path, body, **more):
        return self(label, 'POST', path, body, **more)

    def put(self, label, path, body, **more):
        return self(label, 'PUT', path, body, **more)

    def delete(self, label, path, body=None, **more):
        return self(label, 'DELETE', path, body, **more)

    def patch(self, label, path, form, body, **more):
        return self(label, 'PATCH', path, body, content=PATCHES.get(form, form), **more)

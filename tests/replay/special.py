"""Cases that stand for themselves: what is set up, and all that is not the same for every kind."""
import copy

from case import JSON, PARTIALS, PATCHES, PROTOBUF, TABLE, YAML, Topic
from objects import relaxed

NS = '/api/v1/namespaces/replay'
MAPS = NS + '/configmaps'
AGGREGATED = 'application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList'


def before(facts, covered):
    t = Topic('setup')
    t.post('namespace', '/api/v1/namespaces', {'metadata': {'name': 'replay'}})
    t.post('account', NS + '/serviceaccounts', {'metadata': {'name': 'default'}})
    missing = sorted(resource for version, resource in facts if (version, resource) not in covered
                     and 'list' in facts[version, resource]['verbs'] and resource != 'componentstatuses')
    assert not missing, f'objects.txt lacks {missing}'
    return t.cases + documents(facts) + paths() + bodies() + lists() + watches()


def after():
    return subresources() + reviews() + access() + admission() + services()


def documents(facts):
    t = Topic('documents')
    for path in ('/api', '/apis'):
        t.get(f'{path[1:]}', path)
        t.get(f'{path[1:]}-aggregated', path, accept=AGGREGATED + ',' + JSON)
        t.get(f'{path[1:]}-aggregated-beta', path, accept=AGGREGATED.replace('v=v2', 'v=v2beta1') + ',' + JSON)
        t.get(f'{path[1:]}-yaml', path, accept=YAML)
        t.get(f'{path[1:]}-protobuf', path, accept=PROTOBUF)
        t.get(f'{path[1:]}-protobuf-aggregated', path, accept=PROTOBUF + ';g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList')
    for version in sorted({version for version, _ in facts}):
        root = '/api/' if '/' not in version else '/apis/'
        t.get(f'version/{version}', root + version)
        if '/' in version:
            t.get(f'group/{version}', root + version.split('/')[0])
        t.get(f'openapi-v3/{version}', '/openapi/v3' + root + version, only='openapi')
    t.get('openapi-v3', '/openapi/v3', only='index')
    t.get('openapi-v3-protobuf', '/openapi/v3/apis/apps/v1', accept='application/com.github.proto-openapi.spec.v3.v1.0+protobuf', only='status')
    t.get('openapi-v2', '/openapi/v2', only='openapi')
    t.get('openapi-v2-protobuf', '/openapi/v2', accept='application/com.github.proto-openapi.spec.v2@v1.0+protobuf', only='status')
    t.get('version', '/version')
    for path in ('/healthz', '/readyz', '/livez'):
        t.get(f'health{path}', path)
        t.get(f'health{path}-verbose', path + '?verbose', only='lines')
        t.get(f'health{path}-exclude', path + '?verbose&exclude=etcd', only='lines')
        t.get(f'health{path}-ping', path + '/ping')
        t.get(f'health{path}-nothing', path + '/nothing')
        t.get(f'health{path}-anonymous', path, anonymous=True)
    t.get('metrics', '/metrics', only='lines')
    t.get('root', '/')
    t.get('root-anonymous', '/', anonymous=True)
    for path in ('/.well-known/openid-configuration', '/openid/v1/jwks'):
        t.get(f'oidc{path}', path, only='status')
        t.get(f'oidc{path}-anonymous', path, anonymous=True)
    return t.cases


def paths():
    """Paths and methods that are none."""
    t = Topic('paths')
    for path in ('/nothing', '/api/', '/apis/', '/api/v2', '/api/v1/', '/api/v1/nothings', '/api/v1/nothings/x', '/apis/nothing', '/apis/nothing.example.com/v1',
                 '/apis/nothing.example.com/v1/things', '/apis/apps', '/apis/apps/', '/apis/apps/v9', '/apis/apps/v9/deployments', '/apis/apps/v1/nothings',
                 '/apis/apps/v1/deployments/x/status', NS + '/pods/absent', NS + '/pods/absent/status', NS + '/pods/absent/nothing', NS + '/pods/absent/log',
                 NS + '/configmaps/absent/status', '/api/v1/namespaces/absent/configmaps', '/api/v1/namespaces/absent/configmaps/x', '/api/v1/nodes/absent/proxy/',
                 NS + '/services/absent/proxy/', NS + '/pods/absent/proxy/', '/api/v1/configmaps/absent', '/api/v1/namespaces/replay/nodes', '/api/v1/namespaces/replay/nodes/x',
                 '/api/v1/watch/namespaces/replay/configmaps?timeoutSeconds=1', '/api/v1/proxy/nodes/x', '//api/v1', '/api/v1/namespaces/replay/', NS + '/configmaps/', '/api/v1/namespaces//configmaps',
                 '/swagger.json', '/swaggerapi', '/debug/pprof/', '/logs', '/ui', '/statusz', '/flagz', '/api/v1/componentstatuses', '/openapi', '/openapi/v3/nothing', '/version/'):
        events = 0 if 'watch/' in path else None
        t.get(f'get{path}', path, events=events, only='status' if path in ('/statusz', '/flagz', '/api/v1/namespaces//configmaps') else '')
    for method in ('HEAD', 'OPTIONS', 'TRACE', 'CONNECT', 'FOO', 'POST', 'PUT', 'PATCH', 'DELETE'):
        for path in ('/', '/api', '/apis/apps/v1', '/version', '/healthz', '/api/v1/namespaces', '/api/v1/namespaces/replay', NS + '/configmaps', NS + '/configmaps/kube-root-ca.crt/nothing', NS + '/pods/absent/binding'):
            if method == 'CONNECT' or (method == 'DELETE' and path.endswith(('replay', 'configmaps', 'namespaces'))):
                continue
            t(f'{method}{path}', method, path, only='status' if method == 'HEAD' else '')
    return t.cases


def bodies():
    """Encodings, content types, and bodies that are none."""
    t = Topic('bodies')
    body = {'apiVersion': 'v1', 'kind': 'ConfigMap', 'metadata': {'name': 'body'}, 'data': {'a': 'b'}}
    text = '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"body"},"data":{"a":"b"}}'
    dry = MAPS + '?dryRun=All'
    for name, broken in {'empty': '', 'cut': text[:-5], 'not-json': 'hello', 'list': '[]', 'null': 'null', 'number': '5', 'string': '"x"', 'twice': text + text, 'comment': '// x\n' + text,
                         'duplicate': text.replace('"data"', '"data":{"x":"y"},"data"'), 'duplicate-key': text.replace('"a":"b"', '"a":"b","a":"c"'), 'bom': '\ufeff' + text,
                         'case': text.replace('"data"', '"Data"'), 'wrong-type': text.replace('{"a":"b"}', '{"a":5}'), 'wrong-type-list': text.replace('{"a":"b"}', '[]'),
                         'wrong-metadata': text.replace('{"name":"body"}', '"x"'), 'wrong-name': text.replace('"name":"body"', '"name":5'), 'null-data': text.replace('{"a":"b"}', 'null'),
                         'no-kind': text.replace('"kind":"ConfigMap",', ''), 'no-version': text.replace('"apiVersion":"v1",', ''), 'other-kind': text.replace('ConfigMap', 'Secret'), 'unknown-kind': text.replace('ConfigMap', 'Nothing'),
                         'other-version': text.replace('"v1"', '"v2"'), 'bad-version': text.replace('"v1"', '"a/b/c"'), 'deep': '{"a":' * 20000, 'unicode': text.replace('"b"', '"\\u00e9\\ud83d\\ude00"'), 'nul': text.replace('"b"', '"\\u0000"'),
                         'lone-surrogate': text.replace('"b"', '"\\ud800"'), 'big-number': text.replace('{"a":"b"}', '{"a":1e999}'), 'namespace': text.replace('"name"', '"namespace":"other","name"'),
                         'generation': text.replace('"name"', '"generation":-5,"name"'), 'revision': text.replace('"name"', '"resourceVersion":"5","name"'), 'uid': text.replace('"name"', '"uid":"5","name"'),
                         'deletion': text.replace('"name"', '"deletionTimestamp":"2020-01-01T00:00:00Z","name"'), 'time': text.replace('"name"', '"creationTimestamp":"yesterday","name"'),
                         'managed': text.replace('"name"', '"managedFields":[{"manager":"x","operation":"Update","apiVersion":"v1","time":"2020-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"f:data":{}}}],"name"'),
                         'owner': text.replace('"name"', '"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"p","uid":"u"},{"apiVersion":"v1","kind":"Pod","name":"p","uid":"u"}],"name"'),
                         'bad-owner': text.replace('"name"', '"ownerReferences":[{"apiVersion":"a/b/c","kind":"","name":"","uid":""}],"name"'),
                         'finalizer': text.replace('"name"', '"finalizers":["unqualified","Bad Name/x"],"name"')}.items():
        for mode in ('', 'Strict', 'Ignore') if name in ('duplicate', 'duplicate-key', 'case', 'twice') else ('',):
            t.post(f'json/{name}{mode}', dry + (f'&fieldValidation={mode}' if mode else ''), broken, content=JSON)
    for name, content in {'none': '', 'text': 'text/plain', 'json-charset': 'application/json; charset=utf-8', 'unknown': 'application/x-thing', 'bad': 'not a type', 'form': 'application/x-www-form-urlencoded', 'cbor': 'application/cbor',
                          'protobuf': PROTOBUF, 'patch': PATCHES['merge'], 'star': '*/*', 'yaml-text': 'text/yaml', 'upper': 'Application/JSON'}.items():
        t.post(f'content/{name}', dry, text, content=content or None, headers={} if content else {'X-None': '1'})
    for name, accept in {'none': None, 'star': '*/*', 'application': 'application/*', 'text': 'text/plain', 'html': 'text/html,*/*;q=0.5', 'quality': 'application/yaml;q=0.1,application/json;q=0.9', 'bad': 'not a type', 'cbor': 'application/cbor',
                         'table-v2': 'application/json;as=Table;v=v2;g=meta.k8s.io', 'table-or': TABLE + ',' + JSON, 'unknown-or': 'application/x-thing,application/json', 'protobuf-watch': PROTOBUF + ';stream=watch', 'pretty': 'application/json;pretty=1',
                         'partial-yaml': 'application/yaml;as=PartialObjectMetadata;v=v1;g=meta.k8s.io', 'table-protobuf': PROTOBUF + ';as=Table;v=v1;g=meta.k8s.io', 'partials-protobuf': PROTOBUF + ';as=PartialObjectMetadataList;v=v1;g=meta.k8s.io',
                         'other-as': 'application/json;as=Other;v=v1;g=meta.k8s.io'}.items():
        t.get(f'accept/{name}', '/api/v1/namespaces?fieldSelector=metadata.name%3Dreplay', accept=accept)
        t.get(f'accept-one/{name}', '/api/v1/namespaces/replay', accept=accept)
        t.get(f'accept-error/{name}', '/api/v1/namespaces/absent', accept=accept)
    t.get('pretty', '/api/v1/namespaces/replay?pretty=true', only='text')
    t.get('pretty-false', '/api/v1/namespaces/replay?pretty=false', headers={'User-Agent': 'Mozilla/5.0'}, only='text')
    t.get('pretty-browser', '/api/v1/namespaces/absent', headers={'User-Agent': 'Mozilla/5.0'}, only='text')
    t.get('pretty-curl', '/api/v1/namespaces/absent', headers={'User-Agent': 'curl/8'}, only='text')
    yaml = 'apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: body\n  labels: {"a": b}\ndata:\n  a: |\n    text\n    more\n  b: >-\n    folded\n    text\n'
    for name, given in {'plain': yaml, 'duplicate': yaml + '  a: again\n', 'tab': yaml.replace('  name', '\tname'), 'anchor': yaml.replace('{"a": b}', '&x {a: b}').replace('name: body', 'name: body\n  annotations: *x') , 'number': yaml + '  c: 5\n', 'bool': yaml + '  c: yes\n',
                        'date': yaml + '  c: 2020-01-01\n', 'null': yaml + '  c: ~\n', 'documents': yaml + '---\n' + yaml, 'unknown': yaml + 'other: 1\n', 'cut': yaml[:25], 'empty': '', 'not': '{{{', 'quoted': yaml + '  c: "\\x41\\u00e9"\n  d: \'it\'\'s\'\n', 'octal': yaml + '  c: "010"\n', 'merge': yaml + '  <<: {z: "1"}\n'}.items():
        t.post(f'yaml/{name}', dry, given, content=YAML)
    t.post('yaml/strict', dry + '&fieldValidation=Strict', yaml + 'other: 1\n  ', content=YAML)
    t.post('yaml/answer', dry, yaml, content=YAML, accept=YAML)
    for query in ('dryRun=Some', 'dryRun=All&dryRun=All', 'fieldValidation=Sometimes', 'fieldManager=' + 'x' * 129, 'fieldManager=a%0Ab', 'pretty=maybe', 'force=true', 'unknown=1', 'dryRun=', 'timeout=1s', 'timeout=zzz'):
        t.post(f'query/{query[:20]}', MAPS + '?' + query, {**body, 'metadata': {'name': 'q'}})
        t.delete(f'query-delete/{query[:20]}', MAPS + '/q?' + query)
    made = t.post('create', MAPS, body, keep=True)
    for form, patches in {
        'json': {'empty': '[]', 'not-list': '{}', 'bad-op': '[{"op":"bad","path":"/data/a"}]', 'no-path': '[{"op":"add","value":1}]', 'missing': '[{"op":"remove","path":"/data/zz"}]', 'replace-missing': '[{"op":"replace","path":"/data/zz","value":"x"}]', 'test': '[{"op":"test","path":"/data/a","value":"b"}]',
                 'move': '[{"op":"move","from":"/data/a","path":"/data/c"}]', 'copy': '[{"op":"copy","from":"/data/c","path":"/data/d"}]', 'copy-missing': '[{"op":"copy","from":"/data/zzz","path":"/data/d"}]', 'name': '[{"op":"replace","path":"/metadata/name","value":"x"}]', 'wrong-type': '[{"op":"add","path":"/data/e","value":5}]',
                 'escape': '[{"op":"add","path":"/metadata/annotations","value":{"a~1b":"c"}}]', 'root': '[{"op":"replace","path":"","value":{}}]', 'null': '[{"op":"add","path":"/data/a","value":null}]', 'bad-json': '[{', 'unknown': '[{"op":"add","path":"/x","value":1}]', 'index': '[{"op":"add","path":"/metadata/finalizers/-","value":"x"}]'},
        'merge': {'empty': '{}', 'null': '{"data":null}', 'list': '[]', 'wrong-type': '{"data":{"a":5}}', 'kind': '{"kind":"Secret"}', 'version': '{"apiVersion":"v2"}', 'name': '{"metadata":{"name":"x"}}', 'namespace': '{"metadata":{"namespace":"x"}}', 'uid': '{"metadata":{"uid":"x"}}', 'stale': '{"metadata":{"resourceVersion":"1"}}',
                  'unknown': '{"unknown":1}', 'add': '{"data":{"m":"n"}}', 'bad-json': '{', 'string': '"x"', 'duplicate': '{"data":{"a":"1","a":"2"}}', 'managed': '{"metadata":{"managedFields":[]}}', 'generation': '{"metadata":{"generation":7}}'},
        'strategic': {'empty': '{}', 'delete': '{"data":{"$patch":"delete"}}', 'replace': '{"data":{"$patch":"replace","r":"s"}}', 'bad-directive': '{"data":{"$patch":"sometimes"}}', 'retain': '{"data":{"$retainKeys":["r"],"r":"t"}}', 'list': '[]', 'wrong-type': '{"data":5}', 'bad-json': '{'},
        'apply': {'no-kind': 'metadata: {name: body}', 'other-kind': '{apiVersion: v1, kind: Secret, metadata: {name: body}}', 'other-version': '{apiVersion: v2, kind: ConfigMap, metadata: {name: body}}', 'other-name': '{apiVersion: v1, kind: ConfigMap, metadata: {name: x}}', 'bad-yaml': '{{', 'unknown': '{apiVersion: v1, kind: ConfigMap, metadata: {name: body}, x: 1}',
                  'managed': '{apiVersion: v1, kind: ConfigMap, metadata: {name: body, managedFields: [{manager: x}]}}', 'stale': '{apiVersion: v1, kind: ConfigMap, metadata: {name: body, resourceVersion: "1"}}', 'take': '{apiVersion: v1, kind: ConfigMap, metadata: {name: body}, data: {a: other}}', 'null': '{apiVersion: v1, kind: ConfigMap, metadata: {name: body}, data: {a: null}}',
                  'list': '[]', 'wrong-type': '{apiVersion: v1, kind: ConfigMap, metadata: {name: body}, data: {a: 5}}'}}.items():
        for name, patch in patches.items():
            t.patch(f'patch-{form}/{name}', MAPS + '/body' + ('?fieldManager=m' if form == 'apply' else ''), form, patch)
    t.patch('patch-apply/create', MAPS + '/applied?fieldManager=m', 'apply', '{apiVersion: v1, kind: ConfigMap, metadata: {name: applied}, data: {a: b}}')
    t.patch('patch-apply/again', MAPS + '/applied?fieldManager=m', 'apply', '{apiVersion: v1, kind: ConfigMap, metadata: {name: applied}, data: {a: b}}')
    t.patch('patch-apply/drop', MAPS + '/applied?fieldManager=m', 'apply', '{apiVersion: v1, kind: ConfigMap, metadata: {name: applied}, data: {c: d}}')
    t.patch('patch-apply/conflict', MAPS + '/applied?fieldManager=n', 'apply', '{apiVersion: v1, kind: ConfigMap, metadata: {name: applied}, data: {c: e, f: g}}')
    t.patch('patch-apply/share', MAPS + '/applied?fieldManager=n', 'apply', '{apiVersion: v1, kind: ConfigMap, metadata: {name: applied}, data: {c: d, f: g}}')
    t.patch('patch-apply/force', MAPS + '/applied?fieldManager=n&force=true', 'apply', '{apiVersion: v1, kind: ConfigMap, metadata: {name: applied}, data: {c: e}}')
    t.patch('patch-apply/json', MAPS + '/applied?fieldManager=n&force=true', 'application/apply-patch+json', '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"applied"}}')
    t.patch('patch-merge/force', MAPS + '/applied?force=true', 'merge', '{}')
    t.patch('patch-unknown-type', MAPS + '/applied', 'application/json', '{}')
    t.patch('patch-no-type', MAPS + '/applied', 'text/plain', '{}')
    t.patch('patch-absent', MAPS + '/absent', 'merge', '{}')
    t.delete('delete-body', MAPS + '/body', '{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":"${bodies/create:metadata.uid}"}}', content=JSON)
    for name, options in {'bad-json': '{', 'kind': '{"kind":"Other","apiVersion":"v1"}', 'grace': '{"gracePeriodSeconds":-5}', 'both': '{"orphanDependents":true,"propagationPolicy":"Orphan"}', 'dry': '{"dryRun":["All"]}', 'dry-bad': '{"dryRun":["x"]}', 'unknown': '{"x":1}', 'empty': ''}.items():
        t.delete(f'delete-options/{name}', MAPS + '/applied', options, content=JSON)
    for verb in ('GET', 'PUT', 'DELETE'):
        t(f'if-none-match/{verb}', verb, MAPS + '/applied', headers={'If-None-Match': '"x"', 'If-Match': '"y"'})
    t.get('gzip', '/api/v1/namespaces/kube-system', headers={'Accept-Encoding': 'gzip'})
    t.get('gzip-list', '/apis/rbac.authorization.k8s.io/v1/clusterroles?labelSelector=kubernetes.io/bootstrapping%3Drbac-defaults', headers={'Accept-Encoding': 'gzip'}, only='status')
    t.get('gzip-refused', '/apis/rbac.authorization.k8s.io/v1/clusterroles', headers={'Accept-Encoding': 'gzip;q=0'}, only='status')
    return t.cases


def lists():
    t = Topic('lists')
    t.post('namespace', '/api/v1/namespaces', {'metadata': {'name': 'lists'}})
    c = '/api/v1/namespaces/lists/configmaps'
    for i in range(5):
        t.post(f'create-{i}', c, {'metadata': {'name': f'm{i}', 'labels': {'n': str(i), 'even': str(i % 2 == 0).lower()}}, 'data': {'k': str(i)}})
    first = t.get('limit', c + '?limit=2')
    second = t.get('continue', c + '?limit=2&continue=${quote lists/limit:metadata.continue}')
    t.get('continue-last', c + '?limit=2&continue=${quote lists/continue:metadata.continue}')
    t.get('continue-table', c + '?limit=2&continue=${quote lists/limit:metadata.continue}', accept=TABLE)
    rv = '${lists/limit:metadata.resourceVersion}'
    for query in ('limit=0', 'limit=-1', 'limit=x', 'limit=2&labelSelector=even%3Dtrue', 'continue=bad', 'continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJhIn0', 'limit=2&continue=${quote lists/limit:metadata.continue}&resourceVersion=5',
                  'resourceVersion=0', 'resourceVersion=x', 'resourceVersion=-1', 'resourceVersion=1&resourceVersionMatch=Exact', 'resourceVersion=0&resourceVersionMatch=Exact', 'resourceVersionMatch=Exact', 'resourceVersion=5&resourceVersionMatch=Other',
                  f'resourceVersion={rv}&resourceVersionMatch=Exact', f'resourceVersion={rv}&resourceVersionMatch=NotOlderThan', f'resourceVersion={rv}&limit=2', 'resourceVersion=0&limit=2', 'resourceVersion=999999999', 'resourceVersion=999999999&resourceVersionMatch=Exact',
                  'labelSelector=n+in+(1,2)', 'labelSelector=n+notin+(1,2),even', 'labelSelector=!even', 'labelSelector=n%3E2', 'labelSelector=n%3Dx%3Dy', 'labelSelector=in+in+in', 'labelSelector=n+in+()', 'labelSelector=bad!key', 'labelSelector=n%3D%3D1', 'labelSelector=n!%3D1', 'labelSelector=,', 'labelSelector=n,',
                  'fieldSelector=metadata.name%3Dm1', 'fieldSelector=metadata.name!%3Dm1', 'fieldSelector=metadata.namespace%3Dlists', 'fieldSelector=data.k%3D1', 'fieldSelector=metadata.name', 'fieldSelector=metadata.name%3Dm1,metadata.name%3Dm2', 'fieldSelector=metadata.name%3D',
                  'timeoutSeconds=5', 'timeoutSeconds=x', 'watch=maybe', 'allowWatchBookmarks=true', 'sendInitialEvents=true', 'sendInitialEvents=true&resourceVersionMatch=NotOlderThan', 'includeObject=None', 'shardSelector=x'):
        t.get(f'query/{query}', c + '?' + query)
    for query in ('limit=-1', 'labelSelector=n%3E', 'resourceVersion=1', 'dryRun=All&labelSelector=n%3D1', 'labelSelector=n+in+(0,1)&gracePeriodSeconds=x', 'fieldSelector=data.k%3D1', 'labelSelector=n+in+(0,1)'):
        t.delete(f'deletecollection/{query}', c + '?' + query)
    t.get('left', c, accept=PARTIALS)
    t.delete('deletecollection-body', c, {'kind': 'DeleteOptions', 'apiVersion': 'v1', 'propagationPolicy': 'Background'})
    t.get('empty', c)
    t.get('empty-table', c, accept=TABLE)
    t.get('empty-protobuf', c, accept=PROTOBUF)
    for query in ('resourceVersion=0', 'resourceVersion=x', 'resourceVersion=999999999'):
        t.get(f'get-query/{query}', '/api/v1/namespaces/lists?' + query)
    t.delete('namespace-delete', '/api/v1/namespaces/lists')
    t.get('namespace-terminating', '/api/v1/namespaces/lists')
    t.post('create-terminating', c, {'metadata': {'name': 'late'}})
    t.put('finalize', '/api/v1/namespaces/lists/finalize', {'apiVersion': 'v1', 'kind': 'Namespace', 'metadata': {'name': 'lists'}, 'spec': {'finalizers': []}})
    t.get('namespace-gone', '/api/v1/namespaces/lists')
    return t.cases


def watches():
    t = Topic('watches')
    c = MAPS
    start = t.get('start', c + '?limit=1')
    rv = '${watches/start:metadata.resourceVersion}'
    t.post('a', c, {'metadata': {'name': 'wa', 'labels': {'w': '1'}}, 'data': {'a': 'b'}})
    t.post('b', c, {'metadata': {'name': 'wb', 'labels': {'w': '1'}}})
    t.patch('a-changed', c + '/wa', 'merge', {'data': {'a': 'c'}})
    t.patch('b-unlabelled', c + '/wb', 'merge', {'metadata': {'labels': {'w': '2'}}})
    t.delete('b-deleted', c + '/wb')
    t.delete('a-deleted', c + '/wa')
    for name, query, events in (('all', 'resourceVersion=' + rv, 6), ('labels', f'labelSelector=w%3D1&resourceVersion={rv}', 5), ('labels-2', f'labelSelector=w%3D2&resourceVersion={rv}', 2), ('name', f'fieldSelector=metadata.name%3Dwa&resourceVersion={rv}', 3)):
        t.get(name, c + '?watch=true&' + query, events=events)
        t.get(name + '-table', c + '?watch=true&' + query, accept=TABLE, events=events)
    t.get('partial', c + f'?watch=true&resourceVersion={rv}', accept=PARTIALS.replace('List', ''), events=6)
    t.get('yaml', c + f'?watch=true&resourceVersion={rv}', accept=YAML, events=1)
    t.get('one', c + f'/wa?watch=true&resourceVersion={rv}', events=3)
    t.get('timeout', c + f'?watch=true&resourceVersion={rv}&timeoutSeconds=1', events=6)
    t.get('bookmarks', f'{NS}/serviceaccounts?watch=true&timeoutSeconds=1&allowWatchBookmarks=true', events=2)
    t.get('initial', f'{NS}/serviceaccounts?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true', events=2)
    t.get('initial-bare', f'{NS}/serviceaccounts?watch=true&sendInitialEvents=true', events=1)
    t.get('initial-false', f'{NS}/serviceaccounts?watch=true&sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion=0', events=0)
    t.get('match-bare', f'{NS}/serviceaccounts?watch=true&resourceVersionMatch=Exact', events=1)
    t.get('old', c + '?watch=true&resourceVersion=1', events=1)
    t.get('zero', f'{NS}/serviceaccounts?watch=true&resourceVersion=0', events=1)
    t.get('future', c + '?watch=true&resourceVersion=999999999&timeoutSeconds=1', events=1)
    t.get('bad', c + '?watch=true&resourceVersion=x', events=1)
    t.get('bad-label', c + '?watch=true&labelSelector=bad!key', events=1)
    t.get('bad-field', c + '?watch=true&fieldSelector=data.x%3D1', events=1)
    t.get('accept-bad', c + '?watch=true', accept='text/plain', events=1)
    t.get('accept-protobuf', f'{NS}/serviceaccounts?watch=true', accept=PROTOBUF + ';stream=watch', only='status', events=0)
    t.get('limit', f'{NS}/serviceaccounts?watch=true&limit=1', events=1)
    t.get('continue', f'{NS}/serviceaccounts?watch=true&continue=x', events=1)
    return t.cases


POD = {'apiVersion': 'v1', 'kind': 'Pod', 'metadata': {'name': 'p', 'labels': {'app': 'p'}}, 'spec': {'containers': [{'name': 'c', 'image': 'i', 'resources': {'requests': {'cpu': '100m'}}}]}}


def subresources():
    t = Topic('subresources')
    pods = NS + '/pods'
    t.post('pod', pods, POD)
    t.get('pod-table', pods + '/p', accept=TABLE)
    t.post('binding-bad', pods + '/p/binding', {'apiVersion': 'v1', 'kind': 'Binding', 'metadata': {'name': 'p'}})
    t.post('binding-kind', pods + '/p/binding', {'apiVersion': 'v1', 'kind': 'Binding', 'metadata': {'name': 'p'}, 'target': {'kind': 'Pod', 'name': 'n'}})
    t.post('binding-name', pods + '/p/binding', {'apiVersion': 'v1', 'kind': 'Binding', 'metadata': {'name': 'other'}, 'target': {'kind': 'Node', 'name': 'n'}})
    t.post('binding-dry', pods + '/p/binding?dryRun=All', {'apiVersion': 'v1', 'kind': 'Binding', 'metadata': {'name': 'p'}, 'target': {'kind': 'Node', 'name': 'n'}})
    t.post('binding-plain', NS + '/bindings', {'apiVersion': 'v1', 'kind': 'Binding', 'metadata': {'name': 'absent'}, 'target': {'kind': 'Node', 'name': 'n'}})
    t.post('binding', pods + '/p/binding', {'apiVersion': 'v1', 'kind': 'Binding', 'metadata': {'name': 'p', 'annotations': {'bound': 'yes'}, 'labels': {'topology.kubernetes.io/zone': 'z'}}, 'target': {'kind': 'Node', 'name': 'n'}})
    t.post('binding-again', pods + '/p/binding', {'apiVersion': 'v1', 'kind': 'Binding', 'metadata': {'name': 'p'}, 'target': {'kind': 'Node', 'name': 'm'}})
    t.get('bound', pods + '/p')
    t.get('by-node', pods + '?fieldSelector=spec.nodeName%3Dn,status.phase!%3DRunning', accept=TABLE)
    ready = {'status': {'phase': 'Running', 'podIP': '10.42.0.9', 'hostIP': '10.0.0.1', 'podIPs': [{'ip': '10.42.0.9'}], 'conditions': [{'type': 'Ready', 'status': 'True'}], 'containerStatuses': [{'name': 'c', 'image': 'i', 'imageID': 'x', 'ready': True, 'restartCount': 3, 'started': True, 'state': {'running': {'startedAt': '2020-01-01T00:00:00Z'}}, 'lastState': {'terminated': {'exitCode': 1, 'finishedAt': '2020-01-01T00:00:00Z'}}}]}}
    t.patch('status', pods + '/p/status', 'strategic', ready)
    t.patch('status-wrong', pods + '/p/status', 'merge', {'status': {'phase': 'Nothing', 'podIPs': [{'ip': 'x'}], 'qosClass': 'Best'}})
    t.get('pod-table-running', pods + '/p', accept=TABLE)
    t.put('ephemeral-get-body', pods + '/p/ephemeralcontainers', {**POD, 'spec': {**POD['spec'], 'ephemeralContainers': [{'name': 'd', 'image': 'x', 'targetContainerName': 'c'}]}})
    t.patch('ephemeral', pods + '/p/ephemeralcontainers', 'strategic', {'spec': {'ephemeralContainers': [{'name': 'debug', 'image': 'busybox', 'stdin': True}]}})
    t.patch('ephemeral-change', pods + '/p/ephemeralcontainers', 'strategic', {'spec': {'ephemeralContainers': [{'name': 'debug', 'image': 'other'}]}})
    t.patch('ephemeral-ports', pods + '/p/ephemeralcontainers', 'strategic', {'spec': {'ephemeralContainers': [{'name': 'bad', 'image': 'x', 'ports': [{'containerPort': 80}], 'resources': {'limits': {'cpu': 1}}, 'livenessProbe': {'exec': {'command': ['x']}}}]}})
    t.patch('ephemeral-twice', pods + '/p/ephemeralcontainers', 'strategic', {'spec': {'ephemeralContainers': [{'name': 'c', 'image': 'x'}]}})
    t.get('ephemeral-get', pods + '/p/ephemeralcontainers', accept='application/json')
    t.patch('resize', pods + '/p/resize', 'strategic', {'spec': {'containers': [{'name': 'c', 'resources': {'requests': {'cpu': '200m'}}}]}})
    t.patch('resize-qos', pods + '/p/resize', 'strategic', {'spec': {'containers': [{'name': 'c', 'resources': {'requests': {'cpu': '200m', 'memory': '1Gi'}, 'limits': {'cpu': '200m', 'memory': '1Gi'}}}]}})
    t.patch('resize-negative', pods + '/p/resize', 'strategic', {'spec': {'containers': [{'name': 'c', 'resources': {'requests': {'cpu': '-1'}}}]}})
    t.patch('resize-image', pods + '/p/resize', 'strategic', {'spec': {'containers': [{'name': 'c', 'image': 'other'}]}})
    t.patch('resize-gpu', pods + '/p/resize', 'strategic', {'spec': {'containers': [{'name': 'c', 'resources': {'requests': {'example.com/gpu': 1}}}]}})
    t.get('resize-get', pods + '/p/resize')
    t.patch('image', pods + '/p', 'strategic', {'spec': {'containers': [{'name': 'c', 'image': 'new'}]}})
    t.get('log', pods + '/p/log')
    t.get('log-container', pods + '/p/log?container=nothing')
    t.get('log-bad', pods + '/p/log?tailLines=-1&limitBytes=0&sinceSeconds=-5')
    t.get('log-both', pods + '/p/log?sinceSeconds=5&sinceTime=2020-01-01T00:00:00Z')
    t.get('exec', pods + '/p/exec?command=ls')
    t.post('exec-empty', pods + '/p/exec', None)
    t.get('portforward', pods + '/p/portforward')
    t.get('attach', pods + '/p/attach?container=nothing')
    t.get('proxy-bad', pods + '/x:y:z:w/proxy/')
    pdb = {'apiVersion': 'policy/v1', 'kind': 'PodDisruptionBudget', 'metadata': {'name': 'b'}, 'spec': {'minAvailable': 1, 'selector': {'matchLabels': {'app': 'p'}}}}
    t.post('budget', '/apis/policy/v1/namespaces/replay/poddisruptionbudgets', pdb)
    evict = {'apiVersion': 'policy/v1', 'kind': 'Eviction', 'metadata': {'name': 'p'}}
    t.post('evict-stale-budget', pods + '/p/eviction', evict)
    t.patch('budget-status', '/apis/policy/v1/namespaces/replay/poddisruptionbudgets/b/status', 'merge', {'status': {'observedGeneration': 1, 'disruptionsAllowed': 0, 'currentHealthy': 1, 'desiredHealthy': 1, 'expectedPods': 1}})
    t.post('evict-refused', pods + '/p/eviction', evict)
    t.post('evict-absent', pods + '/absent/eviction', {**evict, 'metadata': {'name': 'absent'}})
    t.post('evict-other', pods + '/p/eviction', {**evict, 'metadata': {'name': 'x'}})
    t.post('evict-beta', pods + '/p/eviction?dryRun=All', {**evict, 'apiVersion': 'policy/v1beta1'})
    t.post('evict-kind', pods + '/p/eviction', POD)
    t.delete('budget-delete', '/apis/policy/v1/namespaces/replay/poddisruptionbudgets/b')
    t.post('evict-dry', pods + '/p/eviction', {**evict, 'deleteOptions': {'dryRun': ['All']}})
    t.post('evict-uid', pods + '/p/eviction', {**evict, 'deleteOptions': {'preconditions': {'uid': 'x'}}})
    t.delete('pod-graceful', pods + '/p')
    t.post('evict-terminating', pods + '/p/eviction', evict)
    t.get('pod-terminating', pods + '/p', accept=TABLE)
    t.delete('pod-shorter', pods + '/p?gracePeriodSeconds=5')
    t.delete('pod-now', pods + '/p?gracePeriodSeconds=0')
    t.get('pod-gone', pods + '/p')
    for name, spec in {'empty': {}, 'hour': {'expirationSeconds': 3600}, 'short': {'expirationSeconds': 5}, 'long': {'expirationSeconds': 1 << 33}, 'audience': {'audiences': ['a', 'b']}, 'pod': {'boundObjectRef': {'kind': 'Pod', 'apiVersion': 'v1', 'name': 'absent'}}, 'kind': {'boundObjectRef': {'kind': 'Service', 'apiVersion': 'v1', 'name': 'x'}}, 'uid': {'boundObjectRef': {'kind': 'Secret', 'apiVersion': 'v1', 'name': 'x', 'uid': 'y'}}}.items():
        t.post(f'token/{name}', NS + '/serviceaccounts/default/token', {'apiVersion': 'authentication.k8s.io/v1', 'kind': 'TokenRequest', 'spec': spec})
    t.post('token/absent', NS + '/serviceaccounts/absent/token', {'apiVersion': 'authentication.k8s.io/v1', 'kind': 'TokenRequest', 'spec': {}})
    t.get('token/get', NS + '/serviceaccounts/default/token')
    from objects import CSR
    csr = '/apis/certificates.k8s.io/v1/certificatesigningrequests'
    t.post('csr', csr, {'apiVersion': 'certificates.k8s.io/v1', 'kind': 'CertificateSigningRequest', 'metadata': {'name': 'c'}, 'spec': {'request': CSR, 'signerName': 'kubernetes.io/kube-apiserver-client', 'usages': ['client auth']}})
    for name, condition in {'unknown-status': {'type': 'Approved', 'status': 'Maybe'}, 'no-status': {'type': 'Approved'}, 'denied-false': {'type': 'Denied', 'status': 'False'}, 'approved': {'type': 'Approved', 'status': 'True', 'reason': 'r', 'message': 'm'}, 'denied-too': {'type': 'Denied', 'status': 'True'}}.items():
        t.patch(f'approval/{name}', csr + '/c/approval', 'strategic', {'status': {'conditions': [condition]}})
    t.patch('approval/remove', csr + '/c/approval', 'merge', {'status': {'conditions': []}})
    t.patch('csr-status-bad', csr + '/c/status', 'merge', {'status': {'certificate': 'YWJj'}})
    t.get('csr-table', csr + '/c', accept=TABLE)
    t.patch('csr-spec', csr + '/c', 'merge', {'spec': {'usages': ['server auth']}})
    t.delete('csr-delete', csr + '/c')
    t.put('finalize-empty', '/api/v1/namespaces/replay/finalize', {'apiVersion': 'v1', 'kind': 'Namespace', 'metadata': {'name': 'replay'}, 'spec': {'finalizers': ['kubernetes', 'bad']}})
    return t.cases


def reviews():
    t = Topic('reviews')
    authz, authn = '/apis/authorization.k8s.io/v1/', '/apis/authentication.k8s.io/v1/'
    t.post('self', authn + 'selfsubjectreviews', {'apiVersion': 'authentication.k8s.io/v1', 'kind': 'SelfSubjectReview'})
    t.post('self-user', authn + 'selfsubjectreviews', {'apiVersion': 'authentication.k8s.io/v1', 'kind': 'SelfSubjectReview'}, user='jane', headers={'Impersonate-Group': 'devs', 'Impersonate-Extra-Scopes': 'a', 'Impersonate-Uid': 'u1'})
    t.post('self-empty', authn + 'selfsubjectreviews', '', content=JSON)
    t.post('token-bad', authn + 'tokenreviews', {'spec': {'token': 'nothing'}})
    t.post('token-empty', authn + 'tokenreviews', {'spec': {}})
    t.post('token-jwt', authn + 'tokenreviews', {'spec': {'token': 'eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ4In0.c2ln'}})
    t.post('token-good', authn + 'tokenreviews', {'spec': {'token': '${subresources/token/hour:status.token}'}})
    t.post('token-audience', authn + 'tokenreviews', {'spec': {'token': '${subresources/token/audience:status.token}', 'audiences': ['a', 'c']}})
    t.post('token-other-audience', authn + 'tokenreviews', {'spec': {'token': '${subresources/token/audience:status.token}', 'audiences': ['c']}})
    for name, spec in {'pods': {'resourceAttributes': {'verb': 'get', 'resource': 'pods', 'namespace': 'replay'}}, 'path': {'nonResourceAttributes': {'verb': 'get', 'path': '/healthz'}}, 'both': {'resourceAttributes': {}, 'nonResourceAttributes': {}}, 'none': {},
                       'field': {'resourceAttributes': {'verb': 'list', 'resource': 'pods', 'fieldSelector': {'requirements': [{'key': 'a', 'operator': 'In', 'values': ['b']}]}}}, 'field-both': {'resourceAttributes': {'verb': 'list', 'resource': 'pods', 'fieldSelector': {'rawSelector': 'a=b', 'requirements': [{'key': 'a', 'operator': 'In', 'values': ['b']}]}}},
                       'label-raw': {'resourceAttributes': {'verb': 'list', 'resource': 'pods', 'labelSelector': {'rawSelector': '!!'}}}}.items():
        t.post(f'self-access/{name}', authz + 'selfsubjectaccessreviews', {'spec': spec})
        t.post(f'self-access-jane/{name}', authz + 'selfsubjectaccessreviews', {'spec': spec}, user='jane')
        t.post(f'access/{name}', authz + 'subjectaccessreviews', {'spec': {**spec, 'user': 'jane'}})
        t.post(f'access-admin/{name}', authz + 'subjectaccessreviews', {'spec': {**spec, 'groups': ['system:masters']}})
        t.post(f'access-nobody/{name}', authz + 'subjectaccessreviews', {'spec': spec})
        t.post(f'local/{name}', '/apis/authorization.k8s.io/v1/namespaces/replay/localsubjectaccessreviews', {'metadata': {'namespace': 'replay'}, 'spec': {**spec, 'user': 'jane'}})
    t.post('local-other', '/apis/authorization.k8s.io/v1/namespaces/replay/localsubjectaccessreviews', {'spec': {'user': 'jane', 'resourceAttributes': {'namespace': 'other', 'verb': 'get', 'resource': 'pods'}}})
    t.post('named', authz + 'subjectaccessreviews', {'metadata': {'name': 'x'}, 'spec': {'user': 'jane', 'resourceAttributes': {'verb': 'get', 'resource': 'pods'}}})
    t.post('rules', authz + 'selfsubjectrulesreviews', {'spec': {'namespace': 'replay'}}, user='jane')
    t.post('rules-none', authz + 'selfsubjectrulesreviews', {'spec': {}}, user='jane')
    t.get('get', authz + 'selfsubjectaccessreviews')
    return t.cases


def access():
    """Who may: roles, escalation, impersonation."""
    t = Topic('access')
    rbac = '/apis/rbac.authorization.k8s.io/v1'
    role = {'metadata': {'name': 'reader'}, 'rules': [{'apiGroups': [''], 'resources': ['configmaps', 'pods'], 'verbs': ['get', 'list']}, {'apiGroups': ['rbac.authorization.k8s.io'], 'resources': ['roles', 'rolebindings'], 'verbs': ['*']}]}
    t.get('before', MAPS, user='jane')
    t.post('role', f'{rbac}/namespaces/replay/roles', role)
    t.post('binding', f'{rbac}/namespaces/replay/rolebindings', {'metadata': {'name': 'jane'}, 'roleRef': {'apiGroup': 'rbac.authorization.k8s.io', 'kind': 'Role', 'name': 'reader'}, 'subjects': [{'kind': 'User', 'name': 'jane'}, {'kind': 'Group', 'name': 'devs'}, {'kind': 'ServiceAccount', 'name': 'default'}]})
    t.get('list', MAPS, user='jane', accept=PARTIALS)
    t.get('group', MAPS, user='joe', headers={'Impersonate-Group': 'devs'}, accept=PARTIALS)
    t.get('account', MAPS, user='system:serviceaccount:replay:default', accept=PARTIALS)
    t.get('everywhere', '/api/v1/configmaps', user='jane')
    t.get('secret', NS + '/secrets/x', user='jane')
    t.get('watch', MAPS + '?watch=1', user='jane')
    t.post('create', MAPS, {'metadata': {'name': 'x'}}, user='jane')
    t.put('update', MAPS + '/x', {'metadata': {'name': 'x'}}, user='jane')
    t.patch('patch', MAPS + '/x', 'merge', {}, user='jane')
    t.patch('apply', MAPS + '/x?fieldManager=m', 'apply', {'apiVersion': 'v1', 'kind': 'ConfigMap', 'metadata': {'name': 'x'}}, user='jane')
    t.delete('delete', MAPS + '/x', user='jane')
    t.delete('deletecollection', MAPS, user='jane')
    t.get('node', '/api/v1/nodes/x', user='jane')
    t.get('namespace', '/api/v1/namespaces/replay', user='jane')
    t.post('namespace-create', '/api/v1/namespaces', {'metadata': {'name': 'x'}}, user='jane')
    t.get('path', '/metrics', user='jane')
    t.get('path-health', '/healthz', user='jane')
    t.get('crd', '/apis/apiextensions.k8s.io/v1/customresourcedefinitions', user='jane')
    t.get('unknown', '/apis/nothing.example.com/v1/things', user='jane')
    t.get('subresource', NS + '/pods/x/log', user='jane')
    t.post('exec', NS + '/pods/x/exec?command=x', None, user='jane')
    for name, rules in {'more': [{'apiGroups': [''], 'resources': ['secrets'], 'verbs': ['get', 'list']}], 'same': role['rules'][:1], 'star': [{'apiGroups': ['*'], 'resources': ['*'], 'verbs': ['*']}, {'nonResourceURLs': ['/x'], 'verbs': ['get']}], 'named': [{'apiGroups': [''], 'resources': ['secrets'], 'resourceNames': ['b', 'a'], 'verbs': ['get']}]}.items():
        t.post(f'escalate/{name}', f'{rbac}/namespaces/replay/roles?dryRun=All', {'metadata': {'name': 'e'}, 'rules': rules}, user='jane')
        t.put(f'escalate-update/{name}', f'{rbac}/namespaces/replay/roles/reader?dryRun=All', {'metadata': {'name': 'reader'}, 'rules': rules}, user='jane')
    for name, ref in {'admin': {'kind': 'ClusterRole', 'name': 'cluster-admin'}, 'view': {'kind': 'ClusterRole', 'name': 'view'}, 'absent': {'kind': 'ClusterRole', 'name': 'absent'}, 'own': {'kind': 'Role', 'name': 'reader'}}.items():
        t.post(f'bind/{name}', f'{rbac}/namespaces/replay/rolebindings?dryRun=All', {'metadata': {'name': 'e'}, 'roleRef': {'apiGroup': 'rbac.authorization.k8s.io', **ref}, 'subjects': [{'kind': 'User', 'name': 'jane'}]}, user='jane')
    t.post('cluster-role', rbac + '/clusterroles', {'metadata': {'name': 'x'}, 'rules': []}, user='jane')
    for name, headers in {'user': {'Impersonate-User': 'bob'}, 'group': {'Impersonate-Group': 'g'}, 'uid': {'Impersonate-Uid': 'u'}, 'extra': {'Impersonate-Extra-A': 'b'}, 'empty': {'Impersonate-User': ''}, 'account': {'Impersonate-User': 'system:serviceaccount:replay:default', 'Impersonate-Group': 'g'}, 'anonymous': {'Impersonate-User': 'system:anonymous'}, 'all': {'Impersonate-User': 'bob', 'Impersonate-Group': 'system:masters', 'Impersonate-Extra-Some%2Fkey': 'v'}}.items():
        t.post(f'impersonate/{name}', '/apis/authentication.k8s.io/v1/selfsubjectreviews', {}, headers=headers)
        t.get(f'impersonate-get/{name}', MAPS + '/absent', headers=headers)
    for name, token in {'none': None, 'bad': 'Bearer nothing', 'empty': 'Bearer ', 'basic': 'Basic YTpi', 'jwt': 'Bearer eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ4In0.c2ln', 'account': 'Bearer ${subresources/token/hour:status.token}', 'audience': 'Bearer ${subresources/token/audience:status.token}'}.items():
        for path in ('/api', '/version', '/healthz', MAPS, NS + '/secrets', '/nothing'):
            t.get(f'token/{name}{path}', path, anonymous=True, headers={'Authorization': token} if token else {}, accept=PARTIALS if path == MAPS else None)
    t.get('roles-table', f'{rbac}/namespaces/replay/roles', accept=TABLE)
    t.get('bindings-table', f'{rbac}/namespaces/replay/rolebindings', accept=TABLE)
    for name in ('cluster-admin', 'admin', 'edit', 'view', 'system:discovery', 'system:basic-user', 'system:node', 'system:kube-scheduler', 'system:controller:job-controller', 'system:volume-scheduler'):
        t.get(f'bootstrap/{name}', f'{rbac}/clusterroles/{name}')
    t.get('bootstrap-roles', f'{rbac}/clusterroles?labelSelector=kubernetes.io/bootstrapping%3Drbac-defaults')
    t.get('bootstrap-bindings', f'{rbac}/clusterrolebindings?labelSelector=kubernetes.io/bootstrapping%3Drbac-defaults')
    t.get('bootstrap-local', f'{rbac}/namespaces/kube-system/roles')
    t.get('bootstrap-local-bindings', f'{rbac}/namespaces/kube-system/rolebindings')
    t.get('bootstrap-priority', '/apis/scheduling.k8s.io/v1/priorityclasses')
    t.get('bootstrap-flow', '/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas')
    t.get('bootstrap-levels', '/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations')
    t.get('bootstrap-namespaces', '/api/v1/namespaces/kube-public')
    t.get('bootstrap-service', '/api/v1/namespaces/default/services/kubernetes')
    t.get('bootstrap-endpoints', '/api/v1/namespaces/default/endpoints/kubernetes')
    t.get('bootstrap-slices', '/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes')
    t.get('bootstrap-cidr', '/apis/networking.k8s.io/v1/servicecidrs/kubernetes')
    t.get('bootstrap-apiservices', '/apis/apiregistration.k8s.io/v1/apiservices', accept=TABLE)
    return t.cases


def admission():
    t = Topic('admission')
    ns = '/api/v1/namespaces/admission'
    t.post('namespace', '/api/v1/namespaces', {'metadata': {'name': 'admission'}})
    t.post('pod-no-account', ns + '/pods', POD)
    t.post('account', ns + '/serviceaccounts', {'metadata': {'name': 'default'}, 'imagePullSecrets': [{'name': 'pull'}]})
    t.post('pod-account', ns + '/pods?dryRun=All', POD)
    t.post('pod-other-account', ns + '/pods?dryRun=All', {**POD, 'spec': {**POD['spec'], 'serviceAccountName': 'absent'}})
    t.post('quota', ns + '/resourcequotas', {'metadata': {'name': 'q'}, 'spec': {'hard': {'pods': '1', 'requests.cpu': '1', 'configmaps': '1', 'count/secrets': '0'}}})
    t.post('quota-unknown', ns + '/configmaps', {'metadata': {'name': 'a'}})
    t.patch('quota-status', ns + '/resourcequotas/q/status', 'merge', {'status': {'hard': {'pods': '1', 'requests.cpu': '1', 'configmaps': '1', 'count/secrets': '0'}, 'used': {'pods': '0', 'requests.cpu': '0', 'configmaps': '0', 'count/secrets': '0'}}})
    t.post('quota-configmap', ns + '/configmaps', {'metadata': {'name': 'a'}}, pause=1)
    t.post('quota-configmap-more', ns + '/configmaps', {'metadata': {'name': 'b'}}, pause=1)
    t.post('quota-secret', ns + '/secrets', {'metadata': {'name': 'b'}})
    t.post('quota-pod-cpu', ns + '/pods', {**POD, 'spec': {'containers': [{'name': 'c', 'image': 'i'}]}})
    t.post('quota-pod-big', ns + '/pods', {**POD, 'spec': {'containers': [{'name': 'c', 'image': 'i', 'resources': {'requests': {'cpu': '2'}}}]}})
    t.post('quota-pod', ns + '/pods', POD)
    t.post('quota-pod-more', ns + '/pods', {**POD, 'metadata': {'name': 'p2'}})
    t.get('quota-table', ns + '/resourcequotas', accept=TABLE)
    t.delete('quota-delete', ns + '/resourcequotas/q')
    t.post('limits', ns + '/limitranges', {'metadata': {'name': 'l'}, 'spec': {'limits': [{'type': 'Container', 'default': {'cpu': '200m', 'memory': '64Mi'}, 'defaultRequest': {'cpu': '50m'}, 'max': {'cpu': '1'}, 'min': {'cpu': '10m'}, 'maxLimitRequestRatio': {'cpu': '10'}}, {'type': 'Pod', 'max': {'cpu': '2'}}, {'type': 'PersistentVolumeClaim', 'max': {'storage': '1Gi'}, 'min': {'storage': '1Mi'}}]}})
    for name, resources in {'none': {}, 'big': {'limits': {'cpu': '3'}}, 'small': {'requests': {'cpu': '1m'}}, 'ratio': {'requests': {'cpu': '10m'}, 'limits': {'cpu': '900m'}}, 'fine': {'requests': {'cpu': '100m'}}}.items():
        t.post(f'limits/{name}', ns + '/pods?dryRun=All', {**POD, 'metadata': {'name': 'l'}, 'spec': {'containers': [{'name': 'c', 'image': 'i', 'resources': resources}, {'name': 'd', 'image': 'i'}]}})
    t.post('limits/claim', ns + '/persistentvolumeclaims?dryRun=All', {'metadata': {'name': 'c'}, 'spec': {'accessModes': ['ReadWriteOnce'], 'resources': {'requests': {'storage': '5Gi'}}}})
    t.delete('limits-delete', ns + '/limitranges/l')
    t.patch('security', ns, 'merge', {'metadata': {'labels': {'pod-security.kubernetes.io/enforce': 'baseline', 'pod-security.kubernetes.io/warn': 'restricted', 'pod-security.kubernetes.io/enforce-version': 'latest'}}})
    t.patch('security-bad', ns, 'merge', {'metadata': {'labels': {'pod-security.kubernetes.io/enforce': 'nothing', 'pod-security.kubernetes.io/warn-version': 'vX'}}})
    for name, spec in {'plain': {}, 'host': {'hostNetwork': True, 'hostPID': True}, 'privileged': {'containers': [{'name': 'c', 'image': 'i', 'securityContext': {'privileged': True, 'capabilities': {'add': ['SYS_ADMIN', 'NET_ADMIN']}}}]}, 'path': {'volumes': [{'name': 'h', 'hostPath': {'path': '/'}}]}, 'port': {'containers': [{'name': 'c', 'image': 'i', 'ports': [{'containerPort': 80, 'hostPort': 80}]}]}, 'seccomp': {'securityContext': {'seccompProfile': {'type': 'Unconfined'}}}, 'sysctl': {'securityContext': {'sysctls': [{'name': 'kernel.msgmax', 'value': '1'}]}}, 'restricted': {'securityContext': {'runAsNonRoot': True, 'seccompProfile': {'type': 'RuntimeDefault'}}, 'containers': [{'name': 'c', 'image': 'i', 'securityContext': {'allowPrivilegeEscalation': False, 'capabilities': {'drop': ['ALL']}}}]}}.items():
        t.post(f'security/{name}', ns + '/pods?dryRun=All', {**POD, 'metadata': {'name': 's'}, 'spec': {**POD['spec'], **spec}})
        t.post(f'security-deployment/{name}', '/apis/apps/v1/namespaces/admission/deployments?dryRun=All', {'metadata': {'name': 's'}, 'spec': {'selector': {'matchLabels': {'app': 'p'}}, 'template': {'metadata': {'labels': {'app': 'p'}}, 'spec': {**POD['spec'], **spec}}}})
    t.patch('security-off', ns, 'merge', {'metadata': {'labels': {'pod-security.kubernetes.io/enforce': None, 'pod-security.kubernetes.io/warn': None}}})
    for name in ('absent', 'system-node-critical', 'system-cluster-critical'):
        t.post(f'priority/{name}', ns + '/pods?dryRun=All', {**POD, 'metadata': {'name': 'r'}, 'spec': {**POD['spec'], 'priorityClassName': name}})
    t.post('priority/number', ns + '/pods?dryRun=All', {**POD, 'metadata': {'name': 'r'}, 'spec': {**POD['spec'], 'priority': 5}})
    t.post('runtime-class', ns + '/pods?dryRun=All', {**POD, 'metadata': {'name': 'r'}, 'spec': {**POD['spec'], 'runtimeClassName': 'absent'}})
    t.post('static-node', ns + '/pods?dryRun=All', {**POD, 'metadata': {'name': 'r'}}, user='system:node:n', headers={'Impersonate-Group': 'system:nodes'})
    t.get('node-secret', ns + '/secrets/x', user='system:node:n', headers={'Impersonate-Group': 'system:nodes'})
    t.post('node-other', '/api/v1/nodes?dryRun=All', {'metadata': {'name': 'other'}}, user='system:node:n', headers={'Impersonate-Group': 'system:nodes'})
    t.post('node-labels', '/api/v1/nodes?dryRun=All', {'metadata': {'name': 'n', 'labels': {'node-restriction.kubernetes.io/x': 'y', 'kubernetes.io/bad': 'z'}}}, user='system:node:n', headers={'Impersonate-Group': 'system:nodes'})
    t.post('secret-token', ns + '/secrets', {'metadata': {'name': 't', 'annotations': {'kubernetes.io/service-account.name': 'absent'}}, 'type': 'kubernetes.io/service-account-token'})
    for kind in ('dockerconfigjson', 'dockercfg', 'basic-auth', 'ssh-auth', 'tls', 'service-account-token'):
        t.post(f'secret/{kind}', ns + '/secrets?dryRun=All', {'metadata': {'name': 't'}, 'type': f'kubernetes.io/{kind}', 'data': {'x': 'eA=='}})
    t.post('secret-base64', ns + '/secrets?dryRun=All', {'metadata': {'name': 't'}, 'data': {'x': '!!!'}})
    t.post('namespace-absent', '/api/v1/namespaces/absent/configmaps', {'metadata': {'name': 'x'}})
    t.delete('namespace-default', '/api/v1/namespaces/default')
    t.delete('namespace-system', '/api/v1/namespaces/kube-system?dryRun=All')
    policy = '/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies'
    t.post('storage-default', ns + '/persistentvolumeclaims?dryRun=All', {'metadata': {'name': 'c'}, 'spec': {'accessModes': ['ReadWriteOnce'], 'resources': {'requests': {'storage': '5Gi'}}}})
    for name, expression in {'syntax': 'object.', 'type': 'object.spec.replicas + "a"', 'unknown': 'nothing == 1', 'not-bool': '1', 'good': 'object.spec.replicas > 1', 'function': 'object.nothing()'}.items():
        t.post(f'policy/{name}', policy + '?dryRun=All', {'metadata': {'name': 'p'}, 'spec': {'matchConstraints': {'resourceRules': [{'apiGroups': ['apps'], 'apiVersions': ['v1'], 'operations': ['CREATE'], 'resources': ['deployments']}]}, 'validations': [{'expression': expression}]}})
    return t.cases


def services():
    t = Topic('services')
    c = NS + '/services'
    base = {'ports': [{'port': 80}], 'selector': {'a': 'b'}}
    for name, spec in {'plain': base, 'headless': {**base, 'clusterIP': 'None'}, 'external': {'type': 'ExternalName', 'externalName': 'a.example.com'}, 'external-bad': {'type': 'ExternalName', 'externalName': ''}, 'external-ports': {**base, 'type': 'ExternalName', 'externalName': 'a'}, 'node-port': {**base, 'type': 'NodePort'}, 'balancer': {**base, 'type': 'LoadBalancer'},
                       'no-ports': {}, 'two-unnamed': {'ports': [{'port': 80}, {'port': 81}]}, 'same-name': {'ports': [{'name': 'a', 'port': 80}, {'name': 'a', 'port': 81}]}, 'same-port': {'ports': [{'name': 'a', 'port': 80}, {'name': 'b', 'port': 80}]}, 'ip-outside': {**base, 'clusterIP': '1.2.3.4'}, 'ip-taken': {**base, 'clusterIP': '10.43.0.1'}, 'ip-bad': {**base, 'clusterIP': 'x'}, 'ip-set': {**base, 'clusterIP': '10.43.200.200'},
                       'dual': {**base, 'ipFamilyPolicy': 'RequireDualStack'}, 'prefer-dual': {**base, 'ipFamilyPolicy': 'PreferDualStack'}, 'v6': {**base, 'ipFamilies': ['IPv6']}, 'port-outside': {**base, 'type': 'NodePort', 'ports': [{'port': 80, 'nodePort': 80}]}, 'node-port-on-cluster': {**base, 'ports': [{'port': 80, 'nodePort': 30080}]},
                       'policy': {**base, 'externalTrafficPolicy': 'Local'}, 'affinity': {**base, 'sessionAffinity': 'ClientIP'}, 'affinity-bad': {**base, 'sessionAffinity': 'Other'}, 'type-bad': {**base, 'type': 'Other'}, 'protocol': {'ports': [{'port': 80, 'protocol': 'TCPX'}]}, 'port-zero': {'ports': [{'port': 0}]}, 'port-big': {'ports': [{'port': 70000}]}, 'target-name': {'ports': [{'port': 80, 'targetPort': 'Bad_Name'}]}, 'external-ip': {**base, 'externalIPs': ['127.0.0.1', 'x']}, 'ranges': {**base, 'loadBalancerSourceRanges': ['x']}, 'health': {**base, 'healthCheckNodePort': 30900}}.items():
        t.post(f'dry/{name}', c + '?dryRun=All', {'metadata': {'name': 's'}, 'spec': spec})
    t.post('create', c, {'metadata': {'name': 's'}, 'spec': {**base, 'type': 'NodePort'}})
    for name, change in {'to-cluster': {'type': 'ClusterIP'}, 'to-external': {'type': 'ExternalName', 'externalName': 'x'}, 'ip': {'clusterIP': '10.43.9.9'}, 'ip-none': {'clusterIP': None}, 'to-balancer': {'type': 'LoadBalancer'}, 'ports': {'ports': [{'port': 90}]}, 'class': {'loadBalancerClass': 'example.com/x'}, 'no-selector': {'selector': None}}.items():
        t.patch(f'change/{name}', c + '/s?dryRun=All', 'merge', {'spec': change})
    t.patch('status', c + '/s/status', 'merge', {'status': {'loadBalancer': {'ingress': [{'ip': 'x'}, {'hostname': 'h', 'ip': '1.2.3.4', 'ports': [{'port': 80, 'protocol': 'TCP'}]}]}}})
    t.get('table', c, accept=TABLE)
    t.get('proxy', c + '/s/proxy/x')
    t.get('proxy-port', c + '/s:nothing/proxy/')
    t.delete('delete', c + '/s')
    t.delete('collection', c)
    return t.cases

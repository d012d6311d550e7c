"""Custom resources: what custom.txt says, and what happens to definitions and objects in the course of time."""
import copy

import kinds
from case import JSON, PARTIALS, PROTOBUF, TABLE, YAML, Topic
from hook import merge
from objects import tables

GROUP = 'replay.example.com'
DEFINITIONS = '/apis/apiextensions.k8s.io/v1/customresourcedefinitions'
FACTS = {'kind': 'Widget', 'namespaced': True, 'subresources': ['status', 'scale'],
         'verbs': ['create', 'delete', 'deletecollection', 'get', 'list', 'patch', 'update', 'watch']}
WIDGET = {'metadata': {'name': 'full'}, 'spec': {'size': 5, 'color': 'red', 'tags': ['a', 'b'], 'list': ['x'], 'atomic': {'a': 'b'}, 'map': {'k': 'v'},
          'items': [{'name': 'one', 'value': 'v'}], 'ratio': 0.5, 'ok': True, 'due': '2020-01-01T00:00:00Z', 'free': {'any': {'thing': [1]}}}}


def all_cases():
    found = tables('custom.txt')
    t = Topic('custom')
    definitions(t, found)
    documents(t)
    widget = kinds.Kind(GROUP + '/v1', 'widgets', FACTS, WIDGET)
    t.cases += kinds.verbs(widget) + kinds.updates(widget)
    values(t, found)
    widgets(t, found['widgets'])
    lists(t)
    subresources(t)
    applies(t)
    versions(t)
    conversion(t, found['converting'])
    names_and_storage(t)
    deletion(t)
    t.cases += kinds.deletes(widget)
    return t.cases


def at(plural, name='', version='v1', scope='namespaces/replay/'):
    return f'/apis/{GROUP}/{version}/{scope}{plural}' + ('/' + name if name else '')


def thing(kind, name, version='v1', **more):
    return {'apiVersion': f'{GROUP}/{version}', 'kind': kind, 'metadata': {'name': name}, **more}


def definition(plural, given):
    """A definition; a schema alone is that of `spec`."""
    kind = plural[:-1].capitalize()
    spec = {'group': GROUP, 'scope': 'Namespaced', **given, 'names': {'plural': plural, 'kind': kind, **given.get('names', {})}}
    if 'schema' in spec:
        schema = {'openAPIV3Schema': {'type': 'object', 'properties': {'spec': spec.pop('schema')}}}
        spec['versions'] = [{'name': 'v1', 'served': True, 'storage': True, 'schema': schema}]
    return {'apiVersion': 'apiextensions.k8s.io/v1', 'kind': 'CustomResourceDefinition', 'metadata': {'name': f'{plural}.{GROUP}'}, 'spec': spec}


def fields(rows):
    return {'type': 'object', 'properties': {label: parts[0] for label, parts in rows}}


def definitions(t, found):
    for label, (schema,) in found['refused']:
        t.post(f'refused/{label}', DEFINITIONS + '?dryRun=All', definition('refuseds', {'schema': schema}))
    for plural, (given,) in found['definitions'][:-3]:
        t.post(f'define/{plural}', DEFINITIONS, definition(plural, given), only='status')
    for plural in ('values', 'rules'):
        t.post(f'define/{plural}', DEFINITIONS, definition(plural, {'schema': fields(found[plural])}), only='status' if plural == 'values' else '')
    t.get('defined/widgets', f'{DEFINITIONS}/widgets.{GROUP}', pause=3)
    for plural, (given,) in found['definitions'][-3:]:
        t.post(f'define/{plural}', DEFINITIONS, definition(plural, given))
    t.get('defined/clashes', f'{DEFINITIONS}/clashes.{GROUP}', pause=2)
    for plural in ('kindred', 'listed', 'crates', 'planets'):
        t.get(f'defined/{plural}', f'{DEFINITIONS}/{plural}.{GROUP}')
    t.get('defined/table', DEFINITIONS, accept=TABLE)
    for plural in ('clashes', 'kindred', 'listed', 'absents'):
        t.get(f'undefined/{plural}', at(plural))


def documents(t):
    t.get('group', '/apis/' + GROUP)
    for version in ('v1', 'v1beta1', 'v1alpha1', 'v2', 'v3'):
        t.get(f'discovery/{version}', f'/apis/{GROUP}/{version}')
        t.get(f'openapi/{version}', f'/openapi/v3/apis/{GROUP}/{version}', only='openapi')
    t.get('discovery/aggregated', '/apis', accept='application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList', only='group ' + GROUP)
    t.get('openapi/v2-document', '/openapi/v2', only='openapi com.example.replay')


def values(t, found):
    for section, plural, kind in (('values', 'values', 'Value'), ('rules', 'rules', 'Rule')):
        for label, (_, *given) in found[section]:
            for i, value in enumerate(given):
                if isinstance(value, tuple):
                    name = f'{label}-{i}'
                    t.post(f'{section}/{name}-before', at(plural), thing(kind, name, spec={label: value[0]}), only='status')
                    t.put(f'{section}/{name}', at(plural, name) + '?dryRun=All', thing(kind, name, spec={label: value[1]}))
                else:
                    t.post(f'{section}/{label}-{i}', at(plural) + '?dryRun=All', thing(kind, 'v', spec={label: value}))
    rows = [(f'{label}-{i}', label, pair) for label, (_, *given) in found['ratchets'] for i, pair in enumerate(given)]
    for name, label, (old, _) in rows:
        t.post(f'ratchets/{name}-before', at('ratchets'), thing('Ratchet', name, spec={label: old}), only='status')
    strict = definition('ratchets', {'schema': fields(found['ratchets'])})
    t.patch('ratchets/definition', f'{DEFINITIONS}/ratchets.{GROUP}', 'merge', {'spec': strict['spec']}, only='status')
    for i, (name, label, (_, new)) in enumerate(rows):
        t.put(f'ratchets/{name}', at('ratchets', name) + '?dryRun=All', thing('Ratchet', name, spec={label: new}), pause=0 if i else 2)


def widgets(t, rows):
    c = at('widgets')
    right = thing('Widget', 'w', spec={'color': 'red'})
    for label, (change,) in rows:
        body = merge(copy.deepcopy(right), change)
        t.post(f'widgets/{label}', c + '?dryRun=All', body, generated='wi-')
        if label in ('pruned', 'metadata-unknown', 'types', 'template'):
            for mode in ('Strict', 'Ignore'):
                t.post(f'widgets/{label}-{mode}', c + f'?dryRun=All&fieldValidation={mode}', body)
    text = '{"apiVersion":"replay.example.com/v1","kind":"Widget","metadata":{"name":"w"},"spec":{"color":"red"}}'
    for label, broken in {'empty': '', 'cut': text[:-3], 'list': '[]', 'null': 'null', 'duplicate': text.replace('"color"', '"color":"blue","color"'), 'duplicate-twice': text.replace('"color"', '"size":1,"size":2,"color":"blue","color"'),
                          'case': text.replace('"spec"', '"Spec"'), 'key': text.replace('"color"', '"Color":"x","color"')}.items():
        for mode in ('', 'Strict'):
            t.post(f'bodies/{label}{mode}', c + '?dryRun=All' + (f'&fieldValidation={mode}' if mode else ''), broken, content=JSON)
    yaml = f'apiVersion: {GROUP}/v1\nkind: Widget\nmetadata: {{name: w}}\nspec:\n  color: red\n  map: {{a: "1"}}\n'
    for label, given in {'plain': yaml, 'duplicate': yaml + '  color: blue\n', 'unknown': yaml + '  zz: 1\n  yy: 2\n'}.items():
        t.post(f'bodies/yaml-{label}', c + '?dryRun=All', given, content=YAML)
        t.post(f'bodies/yaml-{label}-strict', c + '?dryRun=All&fieldValidation=Strict', given, content=YAML)
    t.post('bodies/protobuf', c, text, content=PROTOBUF)
    t.get('bodies/accept-protobuf', c, accept=PROTOBUF)
    t.get('bodies/accept-table-protobuf', c, accept=PROTOBUF + ';as=Table;v=v1;g=meta.k8s.io')
    t.get('bodies/accept-partial-protobuf', c, accept=PROTOBUF + ';as=PartialObjectMetadataList;v=v1;g=meta.k8s.io')
    full = c + '/full'
    for form, patches in {
        'json': {'bad-op': '[{"op":"bad","path":"/spec"}]', 'absent': '[{"op":"remove","path":"/spec/zz"}]', 'unknown': '[{"op":"add","path":"/spec/zz","value":1}]', 'wrong': '[{"op":"add","path":"/spec/size","value":"x"}]', 'null': '[{"op":"replace","path":"/spec/size","value":null}]', 'kind': '[{"op":"replace","path":"/kind","value":"Other"}]', 'root': '[{"op":"replace","path":"","value":[]}]'},
        'merge': {'empty': '{}', 'unknown': '{"spec":{"zz":1}}', 'wrong': '{"spec":{"size":"x"}}', 'null': '{"spec":{"size":null}}', 'required': '{"spec":{"color":null}}', 'kind': '{"kind":"Other"}', 'version': '{"apiVersion":"replay.example.com/v9"}', 'name': '{"metadata":{"name":"x"}}', 'list': '[]', 'map': '{"spec":{"map":{"k":null,"l":"m"}}}', 'items': '{"spec":{"items":[{"name":"two"}]}}', 'status': '{"status":{"size":7}}', 'metadata': '{"metadata":{"labels":{"a":5}}}', 'cut': '{'},
        'strategic': {'plain': '{"spec":{"size":1}}'}}.items():
        for label, patch in patches.items():
            t.patch(f'patch-{form}/{label}', full + '?dryRun=All', form, patch)
            if label == 'unknown':
                t.patch(f'patch-{form}/{label}-strict', full + '?dryRun=All&fieldValidation=Strict', form, patch)
    planets = at('planets', scope='')
    t.post('planets/create', planets, thing('Planet', 'mars', any={'a': [1, {'b': None}]}, spec='text', status=5))
    t.put('planets/update', planets + '/mars', thing('Planet', 'mars', other=1.0))
    t.get('planets/table', planets, accept=TABLE)
    t.get('planets/namespaced', at('planets'))
    t.get('planets/status', planets + '/mars/status')
    t.get('planets/scale', planets + '/mars/scale')
    t.post('planets/namespace', planets, thing('Planet', 'venus', metadata={'name': 'venus', 'namespace': 'replay'}))
    t.patch('planets/apply', planets + '/mars?fieldManager=a', 'apply', thing('Planet', 'mars', other=2, list=[{'a': 1}]))
    t.delete('planets/delete', planets + '/mars')
    for method in ('POST', 'PUT', 'PATCH', 'DELETE'):
        t(f'method/{method}-item-status', method, full + '/status', {} if method != 'DELETE' else None)
        t(f'method/{method}-item', method, c + '/absent', {} if method != 'DELETE' else None)
    t.put('method/PUT-collection', c, {})
    t.get('method/nothing', full + '/nothing')
    t.post('method/namespace-absent', at('widgets', scope='namespaces/absent/'), right)


def lists(t):
    c = at('widgets')
    for name, color, size in (('la', 'red', 1), ('lb', 'blue', 2), ('lc', 'red', 2)):
        t.post(f'lists/{name}', c, thing('Widget', name, spec={'color': color, 'size': size, 'tags': [name], 'items': [{'name': name}], 'map': {'b': '1', 'a': '2'}, 'due': '2020-01-01T00:00:00Z'}))
    for query in ('spec.color%3Dred', 'spec.color!%3Dred', 'spec.size%3D2', 'spec.size%3D2,spec.color%3Dred', 'spec.color%3Dnone', 'spec.list%3Dx', 'spec%3Dx', 'metadata.name%3Dla', 'metadata.namespace%3Dreplay,spec.color%3Dblue', 'status.size%3D1'):
        t.get(f'lists/field/{query}', c + '?fieldSelector=' + query, accept=PARTIALS)
    t.get('lists/watch', c + '?watch=1&fieldSelector=spec.color%3Dblue&resourceVersion=0', events=1)
    t.get('lists/watch-table', c + '?watch=1&fieldSelector=spec.color%3Dblue&resourceVersion=0', accept=TABLE, events=1)
    t.get('lists/table', c, accept=TABLE)
    t.get('lists/table-object', c + '?includeObject=Object&limit=1', accept=TABLE)
    t.get('lists/limit', c + '?limit=1', accept=PARTIALS)
    t.get('lists/labels', c + '?labelSelector=a%3Db')
    t.get('lists/everywhere', at('widgets', scope='') + '?fieldSelector=spec.size%3D2', accept=PARTIALS)
    t.delete('lists/delete-bad', c + '?fieldSelector=spec.nothing%3D2')
    t.delete('lists/delete', c + '?fieldSelector=spec.size%3D2')
    t.delete('lists/delete-a', c + '/la')


def subresources(t):
    c, w = at('widgets'), at('widgets', 'sub')
    t.post('sub/create', c, thing('Widget', 'sub', spec={'color': 'red', 'size': 2}, status={'size': 9}))
    for label, path, change in (('status', '/status', {'status': {'size': 2, 'selector': 'a=b', 'conditions': [{'type': 'Ready', 'status': 'True'}]}}),
                                ('status-spec', '/status', {'spec': {'size': 9}, 'metadata': {'labels': {'x': 'y'}, 'finalizers': ['example.com/a']}}),
                                ('status-wrong', '/status', {'status': {'size': 'x'}}), ('status-unknown', '/status', {'status': {'zz': 1}}), ('status-list', '/status', {'status': []}),
                                ('status-null', '/status', {'status': None}), ('main-status', '', {'status': {'size': 100}}), ('main-spec', '', {'spec': {'size': 4}}),
                                ('main-same', '', {'spec': {'size': 4}}), ('main-label', '', {'metadata': {'labels': {'x': 'y'}}}), ('main-generation', '', {'metadata': {'generation': 50}}),
                                ('status-again', '/status', {'status': {'size': 3, 'selector': 'a=b'}}), ('scale-patch', '/scale', {'spec': {'replicas': 7}}), ('scale-large', '/scale', {'spec': {'replicas': 10}}),
                                ('scale-negative', '/scale', {'spec': {'replicas': -1}}), ('scale-none', '/scale', {'spec': None}), ('scale-status', '/scale', {'status': {'replicas': 9}}),
                                ('scale-name', '/scale', {'metadata': {'name': 'other'}}), ('scale-labels', '/scale', {'metadata': {'labels': {'a': 'b'}}}), ('scale-wrong', '/scale', {'spec': {'replicas': 'x'}})):
        t.patch(f'sub/{label}', w + path, 'merge', change)
    t.get('sub/scale', w + '/scale')
    t.get('sub/scale-absent', c + '/absent/scale')
    t.put('sub/scale-beta', w + '/scale', {'apiVersion': 'extensions/v1beta1', 'kind': 'Scale', 'metadata': {'name': 'sub', 'namespace': 'replay'}, 'spec': {'replicas': 1}})
    t.put('sub/status-put', w + '/status', thing('Widget', 'sub', status={'size': 1}))
    t.put('sub/status-put-right', w + '/status', thing('Widget', 'sub', spec={'color': 'blue'}, status={'size': 1}))
    t.patch('sub/status-apply', w + '/status?fieldManager=s', 'apply', thing('Widget', 'sub', status={'size': 2}))
    t.patch('sub/status-apply-force', w + '/status?fieldManager=s&force=true', 'apply', thing('Widget', 'sub', status={'size': 2}, spec={'size': 1}))
    t.patch('sub/scale-apply', w + '/scale?fieldManager=s&force=true&dryRun=All', 'apply', {'apiVersion': 'autoscaling/v1', 'kind': 'Scale', 'metadata': {'name': 'sub'}, 'spec': {'replicas': 5}})
    t.get('sub/after', w)
    t.delete('sub/delete', w)
    t.delete('sub/delete-again', w)


def applies(t):
    c, w = at('widgets'), at('widgets', 'ssa')

    def apply(label, manager, force=False, **spec):
        t.patch(f'apply/{label}', f'{w}?fieldManager={manager}' + ('&force=true' if force else ''), 'apply', thing('Widget', 'ssa', spec=spec))
    apply('create', 'a', color='red', tags=['x', 'y'], list=['1', '2'], atomic={'a': 'b'}, map={'k': 'v'}, items=[{'name': 'one', 'value': '1', 'more': ['m']}], free={'a': {'b': 1}})
    apply('same', 'a', color='red', tags=['x', 'y'], list=['1', '2'], atomic={'a': 'b'}, map={'k': 'v'}, items=[{'name': 'one', 'value': '1', 'more': ['m']}], free={'a': {'b': 1}})
    apply('other', 'b', tags=['z'], map={'l': 'm'}, items=[{'name': 'two'}], free={'c': 1})
    apply('conflict', 'b', color='blue', list=['3'], atomic={'b': 'c'}, map={'k': 'w'}, items=[{'name': 'one', 'value': '2'}], free={'a': {'b': 2}})
    apply('shared', 'b', color='red', tags=['x', 'z'], items=[{'name': 'one', 'value': '1'}])
    apply('drop', 'a', color='red', tags=['y'])
    apply('force', 'b', force=True, color='blue', list=['3'], atomic={'b': 'c'}, map={'k': 'w'}, items=[{'name': 'one', 'value': '2'}])
    apply('empty', 'a')
    apply('unknown', 'c', zz=1)
    apply('wrong', 'c', size='x')
    apply('wrong-list', 'c', tags='x')
    apply('duplicate', 'c', tags=['q', 'q'])
    apply('duplicate-key', 'c', items=[{'name': 'q'}, {'name': 'q'}])
    apply('keyless', 'c', items=[{'value': 'q'}])
    apply('null', 'c', size=None, items=[None])
    apply('invalid', 'c', size=99)
    apply('default', 'c', items=[{'name': 'three'}])
    apply('default-gone', 'c')
    t.get('apply/after', w)
    t.put('apply/update', w + '?fieldManager=u', thing('Widget', 'ssa', spec={'color': 'red', 'items': [{'name': 'one'}, {'name': 'four'}], 'tags': ['n'], 'template': {'apiVersion': 'v1', 'kind': 'Pod', 'metadata': {'name': 'x'}, 'spec': {'a': 'b'}}}))
    t.patch('apply/patch', w + '?fieldManager=p', 'merge', {'spec': {'map': {'p': 'q'}, 'free': {'deep': {'er': [1, 2]}}}})
    t.patch('apply/strict', w + '?fieldManager=c&fieldValidation=Strict', 'apply', thing('Widget', 'ssa', spec={'zz': 1}))
    t.patch('apply/duplicates', w + '?fieldManager=c&fieldValidation=Strict', 'apply', f'{{apiVersion: {GROUP}/v1, kind: Widget, metadata: {{name: ssa}}, spec: {{size: 1, size: 2}}}}')
    t.patch('apply/create-invalid', c + '/ssb?fieldManager=a', 'apply', thing('Widget', 'ssb', spec={}))
    t.patch('apply/managed-none', w, 'merge', {'metadata': {'managedFields': [{}]}})
    t.delete('apply/delete', w)


def versions(t):
    c = at('crates')
    t.post('versions/create', c, thing('Crate', 'one', spec={'a': 'b', 'c': 5, 'l': ['x']}))
    for version in ('v1', 'v1beta1', 'v1alpha1', 'v2', 'v3'):
        one = at('crates', 'one', version)
        t.get(f'versions/get-{version}', one)
        t.get(f'versions/table-{version}', at('crates', version=version), accept=TABLE)
        t.post(f'versions/create-{version}', at('crates', version=version), thing('Crate', f'in-{version}', version, spec={'a': 'b', 'c': 5, 'l': ['x', 'x']}))
        t.patch(f'versions/patch-{version}', one, 'merge', {'spec': {'a': version}})
        t.patch(f'versions/apply-{version}', one + '?fieldManager=m' + ('&dryRun=All' if version == 'v1alpha1' else ''), 'apply', thing('Crate', 'one', version, spec={'l': ['m']}))
        t.get(f'versions/stored-{version}', at('crates', f'in-{version}'))
    t.put('versions/mismatch', c + '/one', thing('Crate', 'one', 'v1beta1', spec={}))
    t.patch('versions/apply-conflict', at('crates', 'one', 'v1beta1') + '?fieldManager=n', 'apply', thing('Crate', 'one', 'v1beta1', spec={'l': ['n'], 'a': 'n'}))
    t.get('versions/watch', at('crates', version='v1beta1') + '?watch=1&resourceVersion=0&fieldSelector=metadata.name%3Done', events=1)


def conversion(t, rows):
    one, two = at('gadgets'), at('gadgets', version='v2')

    def gadget(version, name, behave, **spec):
        return thing('Gadget', name, version, spec={'behave': behave, **spec})
    t.post('conversion/create-v1', one, gadget('v1', 'first', 'good', size=5))
    t('conversion/received', 'HOOK', '/converting')
    t.get('conversion/get-v2', two + '/first')
    t('conversion/received', 'HOOK', '/converting', only='status')
    t.post('conversion/create-v2', two, gadget('v2', 'second', 'good', width=7, unknown=1))
    t('conversion/received', 'HOOK', '/converting', only='status')
    t.get('conversion/get-v1', one + '/second')
    t.put('conversion/update-v2', two + '/first', gadget('v2', 'first', 'good', width=8))
    t.put('conversion/invalid-v2', two + '/first', gadget('v2', 'first', 'good', width=80))
    t.patch('conversion/merge-v2', two + '/first', 'merge', {'spec': {'width': 9}})
    t.patch('conversion/apply-v1', one + '/first?fieldManager=a&force=true', 'apply', gadget('v1', 'first', 'good', size=11))
    t.patch('conversion/apply-v2', two + '/first?fieldManager=a', 'apply', gadget('v2', 'first', 'good', width=12))
    t.patch('conversion/apply-v2-conflict', two + '/first?fieldManager=b', 'apply', gadget('v2', 'first', 'good', width=13))
    t.patch('conversion/apply-v1-force', one + '/first?fieldManager=b&force=true', 'apply', gadget('v1', 'first', 'good', size=13))
    t.patch('conversion/status-v2', two + '/first/status', 'merge', {'status': {'a': 'b'}})
    t.get('conversion/list-v2', two)
    t.get('conversion/table-v2', two, accept=TABLE)
    t.get('conversion/watch-v2', two + '?watch=1&resourceVersion=0&fieldSelector=metadata.name%3Dfirst', events=1)
    for label, _ in rows:
        t.post(f'converting/{label}-write', two + '?dryRun=All', gadget('v2', 'g', label, width=1))
        t.post(f'converting/{label}-store', one, gadget('v1', 'read', label, size=1), only='status')
        t.get(f'converting/{label}-read', two + '/read')
        if label in ('failed', 'none', 'code-500', 'labels-bad'):
            t.get(f'converting/{label}-list', two)
            t.get(f'converting/{label}-table', two, accept=TABLE)
            t.patch(f'converting/{label}-patch', two + '/read', 'merge', {'spec': {'width': 2}})
            t.get(f'converting/{label}-watch', two + '?watch=1&resourceVersion=0&timeoutSeconds=1', events=1)
            t.delete(f'converting/{label}-delete-v2', two + '/read')
        t.delete(f'converting/{label}-delete', one + '/read', only='status')


def names_and_storage(t):
    crates = f'{DEFINITIONS}/crates.{GROUP}'
    t.patch('definition/stored-none', crates + '/status', 'merge', {'status': {'storedVersions': []}})
    t.patch('definition/stored-other', crates + '/status', 'merge', {'status': {'storedVersions': ['v1', 'v9']}})
    t.patch('definition/storage', crates, 'json', [{'op': 'replace', 'path': '/spec/versions/0/storage', 'value': False}, {'op': 'replace', 'path': '/spec/versions/1/storage', 'value': True}])
    t.get('definition/storage-get', crates, pause=1)
    t.get('definition/storage-read', at('crates', 'one'))
    t.patch('definition/storage-remove', crates, 'json', [{'op': 'remove', 'path': '/spec/versions/0'}])
    t.patch('definition/stored-remove', crates + '/status', 'merge', {'status': {'storedVersions': ['v1beta1']}})
    for label, change in {'group': {'group': 'other.example.com'}, 'scope': {'scope': 'Cluster'}, 'plural': {'names': {'plural': 'boxes'}}, 'kind': {'names': {'kind': 'Box'}}, 'versions': {'versions': []}, 'short': {'names': {'shortNames': ['wd', 'cr']}}}.items():
        t.patch(f'definition/change-{label}', crates, 'merge', {'spec': change})
    t.get('definition/changed', crates, pause=1)
    t.delete('definition/widgets-clash', f'{DEFINITIONS}/clashes.{GROUP}')
    t.get('definition/clash-gone', f'{DEFINITIONS}/clashes.{GROUP}', pause=1)


def deletion(t):
    leavers = f'{DEFINITIONS}/leavers.{GROUP}'
    c = at('leavers')
    t.post('delete/create', c, thing('Leaver', 'bound', metadata={'name': 'bound', 'finalizers': ['example.com/stay']}))
    t.post('delete/create-free', c, thing('Leaver', 'free'))
    t.delete('delete/definition-dry', leavers + '?dryRun=All')
    t.delete('delete/definition', leavers)
    t.get('delete/terminating', leavers, pause=2)
    t.post('delete/create-late', c, thing('Leaver', 'late'))
    t.patch('delete/apply-late', c + '/late?fieldManager=a', 'apply', thing('Leaver', 'late'))
    t.get('delete/left', c)
    t.patch('delete/change', c + '/bound', 'merge', {'spec': {'a': 1}})
    t.delete('delete/definition-again', leavers)
    t.patch('delete/release', c + '/bound', 'merge', {'metadata': {'finalizers': None}})
    t.get('delete/gone', leavers, pause=6)
    t.get('delete/objects-gone', c)
    t.get('delete/discovery', f'/apis/{GROUP}/v1')

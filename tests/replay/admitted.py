"""Admission policies and webhooks at work: what policies.txt and hooks.txt say, and what webhooks are asked."""
import copy

from case import Topic
from hook import merge
from objects import tables

GROUP = '/apis/admissionregistration.k8s.io/v1/'
EVERYTHING = {'operations': ['*'], 'apiGroups': ['*'], 'apiVersions': ['*'], 'resources': ['*/*']}
MAPS = {'operations': ['*'], 'apiGroups': [''], 'apiVersions': ['v1'], 'resources': ['configmaps']}
SECTIONS = ('validating', 'mutating')


def answers():
    """Of the webhooks' server, by path."""
    found = {f'/{section}/{label}': parts[1] for section in SECTIONS for label, parts in tables('hooks.txt')[section]}
    found.update({f'/converting/{label}': parts[0] for label, parts in tables('custom.txt')['converting']})
    add = [{'op': 'add', 'path': '/metadata/labels/second', 'value': 'yes'}]
    return {**found, '/order/second': {'_patch': add}, '/order/first': {'_patch': [{'op': 'add', 'path': '/metadata/annotations', 'value': {'first': 'yes'}}]}}


def all_cases():
    return policies() + hooks()


def sent(namespace, name, section, label, change):
    body = {'apiVersion': 'v1', 'kind': 'ConfigMap', 'metadata': {'name': name, 'labels': {section: label}}}
    return f'/api/v1/namespaces/{namespace}/configmaps', merge(body, copy.deepcopy(change))


def send(t, namespace, section, label, changes):
    """ConfigMaps that a row's policy or webhook is to see."""
    for i, change in enumerate(changes or [{}]):
        id = f'{section}/{label}' + (f'-{i}' if i else '')
        if isinstance(change, tuple):
            path, body = sent(namespace, f'{section}-{label}-{i}', section, label, change[0])
            t.post(id + '-before', path, body)
            body = sent(namespace, f'{section}-{label}-{i}', section, label, change[1])[1]
            t.put(id, f'{path}/{section}-{label}-{i}?dryRun=All', body)
        else:
            path, body = sent(namespace, 'sent', section, label, change)
            t.post(id, path + '?dryRun=All', body)


def policies():
    t = Topic('policies')
    t.post('namespace', '/api/v1/namespaces', {'metadata': {'name': 'policies'}})
    maps = '/api/v1/namespaces/policies/configmaps'
    t.post('params/map', maps, {'metadata': {'name': 'params', 'labels': {'param': 'yes'}}, 'data': {'wanted': 'yes'}})
    t.post('params/second', maps, {'metadata': {'name': 'second', 'labels': {'param': 'yes'}}, 'data': {'wanted': 'other'}})
    t.post('params/widget', '/apis/replay.example.com/v1/namespaces/policies/widgets', {'apiVersion': 'replay.example.com/v1', 'kind': 'Widget', 'metadata': {'name': 'params'}, 'spec': {'color': 'red'}})
    rows = tables('policies.txt')
    made = set()

    def make(section, label, spec, binding):
        kind = f'{section.capitalize()}AdmissionPolicy'
        constraints = {'resourceRules': [MAPS], 'objectSelector': {'matchLabels': {section: label}}, **spec.get('matchConstraints', {})}
        spec = {**({'reinvocationPolicy': 'Never'} if section == 'mutating' else {}), **spec, 'matchConstraints': constraints}
        if section == 'validating':
            binding = {'validationActions': ['Deny'], **binding}
        name = label + '.example.com'
        for resource, kind, spec in ((f'{section}admissionpolicies', kind, spec), (f'{section}admissionpolicybindings', kind + 'Binding', {'policyName': name, **binding})):
            t.post(f'make/{section}-{label}-{kind}', GROUP + resource, {'apiVersion': 'admissionregistration.k8s.io/v1', 'kind': kind, 'metadata': {'name': name}, 'spec': spec}, only='status')
            made.add(resource)
    for label, (spec,) in rows['refused']:
        constraints = {'resourceRules': [MAPS], **spec.get('matchConstraints', {})}
        body = {'apiVersion': 'admissionregistration.k8s.io/v1', 'kind': 'ValidatingAdmissionPolicy', 'metadata': {'name': label}, 'spec': {**spec, 'matchConstraints': constraints}}
        t.post(f'refused/{label}', GROUP + 'validatingadmissionpolicies?dryRun=All', body)
    for section in SECTIONS:
        for label, (spec, binding, *_) in rows[section]:
            make(section, label, spec, binding)
    typed = {'apiGroups': ['apps', ''], 'apiVersions': ['v1'], 'operations': ['*'], 'resources': ['deployments', 'deployments/scale', 'deployments/status', 'pods', 'pods/exec', 'pods/eviction', 'serviceaccounts/token']}
    said = "request.operation + ' ' + request.resource.resource + ' ' + request.kind.kind + ' ' + (has(request.subResource) ? request.subResource : '-') + ' ' + string(object == null) + ' ' + string(oldObject == null)"
    own = {'namespaceSelector': {'matchLabels': {'kubernetes.io/metadata.name': 'policies'}}, 'objectSelector': {}, 'resourceRules': [typed]}
    make('validating', 'typed', {'matchConstraints': own, 'validations': [{'expression': "request.operation == 'CREATE' && !has(request.subResource)", 'messageExpression': said}]}, {'validationActions': ['Warn']})
    custom = {'resourceRules': [{'apiGroups': ['replay.example.com'], 'apiVersions': ['v1'], 'operations': ['*'], 'resources': ['*']}], 'objectSelector': {}}
    make('validating', 'custom', {'matchConstraints': custom, 'validations': [{'expression': 'object.spec.size < 5', 'messageExpression': "'size is ' + string(object.spec.size)"}]}, {})
    for section in SECTIONS:
        for i, (label, (_, _, *changes)) in enumerate(rows[section]):
            if not i:
                t.get(f'{section}-known', '/version', pause=3, only='status')
            send(t, 'policies', section, label, changes)
    pod = {'metadata': {'name': 'p'}, 'spec': {'containers': [{'name': 'c', 'image': 'i'}]}}
    meta = {'metadata': {'labels': {'app': 'x'}}, 'spec': pod['spec']}
    deployments, pods = '/apis/apps/v1/namespaces/policies/deployments', '/api/v1/namespaces/policies/pods'
    t.post('account', '/api/v1/namespaces/policies/serviceaccounts', {'metadata': {'name': 'default'}})
    t.post('typed/create', deployments, {'metadata': {'name': 'd'}, 'spec': {'selector': {'matchLabels': {'app': 'x'}}, 'template': meta}}, only='status')
    t.patch('typed/update', deployments + '/d', 'merge', {'metadata': {'labels': {'a': 'b'}}}, only='status')
    t.patch('typed/scale', deployments + '/d/scale', 'merge', {'spec': {'replicas': 3}}, only='status')
    t.patch('typed/status', deployments + '/d/status', 'merge', {'status': {'replicas': 3}}, only='status')
    t.delete('typed/delete', deployments + '/d', only='status')
    t.post('typed/pod', pods, pod, only='status')
    t.get('typed/exec', pods + '/p/exec?command=x')
    t.post('typed/eviction', pods + '/p/eviction', {'apiVersion': 'policy/v1', 'kind': 'Eviction', 'metadata': {'name': 'p'}}, only='status')
    t.post('typed/token', '/api/v1/namespaces/policies/serviceaccounts/default/token', {'apiVersion': 'authentication.k8s.io/v1', 'kind': 'TokenRequest', 'spec': {}}, only='status')
    t.delete('typed/collection', pods, only='status')
    widgets = '/apis/replay.example.com/v1/namespaces/policies/widgets'
    for label, spec in {'small': {'color': 'red', 'size': 1}, 'large': {'color': 'red', 'size': 7}, 'invalid': {'color': 'green', 'size': 7}}.items():
        t.post(f'custom/{label}', widgets + '?dryRun=All', {'apiVersion': 'replay.example.com/v1', 'kind': 'Widget', 'metadata': {'name': 'w'}, 'spec': spec})
    t.delete('custom/delete', widgets + '/params')
    path, body = sent('policies', 'sent', 'validating', 'deny', {'data': {'a b': 'c'}})
    t.post('order/invalid', path + '?dryRun=All', body)
    t.patch('order/apply', path + '/sent?fieldManager=a', 'apply', {**body, 'data': {}})
    t.post('order/user', path, {**body, 'data': {}}, user='jane')
    for resource in sorted(made):
        t.delete(f'unmake/{resource}', GROUP + resource, only='status')
    return t.cases


def hooks():
    t = Topic('hooks')
    for name in ('hooks', 'recorded'):
        t.post(f'namespace/{name}', '/api/v1/namespaces', {'metadata': {'name': name}})
    services = '/api/v1/namespaces/hooks/services'
    t.post('service/idle', services, {'metadata': {'name': 'idle'}, 'spec': {'selector': {'a': 'b'}, 'ports': [{'port': 443}]}}, only='status')
    t.post('service/external', services, {'metadata': {'name': 'external'}, 'spec': {'type': 'ExternalName', 'externalName': '127.0.0.1'}}, only='status')
    t.post('account', '/api/v1/namespaces/recorded/serviceaccounts', {'metadata': {'name': 'default'}})
    rows = tables('hooks.txt')

    def hook(section, label, given):
        own = {'url': f'${{hook:url}}/{section}/{label}', 'caBundle': '${hook:ca}'}
        return {'name': f'{label}.hooks.example.com', 'sideEffects': 'None', 'admissionReviewVersions': ['v1'], 'timeoutSeconds': 5, 'rules': [MAPS],
                'objectSelector': {'matchLabels': {section: label}}, 'clientConfig': own, **given}

    def configure(label, section, hooks):
        kind = f'{section.capitalize()}WebhookConfiguration'
        body = {'apiVersion': 'admissionregistration.k8s.io/v1', 'kind': kind, 'metadata': {'name': label}, 'webhooks': hooks}
        t.post(f'make/{label}', f'{GROUP}{kind.lower()}s', body, only='status')
        t.get(f'known/{label}', '/version', pause=1.5, only='status')
        return lambda: t.delete(f'unmake/{label}', f'{GROUP}{kind.lower()}s/{label}', only='status')
    for section in SECTIONS:
        unmake = configure('replay-' + section, section, [hook(section, label, given) for label, (given, *_) in rows[section]])
        for label, (_, _, *changes) in rows[section]:
            send(t, 'hooks', section, label, changes)
        unmake()
    order(t, hook, configure)
    recorded(t, hook, configure)
    return t.cases


def order(t, hook, configure):
    """Which of two webhooks is called, how often, and with what."""
    for policy in ('IfNeeded', 'Never'):
        given = {'objectSelector': {}, 'namespaceSelector': {'matchLabels': {'kubernetes.io/metadata.name': 'hooks'}}, 'reinvocationPolicy': policy}
        unmake = configure('order-' + policy.lower(), 'mutating', [hook('order', 'first', given), hook('order', 'second', given)])
        path, body = sent('hooks', 'sent', 'a', 'b', {})
        t.post(f'order/{policy}', path + '?dryRun=All', body)
        for label in ('first', 'second'):
            t(f'order/{policy}-{label}', 'HOOK', f'/order/{label}')
        unmake()


def recorded(t, hook, configure):
    """What a webhook is asked, for requests of all sorts."""
    only = {'objectSelector': {}, 'namespaceSelector': {'matchLabels': {'kubernetes.io/metadata.name': 'recorded'}}}
    scaled = {'operations': ['*'], 'apiGroups': ['autoscaling'], 'apiVersions': ['v2'], 'resources': ['horizontalpodautoscalers']}
    unmake = configure('recorded', 'validating', [
        hook('recorded', 'all', {**only, 'rules': [EVERYTHING]}),
        hook('recorded', 'exact', {**only, 'rules': [scaled], 'matchPolicy': 'Exact'}),
        hook('recorded', 'equivalent', {**only, 'rules': [scaled], 'matchPolicy': 'Equivalent'}),
        hook('recorded', 'beta', {**only, 'rules': [MAPS], 'admissionReviewVersions': ['v1beta1'], 'timeoutSeconds': 30, 'sideEffects': 'NoneOnDryRun'}),
        hook('recorded', 'later', {**only, 'rules': [{**MAPS, 'apiGroups': ['replay.example.com'], 'apiVersions': ['v2'], 'resources': ['gadgets', 'gadgets/status']}]})])

    def ask(label, method, path, body=None, heard=('all',), **more):
        t(f'recorded/{label}', method, path, body, only='status', **more)
        for name in heard:
            t(f'received/{label}-{name}', 'HOOK', f'/recorded/{name}', generated=more.get('generated', ''))
    ns, apps, hpa = '/api/v1/namespaces/recorded/', '/apis/apps/v1/namespaces/recorded/deployments', '/apis/autoscaling/v1/namespaces/recorded/horizontalpodautoscalers'
    map = {'apiVersion': 'v1', 'kind': 'ConfigMap', 'metadata': {'name': 'm'}, 'data': {'a': 'b'}}
    both = ('all', 'beta')
    ask('create', 'POST', ns + 'configmaps?fieldManager=me', map, both)
    ask('create-dry', 'POST', ns + 'configmaps?dryRun=All&fieldValidation=Strict', {**map, 'metadata': {'name': 'n'}}, both)
    ask('create-generate', 'POST', ns + 'configmaps?dryRun=All', {**map, 'metadata': {'generateName': 'gen-'}}, both, generated='gen-')
    ask('create-user', 'POST', ns + 'configmaps?dryRun=All', map, both, user='jane', headers={'Impersonate-Group': 'system:masters', 'Impersonate-Extra-Scopes': 'a', 'Impersonate-Uid': 'u1'})
    ask('update', 'PUT', ns + 'configmaps/m', {**map, 'data': {'a': 'c'}}, both)
    ask('patch', 'PATCH', ns + 'configmaps/m', {'data': {'a': 'd'}}, content='application/merge-patch+json')
    ask('apply', 'PATCH', ns + 'configmaps/m?fieldManager=f&force=true', map, content='application/apply-patch+yaml')
    ask('apply-create', 'PATCH', ns + 'configmaps/new?fieldManager=f', {**map, 'metadata': {'name': 'new'}}, content='application/apply-patch+yaml')
    ask('delete', 'DELETE', ns + 'configmaps/m?gracePeriodSeconds=0', {'propagationPolicy': 'Background'}, both)
    ask('delete-absent', 'DELETE', ns + 'configmaps/absent')
    ask('collection', 'DELETE', ns + 'configmaps?labelSelector=none')
    ask('collection-one', 'DELETE', ns + 'configmaps?fieldSelector=metadata.name%3Dnew')
    ask('get', 'GET', ns + 'configmaps/m')
    ask('invalid', 'POST', ns + 'configmaps', {**map, 'data': {'a b': 'c'}})
    pod = {'metadata': {'name': 'p'}, 'spec': {'containers': [{'name': 'c', 'image': 'i'}]}}
    ask('pod', 'POST', ns + 'pods', pod)
    ask('binding', 'POST', ns + 'pods/p/binding', {'apiVersion': 'v1', 'kind': 'Binding', 'metadata': {'name': 'p'}, 'target': {'kind': 'Node', 'name': 'absent'}})
    ask('exec', 'GET', ns + 'pods/p/exec?command=ls&container=c')
    ask('proxy', 'GET', ns + 'pods/p/proxy/x/y')
    ask('status', 'PATCH', ns + 'pods/p/status', {'status': {'message': 'm'}}, content='application/strategic-merge-patch+json')
    ask('ephemeral', 'PATCH', ns + 'pods/p/ephemeralcontainers', {'spec': {'ephemeralContainers': [{'name': 'e', 'image': 'i'}]}}, content='application/strategic-merge-patch+json')
    ask('eviction', 'POST', ns + 'pods/p/eviction', {'apiVersion': 'policy/v1', 'kind': 'Eviction', 'metadata': {'name': 'p'}})
    ask('pod-delete', 'DELETE', ns + 'pods/p?gracePeriodSeconds=0', heard=())
    t('received/pod-delete', 'HOOK', '/recorded/all', only='status')  # again and again upstream
    ask('token', 'POST', ns + 'serviceaccounts/default/token', {'apiVersion': 'authentication.k8s.io/v1', 'kind': 'TokenRequest', 'spec': {}})
    meta = {'metadata': {'labels': {'app': 'x'}}, 'spec': pod['spec']}
    ask('deployment', 'POST', apps, {'metadata': {'name': 'd'}, 'spec': {'selector': {'matchLabels': {'app': 'x'}}, 'template': meta}})
    ask('scale', 'PATCH', apps + '/d/scale', {'spec': {'replicas': 2}}, content='application/merge-patch+json')
    ask('scale-put', 'PUT', apps + '/d/scale', {'apiVersion': 'autoscaling/v1', 'kind': 'Scale', 'metadata': {'name': 'd', 'namespace': 'recorded'}, 'spec': {'replicas': 1}})
    ask('autoscaler', 'POST', hpa, {'metadata': {'name': 'h'}, 'spec': {'maxReplicas': 3, 'scaleTargetRef': {'kind': 'Deployment', 'name': 'd'}, 'targetCPUUtilizationPercentage': 50}}, ('all', 'exact', 'equivalent'))
    ask('autoscaler-patch', 'PATCH', hpa + '/h', {'spec': {'maxReplicas': 4}}, ('exact', 'equivalent'), content='application/merge-patch+json')
    ask('review', 'POST', '/apis/authorization.k8s.io/v1/namespaces/recorded/localsubjectaccessreviews', {'metadata': {'namespace': 'recorded'}, 'spec': {'user': 'x', 'resourceAttributes': {'namespace': 'recorded', 'verb': 'get', 'resource': 'pods'}}})
    ask('namespace', 'PATCH', '/api/v1/namespaces/recorded', {'metadata': {'labels': {'x': 'y'}}}, content='application/merge-patch+json')
    gadgets = '/apis/replay.example.com/v1/namespaces/recorded/gadgets'
    gadget = {'apiVersion': 'replay.example.com/v1', 'kind': 'Gadget', 'metadata': {'name': 'g'}, 'spec': {'size': 5, 'unknown': 1}}
    ask('custom', 'POST', gadgets, gadget, ('all', 'later'))
    ask('custom-status', 'PATCH', gadgets + '/g/status', {'status': {'a': 'b'}}, ('all', 'later'), content='application/merge-patch+json')
    ask('custom-v2', 'PATCH', gadgets.replace('/v1/', '/v2/') + '/g', {'spec': {'width': 6}}, ('all', 'later'), content='application/merge-patch+json')
    ask('custom-delete', 'DELETE', gadgets + '/g', None, ('all', 'later'))
    ask('event', 'POST', ns + 'events', {'metadata': {'name': 'e'}, 'involvedObject': {'kind': 'Pod', 'namespace': 'recorded'}})
    ask('lease', 'POST', '/apis/coordination.k8s.io/v1/namespaces/recorded/leases', {'metadata': {'name': 'l'}})
    unmake()

"""Cases that every kind gets: all verbs and encodings, and its object with every field changed in turn."""
import copy

from case import PARTIAL, PARTIALS, PATCHES, PROTOBUF, TABLE, YAML, Topic
from client import Raw
from objects import at, changed, leaves, wrong


class Kind:
    def __init__(self, version, resource, facts, value):
        self.version, self.resource = version, resource
        self.kind, self.namespaced = facts['kind'], facts['namespaced']
        self.verbs, self.subresources = facts['verbs'], facts['subresources']
        root = '/api/' if '/' not in version else '/apis/'
        self.everywhere = root + version + '/' + resource
        self.collection = root + version + ('/namespaces/replay/' if self.namespaced else '/') + resource
        self.value = {'apiVersion': version, 'kind': self.kind, **copy.deepcopy(value)}
        self.name = value['metadata']['name']
        self.item = self.collection + '/' + self.name.replace(':', '%3A')
        self.label = resource + ('' if '/' not in version else '.' + version.replace('/', '.'))


def name_of(path):
    return '.'.join(map(str, path))


def verbs(kind):
    t, k = Topic('verbs'), kind.label
    t.post(f'{k}/create-dry', kind.collection + '?dryRun=All', kind.value)
    t.post(f'{k}/create-empty', kind.collection, {'apiVersion': kind.version, 'kind': kind.kind, 'metadata': {'name': kind.name}})
    t.post(f'{k}/create-nameless', kind.collection, {'apiVersion': kind.version, 'kind': kind.kind})
    t.post(f'{k}/create-kindless', kind.collection + '?dryRun=All', {key: v for key, v in kind.value.items() if key != 'kind'})
    t.post(f'{k}/create-other-kind', kind.collection, {**kind.value, 'kind': 'Other'})
    t.post(f'{k}/create-other-version', kind.collection, {**kind.value, 'apiVersion': 'other.example.com/v1'})
    t.post(f'{k}/create-unknown-field', kind.collection + '?dryRun=All&fieldValidation=Strict', {**kind.value, 'unknownField': 1})
    t.post(f'{k}/create-warned-field', kind.collection + '?dryRun=All', {**kind.value, 'unknownField': 1})
    t.post(f'{k}/create-bad-name', kind.collection, {**kind.value, 'metadata': {'name': 'Bad_Name!/..'}})
    t.post(f'{k}/create-long-name', kind.collection, {**kind.value, 'metadata': {'name': 'x' * 254}})
    t.post(f'{k}/create-labels', kind.collection + '?dryRun=All', {**kind.value, 'metadata': {
        **kind.value['metadata'], 'labels': {'bad key!': 'v', 'k': 'bad value!', 'l': 'y' * 64}, 'annotations': {'Bad/Key/x': ''}}})
    t.post(f'{k}/create-generate', kind.collection + '?dryRun=All', {**kind.value, 'metadata': {
        'generateName': kind.name + '-'}}, generated=kind.name + '-')
    # The server says more of some of them a moment later.
    later = {'CustomResourceDefinition': ('status.conditions.1.status', 'True'), 'FlowSchema': ('status.conditions.0.type', 'Dangling'),
             'APIService': ('status.conditions.0.type', 'Available')}
    created = t.post(f'{k}/create', kind.collection, kind.value, fresh=kind.kind in later)
    t.post(f'{k}/create-again', kind.collection, kind.value)
    t.get(f'{k}/get', kind.item, until=later.get(kind.kind, ()))
    t.get(f'{k}/get-yaml', kind.item, accept=YAML)
    raw = t.get(f'{k}/get-protobuf', kind.item, accept=PROTOBUF, keep=True)
    t.get(f'{k}/get-table', kind.item, accept=TABLE)
    t.get(f'{k}/get-partial', kind.item, accept=PARTIAL)
    t.get(f'{k}/get-absent', kind.collection + '/absent')
    only = '?fieldSelector=metadata.name%3D' + kind.name.replace(':', '%3A')
    t.get(f'{k}/list', kind.collection + only)
    t.get(f'{k}/list-protobuf', kind.collection + only, accept=PROTOBUF)
    t.get(f'{k}/list-table', kind.collection + only, accept=TABLE)
    t.get(f'{k}/list-table-object', kind.collection + only + '&includeObject=Object', accept=TABLE)
    t.get(f'{k}/list-partial', kind.collection + only, accept=PARTIALS)
    t.get(f'{k}/list-labels', kind.collection + '?labelSelector=a%3Dnone,!b,c+notin+(d)')
    t.get(f'{k}/list-bad-field', kind.collection + '?fieldSelector=spec.nothing%3D1')
    t.get(f'{k}/list-everywhere', kind.everywhere + only, accept=PARTIALS)
    t.get(f'{k}/watch', kind.collection + only + '&watch=1', events=1)
    t.put(f'{k}/update-same', kind.item, kind.value)
    t.put(f'{k}/update-protobuf', kind.item + '?dryRun=All', Raw(raw), content=PROTOBUF)
    t.put(f'{k}/update-stale', kind.item, {**kind.value, 'metadata': {**kind.value['metadata'], 'resourceVersion': '1'}})
    t.put(f'{k}/update-other-name', kind.item, {**kind.value, 'metadata': {'name': 'other'}})
    t.put(f'{k}/update-uid', kind.item, {**kind.value, 'metadata': {**kind.value['metadata'], 'uid': 'other'}})
    t.put(f'{k}/update-absent', kind.collection + '/absent', {**kind.value, 'metadata': {'name': 'absent'}})
    label = {'metadata': {'labels': {'patched': 'merge'}}}
    t.patch(f'{k}/patch-merge', kind.item, 'merge', label)
    t.patch(f'{k}/patch-strategic', kind.item, 'strategic', {'metadata': {'labels': {'patched': 'strategic'}, 'finalizers': ['example.com/a']}})
    t.patch(f'{k}/patch-strategic-delete', kind.item, 'strategic', {'metadata': {'$deleteFromPrimitiveList/finalizers': ['example.com/a'], 'labels': {'$patch': 'replace', 'z': 'z'}}})
    t.patch(f'{k}/patch-json', kind.item, 'json', [{'op': 'add', 'path': '/metadata/annotations', 'value': {'patched': 'json'}}])
    t.patch(f'{k}/patch-json-test', kind.item, 'json', [{'op': 'test', 'path': '/metadata/name', 'value': 'nothing'}])
    bare = {'apiVersion': kind.version, 'kind': kind.kind, 'metadata': {'name': kind.name}}
    t.patch(f'{k}/apply', kind.item + '?fieldManager=one', 'apply', {**bare, 'metadata': {'name': kind.name, 'labels': {'applied': 'one'}}})
    t.patch(f'{k}/apply-conflict', kind.item + '?fieldManager=two', 'apply', {**bare, 'metadata': {'name': kind.name, 'labels': {'applied': 'two'}}})
    t.patch(f'{k}/apply-force', kind.item + '?fieldManager=two&force=true', 'apply', {**bare, 'metadata': {'name': kind.name, 'labels': {'applied': 'two'}}})
    t.patch(f'{k}/apply-all', kind.item + '?fieldManager=three&force=true&dryRun=All', 'apply', kind.value)
    t.patch(f'{k}/apply-nameless-manager', kind.item, 'apply', bare)
    if 'status' in kind.subresources:
        t.get(f'{k}/status-get', kind.item + '/status')
        t.patch(f'{k}/status-patch', kind.item + '/status?dryRun=All', 'merge', {'metadata': {'labels': {'no': 'no'}, 'annotations': {'by': 'status'}}, 'spec': None})
        t.patch(f'{k}/status-unknown', kind.item + '/status?dryRun=All&fieldValidation=Strict', 'merge', {'status': {'unknownField': 1}})
    if 'scale' in kind.subresources:
        scale = t.get(f'{k}/scale-get', kind.item + '/scale')
        t.get(f'{k}/scale-table', kind.item + '/scale', accept=TABLE)
        t.get(f'{k}/scale-protobuf', kind.item + '/scale', accept=PROTOBUF)
        t.patch(f'{k}/scale-patch', kind.item + '/scale', 'merge', {'spec': {'replicas': 3}})
        t.patch(f'{k}/scale-negative', kind.item + '/scale', 'merge', {'spec': {'replicas': -3}})
        t.put(f'{k}/scale-put', kind.item + '/scale', {'apiVersion': 'autoscaling/v1', 'kind': 'Scale', 'metadata': {'name': kind.name, 'namespace': 'replay'}, 'spec': {'replicas': 1}})
        t.put(f'{k}/scale-put-stale', kind.item + '/scale', {'apiVersion': 'autoscaling/v1', 'kind': 'Scale', 'metadata': {'name': kind.name, 'namespace': 'replay', 'resourceVersion': '1'}, 'spec': {'replicas': 1}})
        t.put(f'{k}/scale-put-wrong', kind.item + '/scale', kind.value)
    return t.cases


def fields(kind):
    """Created with every field changed in turn; decoding first, then each of what does not fit."""
    t, k = Topic('fields'), kind.label
    for path in leaves(kind.value):
        value = at(kind.value, path)
        if len(path) <= 2:
            odd = {'x': 1} if isinstance(value, (str, int)) else 'text'
            t.post(f'{k}/{name_of(path)}/type', kind.collection + '?dryRun=All', changed(kind.value, path, odd))
        for change, new in wrong(value):
            t.post(f'{k}/{name_of(path)}/{change}', kind.collection + '?dryRun=All', changed(kind.value, path, new))
    return t.cases


def updates(kind):
    """Updated with every field changed in turn: what may not change, and what may change to what."""
    t, k = Topic('updates'), kind.label
    for path in leaves(kind.value):
        if len(path) > 5:
            continue
        value = at(kind.value, path)
        for change, new in wrong(value):
            if change in ('negative', 'bad', 'empty', 'none'):
                continue
            t.put(f'{k}/{name_of(path)}/{change}', kind.item + '?dryRun=All', changed(kind.value, path, new))
        if isinstance(value, str):
            t.put(f'{k}/{name_of(path)}/other', kind.item + '?dryRun=All', changed(kind.value, path, 'other'))
    return t.cases


def deletes(kind):
    t, k = Topic('delete'), kind.label
    only = '?fieldSelector=metadata.name%3D' + kind.name.replace(':', '%3A')
    t.get(f'{k}/list-after', kind.collection + only, accept=TABLE)
    t.post(f'{k}/post-item', kind.item, kind.value)
    t.delete(f'{k}/delete-dry', kind.item + '?dryRun=All')
    t.delete(f'{k}/delete-precondition', kind.item, {'preconditions': {'uid': 'other'}})
    t.delete(f'{k}/delete-revision', kind.item, {'preconditions': {'resourceVersion': '1'}})
    t.delete(f'{k}/delete-bad', kind.item, {'propagationPolicy': 'Sometimes'})
    t.delete(f'{k}/delete-foreground', kind.item + '?dryRun=All', {'propagationPolicy': 'Foreground'})
    t.delete(f'{k}/delete-absent', kind.collection + '/absent')
    t.patch(f'{k}/free', kind.item, 'merge', {'metadata': {'finalizers': None}})
    t.delete(f'{k}/delete', kind.item + '?gracePeriodSeconds=0')
    t.get(f'{k}/get', kind.item)
    if 'deletecollection' in kind.verbs:
        t.delete(f'{k}/collection', kind.collection + '?labelSelector=none%3Dnone')
    return t.cases

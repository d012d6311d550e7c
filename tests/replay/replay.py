#!/usr/bin/env python3
"""Sends the same requests to upstream's kube-apiserver and to Sampan's API server, and tells where answers differ.

replay.py record --url U --ca F --cert F --key F     asks upstream; writes golden.xz (with --only: those answers in it)
replay.py compare --url U --ca F --cert F --key F    asks Sampan; compares with golden.xz, accepted.txt and todo.txt
replay.py todo    ...                                as compare, and writes the cases that differ to todo.txt
Both take --only REGEX of ids (cases that they stand on are then missing: use topics), and --keep DIR for raw answers.
"""
import argparse
import fnmatch
import json
import lzma
import os
import re
import sys
import time

import kinds
import mask
import objects
from client import Server
from hook import Hook

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, 'golden.xz')
TODO = os.path.join(HERE, 'todo.txt')
ACCEPTED = os.path.join(HERE, 'accepted.txt')


def discover(server):
    """{(group/version, resource): what discovery says of it}"""
    from case import Case
    found = {}

    def ask(path):
        return json.loads(server.send(Case('discover', 'GET', path))[2])
    versions = [('/api/v1', 'v1')]
    for group in ask('/apis')['groups']:
        versions += [('/apis/' + v['groupVersion'], v['groupVersion']) for v in group['versions']]
    for path, version in versions:
        for entry in ask(path)['resources']:
            name, _, subresource = entry['name'].partition('/')
            if subresource:
                found[version, name]['subresources'].append(subresource)
            else:
                found[version, name] = {'kind': entry['kind'], 'namespaced': entry['namespaced'], 'verbs': entry['verbs'], 'subresources': []}
    return found


def cases(facts):
    import admitted
    import custom
    import special
    table = objects.load()
    all_kinds = [kinds.Kind(version, resource, facts[version, resource], value) for (version, resource), value in table.items()]
    out = special.before(facts, set(table))
    for kind in all_kinds:
        out += kinds.fields(kind) + kinds.verbs(kind) + kinds.updates(kind) + kinds.deletes(kind)
    return out + special.after() + custom.all_cases() + admitted.all_cases()


def run(server, wanted, keep, all_cases):
    import admitted
    answers, started = {}, time.monotonic()
    server.hook = Hook(admitted.answers())
    server.answers['hook'] = server.hook.told
    if keep:
        os.makedirs(keep, exist_ok=True)
    for case in all_cases:
        if wanted and not re.search(wanted, case.id) and not case.id.startswith('setup/'):
            continue
        status, headers, data, request = server.send(case)
        answers[case.id] = mask.answer(case, status, headers, data, request)
        if keep:
            with open(os.path.join(keep, case.id.replace('/', '~')[:200]), 'wb') as file:
                file.write(f'{case.method} {request}\n{status} {headers}\n'.encode() + data)
    print(f'replay: {len(answers)} answers in {time.monotonic() - started:.1f} s', file=sys.stderr)
    return answers


def told(answer):
    """What an answer says, in short."""
    body = answer.get('json')
    body = body if isinstance(body, dict) else {}
    return f"{answer['status']} {body.get('message') or body.get('kind') or short(answer.get('text', ''))}"


def causes(answer):
    """Why an object was refused, a line each."""
    body = answer.get('json')
    details = body.get('details') if isinstance(body, dict) else None
    found = details.get('causes') if isinstance(details, dict) else None
    return [f"{cause.get('field')}: {cause.get('reason')}: {cause.get('message')}" for cause in found or []]


def differing(wanted, got):
    """Lines that say where two answers differ. What follows from another line is not said again."""
    if wanted['status'] == 0:
        return []  # upstream fell over
    if wanted['status'] != got['status']:
        return [f'{told(got)}, wanted {told(wanted)}']
    one, other = causes(wanted), causes(got)
    if one != other:
        lines = [f'not wanted: {cause}' for cause in other if cause not in one]
        lines += [f'missing: {cause}' for cause in one if cause not in other]
        return lines or [f'in another order: {other}, wanted {one}']
    lines = list(differences(wanted, got))
    return lines


def differences(wanted, got, path=''):
    """Lines that say where two values differ; the order of members counts."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        for key in [*wanted, *(k for k in got if k not in wanted)]:
            here = f'{path}.{key}' if path else str(key)
            if key not in got:
                yield f'{here}: missing, wanted {short(wanted[key])}'
            elif key not in wanted:
                yield f'{here}: not wanted: {short(got[key])}'
            else:
                yield from differences(wanted[key], got[key], here)
        if list(wanted) != list(got) and set(wanted) == set(got):
            yield f'{path}: members in another order: {list(got)}, wanted {list(wanted)}'
    elif isinstance(wanted, list) and isinstance(got, list) and len(wanted) == len(got):
        for index, (one, other) in enumerate(zip(wanted, got)):
            yield from differences(one, other, f'{path}[{index}]')
    elif wanted != got or type(wanted) is not type(got):
        yield f'{path}: {short(got)}, wanted {short(wanted)}'


def short(value):
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) < 700 else text[:700] + '...'


def accepted_rules():
    """Lines "ID-PATTERN | DIFFERENCE-PATTERN | why", with * and ?."""
    rules = []
    for line in open(ACCEPTED):
        if line.strip() and not line.startswith('#'):
            case, difference, why = (part.strip() for part in line.split(' | ', 2))
            rules.append((re.compile(fnmatch.translate(case)), re.compile(fnmatch.translate(difference)), why))
    return rules


def read_todo():
    """Cases that are known to differ and are to be mended: topic/kind, then what is left of their ids."""
    known = set()
    for line in open(TODO):
        if not line.startswith('#'):
            head, *rest = line.split()
            known.update(f'{head}/{one}' for one in rest)
    return known


def write_todo(cases):
    heads = {}
    for case in cases:
        topic, kind, rest = (case.split('/', 2) + [''])[:3] if case.count('/') > 1 else (*case.split('/'), None)
        heads.setdefault(topic if rest is None else f'{topic}/{kind}', []).append(kind if rest is None else rest)
    with open(TODO, 'w') as file:
        file.write('# Cases that differ and are to be mended; written by "replay.py todo". What is not here must be the same or accepted.\n')
        for head, rest in sorted(heads.items()):
            file.write(' '.join([head, *sorted(rest)]) + '\n')


def report(golden, answers, verbose, rewrite):
    rules, totals, different, todo = accepted_rules(), {}, 0, set() if rewrite else read_todo()
    differing_cases, mended = [], []
    for case, got in answers.items():
        topic = case.split('/')[0]
        count = totals.setdefault(topic, [0, 0, 0, 0])
        wanted = golden.get(case)
        found = ['not recorded'] if wanted is None else differing(wanted, got)
        left = [d for d in found if not any(c.match(case) and p.match(d) for c, p, _ in rules)]
        known = case in todo
        if left:
            differing_cases.append(case)
        elif known:
            mended.append(case)
        count[3 if left and not known else 2 if left else 1 if found else 0] += 1
        if left and (not known or verbose):
            different += 1
            if verbose or different <= 100:
                print(case)
                for line in left[:12]:
                    print('    ' + line)
    if rewrite:
        write_todo(differing_cases)
    if mended:
        print(f'replay: mended, to be taken out of todo.txt: {" ".join(mended[:20])}{" ..." if len(mended) > 20 else ""}')
    for topic, (same, accepted, later, differ) in totals.items():
        print(f'replay: {topic}: {same} same, {accepted} accepted, {later} to do, {differ} different')
    same, accepted, later, differ = (sum(count[i] for count in totals.values()) for i in range(4))
    print(f'replay: {same} same, {accepted} accepted, {later} to do, {differ} different')
    return 0 if rewrite else differ


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('what', choices=['record', 'compare', 'todo', 'list'])
    for name in ('url', 'ca', 'cert', 'key', 'only', 'keep', 'golden'):
        parser.add_argument('--' + name)
    parser.add_argument('--verbose', action='store_true')
    args = parser.parse_args()
    golden_file = args.golden or GOLDEN
    if args.what == 'record':
        server = Server(args.url, args.ca, args.cert, args.key)
        facts = discover(server)
        answers = run(server, args.only, args.keep, cases(facts))
        if args.only:
            with lzma.open(golden_file, 'rt') as file:
                answers = {**json.load(file)['answers'], **answers}
        stored = {'facts': [[*key, value] for key, value in facts.items()], 'answers': answers}
        with lzma.open(golden_file, 'wt', preset=9) as file:
            json.dump(stored, file, ensure_ascii=False, separators=(',', ':'))
        return 0
    with lzma.open(golden_file, 'rt') as file:
        golden = json.load(file)
    all_cases = cases({(version, resource): value for version, resource, value in golden['facts']})
    if args.what == 'list':
        print('\n'.join(case.id for case in all_cases))
        return 0
    server = Server(args.url, args.ca, args.cert, args.key)
    return 1 if report(golden['answers'], run(server, args.only, args.keep, all_cases), args.verbose, args.what == 'todo') else 0


if __name__ == '__main__':
    sys.exit(main())

"""Nests: deep.py OPEN CLOSE TIMES [OPEN CLOSE TIMES]..., or deep.py proto TIMES: a CustomResourceDefinition in protobuf."""

import sys


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])


def field(number, body):
    return varint(number << 3 | 2) + varint(len(body)) + body


words = sys.argv[1:]
if words[0] == "proto":
    # JSONSchemaProps.not, CustomResourceValidation.openAPIV3Schema, the version's schema, the spec's versions, spec;
    # the innermost first, so that the whole is written once.
    heads, length = [], 0
    for number in [28] * int(words[1]) + [1, 4, 7, 2]:
        head = varint(number << 3 | 2) + varint(length)
        heads.append(head)
        length += len(head)
    raw = b"".join(reversed(heads))
    kind = field(1, b"apiextensions.k8s.io/v1") + field(2, b"CustomResourceDefinition")
    sys.stdout.buffer.write(b"k8s\0" + field(1, kind) + field(2, raw))
else:
    triples = [words[at : at + 3] for at in range(0, len(words), 3)]
    opens = "".join(opened * int(times) for opened, _, times in triples)
    closes = "".join(closed * int(times) for _, closed, times in reversed(triples))
    print(opens + closes)

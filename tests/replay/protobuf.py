"""Protobuf without schemas, as lines: everything that was sent, but for what differs from run to run in metadata."""
MAGIC = b'k8s\0'


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError('a long varint')


def fields(data):
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise ValueError('field 0')
        if wire == 0:
            value, at = varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            value, at = data[at:at + size], at + size
        elif wire == 2:
            size, at = varint(data, at)
            if at + size > len(data):
                raise ValueError('cut off')
            value, at = data[at:at + size], at + size
        else:
            raise ValueError('a group')
        yield number, wire, value


def readable(data):
    try:
        text = data.decode()
    except ValueError:
        return None
    return text if all(c.isprintable() or c in '\n\t' for c in text) else None


def message(data, path, out):
    for number, wire, value in list(fields(data)):
        here = f'{path}.{number}'
        if wire == 0:
            # Seconds and nanoseconds of the clock.
            out.append(f'{here} TIME' if value > 1_750_000_000 and value < 4_000_000_000 else f'{here} {value}')
        elif wire != 2:
            out.append(f'{here} {value.hex()}')
        else:
            text = readable(value)
            if text is not None:
                # A revision: only metadata's 6th field, or a list's 2nd, is made of digits alone.
                digits = text.isdigit() and len(text) > 1 and (here.endswith('.1.6') or here.endswith('.1.2'))
                out.append(f'{here} {"RV" if digits else repr(text)}')
                continue
            try:
                inner = []
                message(value, here, inner)
                out.append(f'{here} {{')
                out.extend(inner)
            except (ValueError, IndexError):
                out.append(f'{here} {value.hex()}')


def dump(data):
    out = []
    if not data.startswith(MAGIC):
        return ['no magic', data.hex()[:200]]
    try:
        unknown = list(fields(data[4:]))
    except (ValueError, IndexError):
        return ['not a message', data.hex()[:200]]
    for number, _, value in unknown:
        if number == 2:
            message(value, '', out)
        elif number == 1:
            message(value, 'type', out)
        else:
            out.append(f'unknown.{number} {value!r}')
    return out

"""Archives that are broken or hostile, made from a good one: archives.py GOOD.tar DIRECTORY."""

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile

good_path, directory = sys.argv[1:]
good = open(good_path, "rb").read()
with tarfile.open(good_path) as tar:
    files = {member.name.removeprefix("./"): tar.extractfile(member).read() for member in tar if member.isfile()}
manifest = json.loads(files["manifest.json"])[0]
config = json.loads(files[manifest["Config"]])


def write(name, data):
    with open(os.path.join(directory, name), "wb") as out:
        out.write(data)


def pack(members):
    """A tar of (name or TarInfo, bytes)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for info, data in members:
            if isinstance(info, str):
                info = tarfile.TarInfo(info)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def image(name, layer, plain=None, **more):
    """A docker-archive whose one layer is these bytes; `plain` if its digest is not that of the bytes."""
    changed = {**json.loads(json.dumps(config)), **more}
    changed["rootfs"]["diff_ids"] = ["sha256:" + (plain or hashlib.sha256(layer).hexdigest())]
    rows = [{"Config": "config.json", "RepoTags": [f"example/{name}:1"], "Layers": ["layer.tar"]}]
    written = {"config.json": json.dumps(changed).encode(), "layer.tar": layer, "manifest.json": json.dumps(rows).encode()}
    write(f"{name}.tar", pack(written.items()))


write("truncated.tar", good[: len(good) * 6 // 10])
write("empty.tar", b"")
write("text.tar", b"this is no archive\n")
write("noise.tar", os.urandom(100_000))
write("cut.tar.gz", gzip.compress(good, 1)[:200_000])
write("no-manifest.tar", pack([(name, data) for name, data in files.items() if name != "manifest.json"]))
write("missing-layer.tar", pack([(name, data) for name, data in files.items() if not name.endswith(".tar")]))
write("garbled-manifest.tar", pack([*files.items(), ("manifest.json", b"[{")]))
image("wrong-digest", files[manifest["Layers"][0]], "0" * 64)
image("elsewhere", files[manifest["Layers"][0]], architecture="s390x")
image("parent", pack([("../escaped", b"escaped")]))
outside = directory + "/outside"
into = [link("x", outside), ("x/escaped", b"escaped"), link("etc", "/etc"), ("etc/escaped", b"escaped")]
image("absolute-link", pack(into))
image("hard-link", pack([link("h", "/etc/passwd", tarfile.LNKTYPE), ("h", b"escaped")]))
image("hard-link-up", pack([link("h", "../" * 12 + "etc/passwd", tarfile.LNKTYPE), ("h", b"escaped")]))
image("through-link", pack([link("d", "../" * 12), ("d/escaped", b"escaped")]))
os.mkdir(outside)

# A file of zeros that no disk would hold long, in a few kilobytes; and one that only says that it is large.
head = tarfile.TarInfo("zeros")
head.size = 1200 << 20
packed = subprocess.Popen(["zstd", "-q", "-1", "-c"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
with packed.stdin as into:
    into.write(head.tobuf())
    for _ in range(1200):
        into.write(bytes(1 << 20))
    into.write(bytes(1024))
image("bomb", packed.stdout.read(), "1" * 64)
head.size = 1 << 60
image("large", head.tobuf(tarfile.GNU_FORMAT) + bytes(4096))

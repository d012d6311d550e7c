"""A disk whose power may be cut: cutdisk.py serve DIR BASE, cutdisk.py replay BASE LOG OUT SEED FROM.

`serve` shows a file `disk`, at first what BASE holds, on a FUSE mount at DIR, for a loop device to stand on. Every write
and every flush goes to BASE.log, their number to BASE.seq. `replay` makes the disk as it may be after a cut at a random
moment later than FROM: all that was written before the last flush, and of what came after it any pieces.
"""
import ctypes, errno, os, random, struct, sys

FLUSH = 2**64 - 1
PIECE = 4096
RECORD = struct.Struct("<QI")


def serve(place, base):
    disk = os.open(base + ".now", os.O_RDWR | os.O_CREAT, 0o600)
    with open(base, "rb") as source:
        size = os.fstat(source.fileno()).st_size
        os.ftruncate(disk, size)
        at = 0
        while True:  # holes stay holes
            try:
                at = os.lseek(source.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            piece = os.pread(source.fileno(), 1 << 20, at)
            os.pwrite(disk, piece, at)
            at += len(piece)
    log = open(base + ".log", "wb", buffering=1 << 20)
    seq = os.open(base + ".seq", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    count = 0

    def note(offset, data=b""):
        nonlocal count
        log.write(RECORD.pack(offset, len(data)))
        log.write(data)
        log.flush()
        count += 1
        os.pwrite(seq, b"%-12d\n" % count, 0)

    fuse = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = b"fd=%d,rootmode=40000,user_id=0,group_id=0,max_read=131072" % fuse
    if libc.mount(b"cutdisk", place.encode(), b"fuse", 0, options) != 0:
        sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")

    def attributes(node):
        mode, length = (0o40755, 0) if node == 1 else (0o100600, size)
        return struct.pack("<6Q10I", node, length, length // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    while True:
        try:
            request = os.read(fuse, (1 << 20) + 8192)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            continue
        _, what, unique, node = struct.unpack_from("<IIQQ", request)
        body, failed, answer = request[40:], 0, b""
        if what == 26:  # INIT: writes of up to 1 MiB
            answer = struct.pack("<IIIIHHIIHHII24x", 7, 31, 1 << 17, 1 << 5 | 1 << 22, 16, 12, 1 << 20, 1, 256, 0, 0, 0)
        elif what == 1 and body.rstrip(b"\0") == b"disk":  # LOOKUP
            answer = struct.pack("<QQQQII", 2, 0, 3600, 3600, 0, 0) + attributes(2)
        elif what == 1:
            failed = errno.ENOENT
        elif what in (3, 4):  # GETATTR, SETATTR
            answer = struct.pack("<QII", 3600, 0, 0) + attributes(node)
        elif what in (14, 27):  # OPEN, OPENDIR
            answer = struct.pack("<QII", 1, 2, 0)
        elif what == 15:  # READ
            _, offset, length = struct.unpack_from("<QQI", body)
            answer = os.pread(disk, length, offset)
        elif what == 16:  # WRITE
            _, offset, length = struct.unpack_from("<QQI", body)
            data = body[40 : 40 + length]
            os.pwrite(disk, data, offset)
            note(offset, data)
            answer = struct.pack("<II", length, 0)
        elif what == 20:  # FSYNC, which a loop device makes of a flush
            note(FLUSH)
        elif what == 17:  # STATFS
            answer = struct.pack("<5Q4I24x", size // 4096, 0, 0, 1, 0, 4096, 255, 4096, 0)
        elif what in (2, 36, 42):  # FORGET, INTERRUPT, BATCH_FORGET want no answer
            continue
        elif what not in (18, 25, 28, 29, 38):  # RELEASE, FLUSH, READDIR, RELEASEDIR, DESTROY
            failed = errno.ENOSYS
        try:
            os.write(fuse, struct.pack("<IiQ", 16 + len(answer), -failed, unique) + answer)
        except OSError:
            pass


def replay(base, log, out, seed, start):
    chance = random.Random(int(seed))
    records = []
    with open(log, "rb") as source:
        while head := source.read(RECORD.size):
            if len(head) < RECORD.size:
                break
            offset, length = RECORD.unpack(head)
            records.append((offset, source.tell(), length))
            source.seek(length, 1)
        cut = chance.randint(min(int(start), len(records)), len(records))
        flushed = max((n for n in range(cut) if records[n][0] == FLUSH), default=0)
        os.system(f"cp --sparse=always '{base}' '{out}'")
        disk = os.open(out, os.O_RDWR)
        lost = 0
        for n, (offset, at, length) in enumerate(records[:cut]):
            if offset == FLUSH:
                continue
            source.seek(at)
            data = source.read(length)
            for piece in range(0, length, PIECE):
                if n < flushed or chance.random() < 0.5:
                    os.pwrite(disk, data[piece : piece + PIECE], offset + piece)
                else:
                    lost += 1
    print(f"{cut} {len(records)} {lost}")


if sys.argv[1] == "serve":
    serve(*sys.argv[2:])
else:
    replay(*sys.argv[2:])

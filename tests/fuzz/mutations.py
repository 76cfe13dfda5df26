"""How a valid input is changed: as bytes, and as what it is (JSON, safetensors, NumPy's arrays, pickles, zip archives)."""

import copy
import io
import json
import math
import os
import struct
import zipfile

NUMBERS = (0, 1, -1, 2, 3, 7, 8, 255, 256, 1000, 65_535, 2**31 - 1, 2**31, 2**32, 2**53, 2**63, 2**64, 10**19, 10**400)
FLOATS = (0.5, -0.0, 1e-300, 1e300, float("nan"), float("inf"), float("-inf"))
TEXTS = (
    "",
    "a",
    "\0",
    "\n",
    "\x1b[2J",
    "\x9b",
    "\u202e",
    "../a",
    "/etc/passwd",
    "x" * 300,
    "é猫",
    "0",
    "1e9",
    "None",
    "weight",
    "{n}",
)
VALUES = (*NUMBERS, *FLOATS, *TEXTS, None, True, False, [], {}, [[]], [1], [0, 0], ["a"], {"a": 1}, {"": []})
OPCODES = (
    b"().012NIJKLMFGSTUVXBC]}laesudtbcioRQPpqrghj"
    b"\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96"
)


def change_bytes(rng, data):
    """One to four changes: bits, numbers, and pieces that go, come twice or move."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        length = min(rng.choice((1, 1, 2, 4, 8, 30, 200)), len(data) - at)
        kind = rng.randrange(8)
        if kind == 0 and length:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and length:
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            form = rng.choice(("<H", "<I", "<Q", ">H", ">I"))
            size = struct.calcsize(form)
            data[at : at + size] = struct.pack(form, rng.choice(NUMBERS[:-3]) % 256**size)
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[at : at + length] * rng.choice((1, 2, 50))
        elif kind == 5:
            data[at:at] = bytes(rng.randrange(256) for _ in range(length))
        elif kind == 6 and rng.random() < 0.3:
            del data[at:]
        elif kind == 7:
            to = rng.randrange(len(data) + 1)
            data[to : to + length] = data[at : at + length]
    return bytes(data)


def any_value(rng):
    return copy.deepcopy(rng.choice(VALUES))


def places(value):
    """The paths to everything in a JSON value, each before what lies in it."""
    found, left = [], [((), value)]
    while left:
        path, value = left.pop()
        found.append(path)
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        left += reversed([((*path, key), below) for key, below in inner])
    return found


def change_json(rng, value):
    """One to three values, names or items of a JSON value changed."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        path = rng.choice(places(value))
        if not path:
            if rng.random() < 0.03:
                return any_value(rng)
            continue
        target = value
        for key in path[:-1]:
            target = target[key]
        change_item(rng, target, path[-1])
    return value


def change_item(rng, target, key):
    kind, old = rng.randrange(8), target[key]
    if kind == 0:
        del target[key]
    elif kind == 1 and isinstance(target, dict):
        target[rng.choice((*TEXTS, f"{key}_", str(key).upper()))] = target.pop(key)
    elif kind == 2 and isinstance(target, dict):
        target[rng.choice(TEXTS)] = any_value(rng)
    elif kind == 3 and isinstance(target, list):
        target.insert(key, rng.choice((old, any_value(rng))))
    elif kind == 4:
        target[key] = copy.deepcopy(rng.choice(list(target.values() if isinstance(target, dict) else target)))
    elif kind == 5 and isinstance(old, int | float) and not isinstance(old, bool) and abs(old) < 1e300:
        target[key] = rng.choice((old + 1, old - 1, -old, old * 2, float(old), str(old), [old, old], old * 1000))
    elif kind == 6 and isinstance(old, str):
        target[key] = rng.choice((old[:-1], old + "x", old.upper(), [old], {old: old}, old * 100))
    else:
        target[key] = any_value(rng)


def json_bytes(rng, value, bytewise=0.1):
    """A value as JSON text; now and then with a name twice, or damaged."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.03 and text.startswith("{"):
        text = '{"a": 1, "a": 2,' + text[1:]
    data = text.encode(errors="surrogatepass")
    return change_bytes(rng, data) if rng.random() < bytewise else data


def change_safetensors(rng, data):
    """The header as JSON, or the file as bytes."""
    if rng.random() < 0.2:
        return change_bytes(rng, data)
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    if rng.random() < 0.4:  # consistent: another shape of as many numbers, or another name
        entry = rng.choice([entry for name, entry in header.items() if name != "__metadata__"])
        shape = entry["shape"]
        entry["shape"] = rng.choice((shape[::-1], [*shape, 1], [1, *shape], [math.prod(shape)], shape[:1]))
        for name in rng.sample(list(header), min(2, len(header))):
            if name != "__metadata__" and rng.random() < 0.4:
                header[rng.choice((name + "x", name.replace("0", "1"), rng.choice(TEXTS)))] = header.pop(name)
    elif "__metadata__" in header and rng.random() < 0.7:
        metadata = header["__metadata__"]
        name = rng.choice(list(metadata))
        try:
            metadata[name] = json.dumps(change_json(rng, json.loads(metadata[name])))
        except ValueError:
            metadata[name] = rng.choice(TEXTS)
    elif rng.random() < 0.5:  # tensors of no numbers, or of one
        entry = header[rng.choice([name for name in header if name != "__metadata__"])]
        entry |= {"shape": rng.choice(([], [0], [0, 2**40]))}
        return rebuilt(
            {name: entry for name, entry in header.items() if name != "__metadata__"}, body, header.get("__metadata__")
        )
    else:
        header = change_json(rng, header)
    text = json_bytes(rng, header, 0.05)
    return struct.pack("<Q", len(text)) + text + body


def rebuilt(entries, body, metadata):
    """A file whose places follow from its shapes."""
    sizes = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8}
    header, at = ({"__metadata__": metadata} if metadata else {}), 0
    for name, entry in entries.items():
        count = sizes.get(entry["dtype"], 1)
        for side in entry["shape"]:
            count *= side
        header[name] = {**entry, "data_offsets": [at, at + count]}
        at += count
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + (body + bytes(max(0, at - len(body))))[:at]


def change_npy(rng, data):
    """The header's text, or the file as bytes."""
    if rng.random() < 0.3:
        return change_bytes(rng, data)
    length = int.from_bytes(data[8:10], "little")
    header, body = data[10 : 10 + length].decode("latin-1"), data[10 + length :]
    if rng.random() < 0.5:
        dtypes = ("|S0", "|V0", "|O", "<f8", ">f4", "<c8", "|V2", "<U3", "<M8[s]", "<f2", "|b1", "<i8", "<f16", "|S2147483648")
        old = header.split("'")[3]
        header = header.replace(f"'{old}'", f"'{rng.choice(dtypes)}'", 1)
    if rng.random() < 0.5:
        shapes = (
            "()",
            "(0,)",
            "(-1,)",
            "(1,)",
            "(2, 3)",
            "(9223372036854775807, 2)",
            "(1" + "0" * 50 + ",)",
            "(None,)",
            "(1.5,)",
        )
        start = header.index("(")
        header = header[:start] + rng.choice(shapes) + header[header.index(")") + 1 :]
    if rng.random() < 0.2:
        header = change_bytes(rng, header.encode("latin-1")).decode("latin-1")
    text = header.encode("latin-1")[:60_000]
    return data[:8] + len(text).to_bytes(2, "little") + text + body


PIECES = (b"2\x86", b"}", b"h\0", b"r\xff\xff\xff\x0f", b"K\x01\x85", b"b", b"R", b"Q", b"u", b"0", b"]", b"N", b"a", b"0")


def change_pickle(rng, data):
    """Bytes, or opcodes: put in, changed, and pieces that come twice."""
    if rng.random() < 0.3:
        return change_bytes(rng, data)
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(2, len(data))
        kind = rng.randrange(4)
        if kind == 0:
            data[at:at] = bytes([rng.choice(OPCODES)])
        elif kind == 1:
            data[at] = rng.choice(OPCODES)
        elif kind == 2:
            data[at:at] = rng.choice(PIECES) * rng.choice((1, 2, 30))
        else:
            data[at:at] = data[max(2, at - rng.randrange(1, 40)) : at]
    return bytes(data)


def change_zip(rng, data, change):
    """A member changed by what it is, or renamed, compressed, left out; or the archive as bytes."""
    if rng.random() < 0.2:
        return change_bytes(rng, data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    kind = rng.randrange(10)
    if kind < 7:
        members[name] = change(rng, name, members[name])
    elif kind == 7:
        del members[name]
    elif kind == 8:
        members[rng.choice((name + "x", "../" + name, "/" + name, name.upper(), "a/" + name))] = members.pop(name)
    else:
        members[name] = bytes(rng.choice((0, 1, 1000, 100_000)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def change_npz(rng, data):
    return change_zip(rng, data, lambda rng, _, member: change_npy(rng, member))


def change_torch(rng, data):
    def change(rng, name, member):
        return change_pickle(rng, member) if name.endswith(".pkl") else change_bytes(rng, member)

    return change_zip(rng, data, change)


def change_words(rng, words, pool):
    """A command line: words that go, come, change places, or are changed."""
    words = list(words)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(words) + 1)
        kind = rng.randrange(5)
        if kind == 0 and words:
            del words[min(at, len(words) - 1)]
        elif kind == 1:
            words.insert(at, rng.choice(pool))
        elif kind == 2 and at < len(words):
            words[at] = rng.choice(pool)
        elif kind == 3 and at < len(words):
            words[at] = os.fsdecode(change_bytes(rng, os.fsencode(words[at]))).replace("\0", "")
        elif len(words) > 1:
            one, other = rng.sample(range(len(words)), 2)
            words[one], words[other] = words[other], words[one]
    return words

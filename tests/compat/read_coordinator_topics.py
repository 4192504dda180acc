#!/usr/bin/env python3
"""Reads the segments of __consumer_offsets, __transaction_state and __share_group_state, by Kafka's schemas.

    read_coordinator_topics.py PARTITION_DIRECTORY ...

Shares no code with the crate: the schemas below are written down from Kafka's message definitions, and a small interpreter
reads them. Prints one JSON object for each record, in the order of the log. Exits with 1 if anything does not decode to
its last byte.
"""

import json
import os
import struct
import sys

# A field is (name, type[, tag]). Types: i8 i16 i32 i64 u16, string, string? (nullable), bytes, uuid, [type], [type]?, or a
# list of fields for a struct. A schema is "flexible" if it uses compact lengths and tagged fields.
TOPIC_PARTITIONS = [("topic", "string"), ("partitions", "[i32]")]

OFFSET_KEY = [("group", "string"), ("topic", "string"), ("partition", "i32")]
OFFSET_VALUES = {
    0: (False, [("offset", "i64"), ("metadata", "string"), ("commit_timestamp", "i64")]),
    1: (False, [("offset", "i64"), ("metadata", "string"), ("commit_timestamp", "i64"), ("expire_timestamp", "i64")]),
    2: (False, [("offset", "i64"), ("metadata", "string"), ("commit_timestamp", "i64")]),
    3: (False, [("offset", "i64"), ("leader_epoch", "i32"), ("metadata", "string"), ("commit_timestamp", "i64")]),
    4: (True, [("offset", "i64"), ("leader_epoch", "i32"), ("metadata", "string"), ("commit_timestamp", "i64"),
               ("topic_id", "uuid", 0)]),
}


def group_value(version):
    member = [("member_id", "string")]
    if version >= 3:
        member.append(("group_instance_id", "string?"))
    member += [("client_id", "string"), ("client_host", "string")]
    if version >= 1:
        member.append(("rebalance_timeout", "i32"))
    member += [("session_timeout", "i32"), ("subscription", "bytes"), ("assignment", "bytes")]
    fields = [("protocol_type", "string"), ("generation", "i32"), ("protocol", "string?"), ("leader", "string?")]
    if version >= 2:
        fields.append(("current_state_timestamp", "i64"))
    return version >= 4, fields + [("members", [member])]


TRANSACTION_FIELDS = [
    ("producer_id", "i64"), ("producer_epoch", "i16"), ("transaction_timeout_ms", "i32"), ("transaction_status", "i8"),
    ("transaction_partitions", "?", TOPIC_PARTITIONS), ("last_update_timestamp_ms", "i64"),
    ("start_timestamp_ms", "i64"),
]
TRANSACTION_TAGS = {0: ("previous_producer_id", "i64"), 1: ("next_producer_id", "i64"),
                    2: ("client_transaction_version", "i16")}

SHARE_KEY = [("group_id", "string"), ("topic_id", "uuid"), ("partition", "i32")]
SHARE_TAGS = {0: ("delivery_complete_count", "i32")}
STATE_BATCH = [("first_offset", "i64"), ("last_offset", "i64"), ("delivery_state", "i8"), ("delivery_count", "i16")]
SHARE_SNAPSHOT = [
    ("snapshot_epoch", "i32"), ("state_epoch", "i32"), ("leader_epoch", "i32"), ("start_offset", "i64"),
    ("create_timestamp", "i64"), ("write_timestamp", "i64"), ("state_batches", [STATE_BATCH]),
]
SHARE_UPDATE = [
    ("snapshot_epoch", "i32"), ("leader_epoch", "i32"), ("start_offset", "i64"), ("state_batches", [STATE_BATCH]),
]

SUBSCRIPTION = {
    0: [("topics", "[string]"), ("user_data", "bytes?")],
    1: [("topics", "[string]"), ("user_data", "bytes?"), ("owned", [TOPIC_PARTITIONS])],
    2: [("topics", "[string]"), ("user_data", "bytes?"), ("owned", [TOPIC_PARTITIONS]), ("generation", "i32")],
    3: [("topics", "[string]"), ("user_data", "bytes?"), ("owned", [TOPIC_PARTITIONS]), ("generation", "i32"),
        ("rack", "string?")],
}
ASSIGNMENT = [("assigned", [TOPIC_PARTITIONS]), ("user_data", "bytes?")]


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, length):
        if length < 0 or self.at + length > len(self.data):
            raise ValueError(f"{length} bytes wanted at {self.at} of {len(self.data)}")
        self.at += length
        return self.data[self.at - length:self.at]

    def number(self, form):
        return struct.unpack(">" + form, self.take(struct.calcsize(form)))[0]

    def uvarint(self):
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def varint(self):
        value = self.uvarint()
        return (value >> 1) ^ -(value & 1)

    def end(self):
        if self.at != len(self.data):
            raise ValueError(f"{len(self.data) - self.at} bytes are left")


FORMS = {"i8": "b", "i16": "h", "u16": "H", "i32": "i", "i64": "q"}


def read(reader, kind, flexible):
    if isinstance(kind, list):
        # [fields]: an array of structs.
        count = reader.uvarint() - 1 if flexible else reader.number("i")
        return None if count < 0 else [struct_of(reader, kind[0], flexible) for _ in range(count)]
    if kind in FORMS:
        return reader.number(FORMS[kind])
    if kind == "uuid":
        return reader.take(16).hex()
    if kind.startswith("["):
        count = reader.uvarint() - 1 if flexible else reader.number("i")
        return [read(reader, kind[1:-1], flexible) for _ in range(count)]
    nullable, base = kind.endswith("?"), kind.rstrip("?")
    if flexible:
        length = reader.uvarint() - 1
    else:
        length = reader.number("h" if base == "string" else "i")
    if length < 0:
        if not nullable:
            raise ValueError(f"null where {kind} is expected")
        return None
    data = reader.take(length)
    return data.decode() if base == "string" else data.hex()


def struct_of(reader, fields, flexible, tags=None):
    found, by_tag = {}, dict(tags or {})
    for field in fields:
        if len(field) == 3 and field[1] == "?":
            found[field[0]] = read(reader, [field[2]], flexible)
        elif len(field) == 3:
            by_tag[field[2]] = (field[0], field[1])
        else:
            found[field[0]] = read(reader, field[1], flexible)
    if flexible:
        for _ in range(reader.uvarint()):
            tag, size = reader.uvarint(), reader.uvarint()
            inner = Reader(reader.take(size))
            if tag in by_tag:
                name, kind = by_tag[tag]
                found[name] = read(inner, kind, True)
                inner.end()
    return found


def whole(data, fields, flexible=False, tags=None):
    reader = Reader(data)
    reader.take(2)
    found = struct_of(reader, fields, flexible, tags)
    reader.end()
    return found


def version_of(data):
    return struct.unpack(">h", data[:2])[0]


def group_record(key, value):
    version = version_of(key)
    if version in (0, 1):
        found = {"type": "offset", **whole(key, OFFSET_KEY)}
        if value is not None:
            flexible, fields = OFFSET_VALUES[version_of(value)]
            found["value"] = whole(value, fields, flexible)
        return found
    if version == 2:
        found = {"type": "group", **whole(key, [("group", "string")])}
        if value is not None:
            flexible, fields = group_value(version_of(value))
            found["value"] = whole(value, fields, flexible)
            if found["value"]["protocol_type"] == "consumer":
                for member in found["value"]["members"]:
                    member["subscription"] = consumer(member["subscription"], SUBSCRIPTION)
                    member["assignment"] = consumer(member["assignment"], dict.fromkeys(range(4), ASSIGNMENT))
        return found
    return {"type": f"unknown key version {version}"}


def consumer(text, schemas):
    data = bytes.fromhex(text)
    return whole(data, schemas[min(version_of(data), 3)]) if data else None


def transaction_record(key, value):
    if version_of(key) != 0:
        return {"type": f"unknown key version {version_of(key)}"}
    found = {"type": "transaction", **whole(key, [("transactional_id", "string")])}
    if value is not None:
        version = version_of(value)
        found["value"] = whole(value, TRANSACTION_FIELDS, version >= 1, TRANSACTION_TAGS if version >= 1 else None)
    return found


def share_record(key, value):
    version = version_of(key)
    kind = {0: "share snapshot", 1: "share update"}.get(version, f"unknown key version {version}")
    found = {"type": kind, **whole(key, SHARE_KEY)}
    if value is not None and version in (0, 1):
        found["value"] = whole(value, SHARE_SNAPSHOT if version == 0 else SHARE_UPDATE, True, SHARE_TAGS)
    return found


READERS = {"__consumer_offsets": group_record, "__transaction_state": transaction_record,
           "__share_group_state": share_record}


def records_of(data):
    """The records of a log file, uncompressed batches of magic 2 alone."""
    at = 0
    while at < len(data):
        batch = Reader(data[at:])
        base = batch.number("q")
        length = batch.number("i")
        batch.number("i")
        if batch.number("b") != 2:
            raise ValueError(f"a batch of another magic at byte {at}")
        batch.number("I")
        attributes = batch.number("h")
        if attributes & 7:
            raise ValueError("compressed batches are not for coordinators")
        batch.number("i")
        first_timestamp = batch.number("q")
        batch.number("q")
        producer, epoch = batch.number("q"), batch.number("h")
        batch.number("i")
        for _ in range(batch.number("i")):
            record = Reader(batch.take(batch.varint()))
            record.take(1)
            timestamp = first_timestamp + record.varint()
            offset = base + record.varint()
            size = record.varint()
            key = None if size < 0 else record.take(size)
            size = record.varint()
            value = None if size < 0 else record.take(size)
            yield {"offset": offset, "timestamp": timestamp, "producer_id": producer, "producer_epoch": epoch,
                   "transactional": bool(attributes & 16), "control": bool(attributes & 32)}, key, value
        at += 12 + length


def main(directories):
    for directory in directories:
        topic, partition = os.path.basename(os.path.normpath(directory)).rsplit("-", 1)
        for name in sorted(name for name in os.listdir(directory) if name.endswith(".log")):
            with open(os.path.join(directory, name), "rb") as file:
                data = file.read()
            for about, key, value in records_of(data):
                row = {"log": f"{topic}-{partition}", **about}
                if about["control"]:
                    row["commit"] = key[3] == 1
                else:
                    row.update(READERS[topic](key, value))
                print(json.dumps(row))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, KeyError, IndexError, struct.error) as error:
        print(f"does not decode: {error!r}", file=sys.stderr)
        sys.exit(1)

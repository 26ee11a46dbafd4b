"""What strangers send to `rlvo serve`, byte for byte, and the status that each gets."""

import json
from dataclasses import dataclass, field
from typing import Any

TOKEN = "0123456789abcdef" * 4
CANARY = "CANARY"
"""In names and cells that callers choose; it must not turn up in a log or the audit."""


@dataclass(frozen=True)
class Attack:
    """A request, or what pretends to be one, and the status of its only answer."""

    status: int
    sent: bytes = field(repr=False)


def request(
    *headers: str,
    body: str | bytes = b"",
    line: str = "POST /invocations HTTP/1.1",
    host: str | None = "Host: localhost",
    token: str | None = f"Authorization: Bearer {TOKEN}",
    kind: str | None = "Content-Type: application/json",
    length: bool = True,
) -> bytes:
    """A request after which the connection closes; whatever is None is left out."""
    content = body.encode() if isinstance(body, str) else body
    given = [line, host, token, kind, "Connection: close", *headers]
    given.append(f"Content-Length: {len(content)}" if length else None)
    return "\r\n".join([each for each in given if each is not None] + ["", ""]).encode("latin-1") + content


def get(path: str, **options: Any) -> bytes:
    return request(line=f"GET {path} HTTP/1.1", kind=None, length=False, **options)


def records(*rows: dict[str, Any], **others: Any) -> bytes:
    return request(body=json.dumps({"dataframe_records": rows, **others}))


def split(columns: list[Any], *rows: list[Any]) -> bytes:
    return request(body=json.dumps({"dataframe_split": {"columns": columns, "data": rows}}))


def attacks(row: dict[str, Any], *, max_bytes: int, max_rows: int) -> dict[str, Attack]:
    """The table. `row` is a patient of the data root, where `link` leads out of it."""
    good = json.dumps({"dataframe_records": [row]})
    both = json.dumps({"dataframe_records": [row], "dataframe_split": {"columns": [], "data": []}})
    chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
    chunked = "Transfer-Encoding: chunked"

    def cell(**cells: Any) -> bytes:
        return records(row | cells)

    framing = {
        "zeros": (400, bytes(64) + b"\r\n\r\n"),
        "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32)),
        "a word": (400, b"HELLO\r\n\r\n"),
        "HTTP/2's preface": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        "a header without a colon": (400, get("/ping", host="Host localhost")),
        "a blank in a header's name": (400, request("Content Length: 5", body=good)),
        "NUL in a header": (400, request("X-A: a\0b", body=good)),
        "a header of 100 kB": (400, request(f"X-A: {'a' * 100_000}", body=good)),
        "10,000 headers": (400, request(*[f"X-{i}: a" for i in range(10_000)], body=good)),
        "a path of 100 kB": (400, get("/" + "a" * 100_000)),
        "no host": (400, get("/ping", host=None)),
        "two hosts": (400, get("/ping", host="Host: localhost\r\nHost: evil.example")),
        "another host": (400, get("/ping", host="Host: evil.example")),
        "a host that begins as ours": (400, get("/ping", host="Host: localhost.evil.example")),
        "a negative length": (400, request("Content-Length: -1", length=False)),
        "a length in words": (400, request("Content-Length: ten", length=False)),
        "a length with a sign": (400, request("Content-Length: +2", body="{}", length=False)),
        "two lengths": (400, request("Content-Length: 2", "Content-Length: 3", body="{}", length=False)),
        "a list of lengths": (400, request("Content-Length: 2, 3", body="{}", length=False)),
        "a length of 5,000 digits": (400, request(f"Content-Length: {'9' * 5000}", length=False)),
        "a length beyond the limit": (413, request(f"Content-Length: {max_bytes + 1}", length=False)),
        "a body beyond the limit": (413, request(body=json.dumps({"a": "a" * max_bytes}))),
        "a length and chunks": (400, request("Content-Length: 4", chunked, body=b"2\r\n{}\r\n0\r\n\r\n", length=False)),
        "chunks and a length": (400, request(chunked, "Content-Length: 4", body=b"2\r\n{}\r\n0\r\n\r\n", length=False)),
        "chunks": (411, request(chunked, body=b"2\r\n{}\r\n0\r\n\r\n", length=False)),
        "endless chunks": (413, request(chunked, body=chunk * (max_bytes // 4096 + 2), length=False)),
        "a chunk without a size": (400, request(chunked, body=b"zz\r\n{}\r\n0\r\n\r\n", length=False)),
        "a chunk of 10^30 bytes": (400, request(chunked, body=b"F" * 30 + b"\r\n{}\r\n0\r\n\r\n", length=False)),
        "another coding": (400, request("Transfer-Encoding: gzip, chunked", body=good, length=False)),
    }
    callers = {
        "no token": (401, request(body=good, token=None)),
        "a wrong token": (401, request(body=good, token=f"Authorization: Bearer {'0' * 64}")),
        "the token's beginning": (401, request(body=good, token=f"Authorization: Bearer {TOKEN[:-1]}")),
        "more than the token": (401, request(body=good, token=f"Authorization: Bearer {TOKEN}0")),
        "an empty token": (401, request(body=good, token="Authorization: Bearer ")),
        "a token that is not ASCII": (401, request(body=good, token="Authorization: Bearer \xe9\xff")),
        "a password": (401, request(body=good, token="Authorization: Basic cmx2bzpybHZv")),
        "the token in the address": (
            401,
            request(body=good, token=None, line=f"POST /invocations?token={TOKEN} HTTP/1.1"),
        ),
        "a wrong token before the right one": (
            401,
            request(body=good, token=f"Authorization: Bearer x\r\nAuthorization: Bearer {TOKEN}"),
        ),
        "metrics without a token": (401, get("/metrics", token=None)),
        "the version without a token": (401, get("/version", token=None)),
        "a path that is open and one that is not": (401, get("/ping/../metrics", token=None)),
    }
    addresses = {
        **{f"{method} /invocations": (405, request(line=f"{method} /invocations HTTP/1.1", body=good))
           for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO")},
        "POST /ping": (405, request(line="POST /ping HTTP/1.1", body=good)),
        "CONNECT": (404, request(line="CONNECT evil.example:443 HTTP/1.1", kind=None, length=False)),
        "a whole address": (404, get("http://evil.example/ping")),
        "/docs": (404, get("/docs")),
        "/openapi.json": (404, get("/openapi.json")),
        "/redoc": (404, get("/redoc")),
        "a path upwards": (404, get("/../../etc/passwd")),
        "an encoded path upwards": (404, get("/%2e%2e/%2e%2e/etc/passwd")),
        "an encoded NUL": (404, get("/ping%00")),
        "two slashes": (404, request(line="POST //invocations HTTP/1.1", body=good)),
        "a websocket": (405, get("/invocations", host="Host: localhost\r\nUpgrade: websocket\r\nConnection: upgrade")),
    }  # fmt: skip
    columns_of_their_own = [{"patient_id": id} | {f"{id}{i}": 1 for i in range(750)} for id in "ab"]
    bodies = {
        "no type": (415, request(body=good, kind=None)),
        "CSV": (415, request(body=good, kind="Content-Type: text/csv")),
        "Parquet": (415, request(body=good, kind="Content-Type: application/vnd.apache.parquet")),
        "a form": (415, request(body=good, kind="Content-Type: multipart/form-data; boundary=a")),
        "nothing": (400, request()),
        "torn": (400, request(body=good[:30])),
        "a list": (400, request(body="[1]")),
        "null": (400, request(body="null")),
        "an empty object": (400, request(body="{}")),
        "two tables": (400, request(body=both)),
        "instances": (400, request(body=json.dumps({"instances": [row]}))),
        "inputs": (400, request(body=json.dumps({"inputs": [row]}))),
        "a key more": (400, records(row, **{CANARY: 1})),
        "deep lists": (400, request(body="[" * 9000)),
        "deep objects": (400, request(body='{"a":' * 3000)),
        "a deep cell": (400, request(body=good.replace("[", "[" * 5000, 1))),
        "6,000 digits": (400, request(body='{"dataframe_records": [{"patient_id": "a", "age": ' + "9" * 6000 + "}]}")),
        "400 digits": (400, request(body='{"dataframe_records": [{"patient_id": "a", "age": ' + "9" * 400 + "}]}")),
        "2,000 cells that are none": (400, split([], [{}] * 2000)),
        "2,000 rows that are none": (400, split([], *[1] * 2000)),
        "2,000 columns that are none": (400, split([1] * 2000)),
        "1,500 columns": (400, cell(**{f"c{i}": 1 for i in range(1500)})),
        "1,500 columns, each of one row": (400, records(*columns_of_their_own)),
        "1,500 keys": (400, records(row, **{str(i): 1 for i in range(1500)})),
        "12,000 lists": (413, request(body='{"dataframe_records": [' + "[" * 12_000)),
        "not UTF-8": (400, request(body=good.encode() + b"\xff")),
        "UTF-16": (400, request(body=good.encode("utf-16"))),
        "half a surrogate": (400, request(body='{"dataframe_records": [{"patient_id": "\\ud800"}]}')),
        "ragged": (400, split(["patient_id", "age"], ["a"])),
        "a table without data": (400, request(body='{"dataframe_split": {"columns": ["patient_id"]}}')),
        "two columns of a name": (400, split(["patient_id", "age", "age"], ["a", 5, 6])),
        "two columns of ids": (400, split(["patient_id", "patient_id"], ["a", "b"])),
        "columns that are numbers": (400, split([1, 2], ["a", "b"])),
        "a list in a cell": (400, cell(age=[1])),
        "an object in a cell": (400, cell(age={"a": 1})),
        "no ids": (400, records({"age": 5})),
        "no rows": (400, records()),
        "an id twice": (400, records(row, row)),
        "an id twice, but for blanks": (400, records(row, row | {"patient_id": f" {row['patient_id']} "})),
        "no id": (400, cell(patient_id=None)),
        "two without an id": (400, records(row | {"patient_id": None}, row | {"patient_id": None})),
        "a blank id": (400, cell(patient_id="  ")),
        "a line break in an id": (400, cell(patient_id=f"{CANARY}\na")),
        "a control character in an id": (400, cell(patient_id=f"{CANARY}\x1b[2J")),
        "too many rows": (413, records(*[{"patient_id": str(i)} for i in range(max_rows + 1)])),
        "a number in two readings": (400, records(row | {"age": "1.234"}, row | {"patient_id": "b", "age": "150"})),
    }  # fmt: skip
    paths = {
        "a path outside": (403, cell(ncct="/etc/passwd")),
        "upwards": (403, cell(cta="../../etc/passwd")),
        "upwards after a folder": (403, cell(cta=f"{row['patient_id']}/../../etc/passwd")),
        "a link": (403, cell(cta="link/passwd")),
        "NUL in a path": (403, cell(cta="a\0b")),
        "the process's environment": (403, cell(cta="/proc/self/environ")),
        "a series outside": (403, cell(cta="/etc#1.2.3")),
        "a mask outside": (403, cell(vessels="/etc/passwd")),
        "a folder upwards": (403, records(row, params={"folder": ".."})),
        "a folder outside": (403, records(row, params={"folder": "/etc"})),
        "a linked folder": (403, records(row, params={"folder": "link"})),
        "a store": (400, records(row, params={"store": "/tmp"})),
        "an unknown precision": (400, records(row, params={"precision": CANARY})),
        "a parameter more": (400, records(row, params={CANARY: 1})),
        "a parameter of another type": (400, records(row, params={"members": {"a": 1}})),
    }
    answered = {
        "the token, written otherwise": (200, request(body=good, token=f"authorization: bearer {TOKEN}")),
        "columns that nobody knows": (
            200,
            cell(**{CANARY: CANARY, "__proto__": 1, "constructor": 2, f"{CANARY}\n": 3}),
        ),
        "a formula for an id": (200, cell(patient_id=f"=cmd|'{CANARY}'!A1")),
        "markup for an id": (200, cell(patient_id=f"<script>{CANARY}</script>")),
        "an id of 5 kB": (200, cell(patient_id=CANARY * 800)),
        "a number for an id": (200, cell(patient_id=7)),
        "infinite": (200, request(body=good.replace('"age": ', '"age": 1e999, "x": '))),
        "not a number": (200, request(body=good.replace('"age": ', '"age": NaN, "x": '))),
        "text for a number": (200, cell(age=CANARY)),
        "true for a number": (200, cell(age=True)),
        "a path of 5,000 characters": (200, cell(cta="a" * 5000)),
        "a URL for a path": (200, cell(cta="http://evil.example/a.nii.gz")),
        "a folder for a volume": (200, cell(cta=".")),
        "the table for a volume": (200, cell(cta="cohort.csv")),
        "no rows of a split": (200, split(["patient_id", "age"])),
        "300 columns": (200, cell(**{f"c{i}": i for i in range(300)})),
    }
    table = framing | callers | addresses | bodies | paths | answered
    return {name: Attack(*each) for name, each in table.items()}

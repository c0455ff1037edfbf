"""Downloads from a server that misbehaves: what is wanted arrives whole, or there is one error and nothing is lost."""

import gzip
import hashlib
import io
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from emgscribe.cli import main
from emgscribe.data import download
from emgscribe.data.download import choose, cost, fetch, fetch_bids, present
from emgscribe.data.splits import Listed
from emgscribe.errors import EmgscribeError

MakeSession = Callable[..., Path]


@dataclass
class Server:
    """Files by name, and what goes wrong: the faults of a name are used up one by one, then all is well."""

    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    sent: int = 0
    url: str = ""


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            name, ranged = self.path.rpartition("/")[2], self.headers.get("Range", "")
            server.asked.append((name, ranged))
            fault = (server.faults.get(name) or [""]).pop(0) if server.faults.get(name) else ""
            data = server.files.get(name)
            if fault.isdecimal() or data is None:
                self.send_response(int(fault or 404))
                self.send_header("Content-Length", "0")
                self.send_header("Retry-After", "0")
                self.end_headers()
                return
            start = int(ranged.removeprefix("bytes=").rstrip("-")) if ranged and fault != "ignores ranges" else 0
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = data[start:]
            self.send_response(206 if start else 200)
            if start:
                begin = start + 3 if fault == "another part" else start
                self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
            claimed = {"too long": len(body) + 999, "too short": len(body) - 999}.get(fault, len(body))
            self.send_header("Content-Length", str(claimed))
            self.send_header("ETag", '"other"' if fault == "changed" else '"one"')
            self.end_headers()
            body = body[: len(body) // 3] if fault == "drops" else body
            server.sent += len(body)
            self.wfile.write(body[:claimed])
            if fault in ("drops", "too long"):
                self.close_connection = True

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(made)) as listening:
        made.url = f"http://127.0.0.1:{listening.server_port}/data"
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield made
        listening.shutdown()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr(download.time, "sleep", waited.append)
    return waited


@pytest.fixture
def sessions(make_session: MakeSession) -> dict[str, bytes]:
    made = {}
    for number in range(3):
        name = f"2021-01-0{number + 1}-161000000{number}-keystrokes"
        emg = np.random.default_rng(number).normal(size=(3000, 2, 16))
        made[name] = make_session(name, emg=emg).read_bytes()
    return made


def wanted(sessions: dict[str, bytes], *, hashes: bool = True) -> list[Listed]:
    return [
        Listed(name, "user", len(data) * hashes, hashlib.sha256(data).hexdigest() * hashes)
        for name, data in sessions.items()
    ]


def archive(sessions: dict[str, bytes], change: Callable[[tarfile.TarFile], None] = lambda _: None) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        add(tar, "emg2qwerty-data/metadata.csv", b"user,session\n")
        add(tar, "emg2qwerty-data/2020-other.hdf5", b"x" * 5000)
        change(tar)
        for name, data in sessions.items():
            add(tar, f"emg2qwerty-data/{name}.hdf5", data)
        add(tar, "emg2qwerty-data/2022-last.hdf5", np.random.default_rng(9).bytes(3_000_000))
    return packed.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **fields: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field_name, value in fields.items():
        setattr(member, field_name, value)
    tar.addfile(member, io.BytesIO(data))


def fill(server: Server, sessions: dict[str, bytes], kind: str) -> str:
    if kind == "archive":
        server.files = {"all.tar.gz": archive(sessions)}
        return f"{server.url}/all.tar.gz"
    server.files = {f"{name}.hdf5": data for name, data in sessions.items()}
    return server.url


FAULTS = [
    *([], ["drops"], ["drops", "drops", "drops"], ["429"], ["503", "500"], ["too long"]),
    *(["drops", "ignores ranges"], ["drops", "another part"], ["drops", "429", "drops", "503"]),
]


@pytest.mark.parametrize("kind", ["archive", "mirror"])
@pytest.mark.parametrize("faults", FAULTS)
def test_the_requested_sessions_arrive_whatever_the_servers_faults(
    kind: str, faults: list[str], server: Server, sessions: dict[str, bytes], tmp_path: Path
) -> None:
    source, out = fill(server, sessions, kind), tmp_path / "out"
    server.faults = {name: list(faults) for name in server.files}
    paths = fetch(wanted(sessions), out, source)
    assert {path.stem: path.read_bytes() for path in paths} == sessions
    assert sorted(path.name for path in out.iterdir()) == [".lock", *(f"{name}.hdf5" for name in sessions)]
    asked = len(server.asked)
    assert fetch(wanted(sessions), out, source) == paths
    assert len(server.asked) == asked  # nothing twice


def test_after_a_broken_connection_nothing_is_fetched_twice(
    server: Server, sessions: dict[str, bytes], tmp_path: Path
) -> None:
    source = fill(server, sessions, "mirror")
    server.faults = {name: ["drops", "drops"] for name in server.files}
    fetch(wanted(sessions), tmp_path, source)
    assert server.sent == sum(map(len, sessions.values()))


def test_the_archive_is_read_no_further_than_needed(server: Server, sessions: dict[str, bytes], tmp_path: Path) -> None:
    fetch(wanted(sessions)[:1], tmp_path, fill(server, sessions, "archive"))
    assert len(list(tmp_path.glob("*.hdf5"))) == 1


@pytest.mark.parametrize("kind", ["archive", "mirror"])
@pytest.mark.parametrize("fault", ["403", "410"])
def test_a_request_with_a_final_error_is_not_repeated(
    kind: str, fault: str, server: Server, sessions: dict[str, bytes], tmp_path: Path
) -> None:
    source = fill(server, sessions, kind)
    server.faults = {name: [fault] for name in server.files}
    with pytest.raises(EmgscribeError, match=fault) as caught:
        fetch(wanted(sessions), tmp_path, source)
    assert caught.value.hint
    assert len(server.asked) == 1
    assert not list(tmp_path.glob("*.hdf5"))


@pytest.mark.parametrize("kind", ["archive", "mirror"])
def test_a_server_that_always_fails_gives_one_error(
    kind: str, server: Server, sessions: dict[str, bytes], tmp_path: Path, no_pauses: list[float]
) -> None:
    source = fill(server, sessions, kind)
    server.faults = {name: ["503"] * 99 for name in server.files}
    with pytest.raises(EmgscribeError, match="6 connections in a row failed"):
        fetch(wanted(sessions), tmp_path, source)
    assert len(no_pauses) == 6


def test_a_killed_download_resumes(server: Server, sessions: dict[str, bytes], tmp_path: Path) -> None:
    source = fill(server, sessions, "mirror")
    (first, *_) = sessions
    (tmp_path / f"{first}.hdf5.part").write_bytes(sessions[first][:100_000])
    paths = fetch(wanted(sessions), tmp_path, source)
    assert server.asked[0] == (f"{first}.hdf5", "bytes=100000-")
    assert {path.stem: path.read_bytes() for path in paths} == sessions
    (tmp_path / f"{first}.hdf5").rename(tmp_path / f"{first}.hdf5.part")  # killed before the last step
    assert fetch(wanted(sessions), tmp_path, source) == paths


def test_an_unfinished_file_longer_than_the_source_is_an_error(
    server: Server, sessions: dict[str, bytes], tmp_path: Path
) -> None:
    (first, *_) = sessions
    (tmp_path / f"{first}.hdf5.part").write_bytes(sessions[first] + b"x")
    with pytest.raises(EmgscribeError, match="shorter than the part on disk"):
        fetch(wanted(sessions), tmp_path, fill(server, sessions, "mirror"))


def test_a_file_that_changes_during_its_download_is_refused(
    server: Server, sessions: dict[str, bytes], tmp_path: Path
) -> None:
    source = fill(server, sessions, "mirror")
    server.faults = {name: ["drops", "changed"] for name in server.files}
    with pytest.raises(EmgscribeError, match="changed while it was fetched"):
        fetch(wanted(sessions), tmp_path, source)


def test_a_server_that_claims_too_short_a_length_gives_one_error(
    server: Server, sessions: dict[str, bytes], tmp_path: Path
) -> None:
    for kind in ("mirror", "archive"):
        source = fill(server, sessions, kind)
        server.faults = {name: ["too short"] for name in server.files}
        last = Listed("2022-last", "user", 0, "")
        with pytest.raises(EmgscribeError, match=r"is not the published session|ends early or is damaged"):
            fetch([*wanted(sessions), *[last] * (kind == "archive")], tmp_path / kind, source)
    assert {path.name for path in tmp_path.rglob("*.part")} == set()


@pytest.mark.parametrize("kind", ["archive", "mirror"])
@pytest.mark.parametrize("hashes", [True, False])
def test_a_file_that_is_not_the_published_session_is_not_kept(
    kind: str, hashes: bool, server: Server, sessions: dict[str, bytes], tmp_path: Path
) -> None:
    (first, *_) = sessions
    damaged = sessions | {first: sessions[first][:-1000] + (b"" if not hashes else b"x" * 1000)}
    with pytest.raises(EmgscribeError, match="is not the published session"):
        fetch(wanted(sessions, hashes=hashes), tmp_path, fill(server, damaged, kind))
    assert not list(tmp_path.glob("*.hdf5*"))


@pytest.mark.parametrize("cut", [10, 20_000, 1_000_000])
def test_a_truncated_archive_gives_one_error(
    cut: int, server: Server, sessions: dict[str, bytes], tmp_path: Path
) -> None:
    source = fill(server, sessions, "archive")
    server.files = {name: data[:cut] for name, data in server.files.items()}
    with pytest.raises(EmgscribeError, match=r"ends early or is damaged|does not hold"):
        fetch([*wanted(sessions), Listed("2022-last", "user", 0, "")], tmp_path, source)
    for path in tmp_path.glob("*.hdf5"):
        assert path.read_bytes() == sessions[path.stem]


def test_a_session_that_the_archive_lacks_is_named(server: Server, sessions: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(EmgscribeError, match="does not hold 1 of the sessions: 1999"):
        fetch([*wanted(sessions), Listed("1999", "user", 0, "")], tmp_path, fill(server, sessions, "archive"))
    assert len(list(tmp_path.glob("*.hdf5"))) == 3  # what was there is kept


def test_all_sessions_that_a_mirror_lacks_are_named_in_one_error(
    server: Server, sessions: dict[str, bytes], tmp_path: Path
) -> None:
    fill(server, sessions, "mirror")
    first, second, third = sessions
    del server.files[f"{first}.hdf5"], server.files[f"{second}.hdf5"]
    (folder := tmp_path / "files").mkdir()
    (folder / f"{third}.hdf5").write_bytes(sessions[third])
    for number, source in enumerate((server.url, str(folder))):
        out = tmp_path / str(number)
        with pytest.raises(EmgscribeError, match=f"does not hold 2 of the sessions: {first}, {second}\n") as caught:
            fetch(wanted(sessions), out, source)
        assert caught.value.where == source
        assert [path.stem for path in out.glob("*.hdf5")] == [third]


def hostile(kind: str, name: str) -> Callable[[tarfile.TarFile], None]:
    return {
        "traversal": lambda tar: add(tar, f"../../{name}.hdf5", b"x"),
        "absolute": lambda tar: add(tar, f"/tmp/{name}.hdf5", b"x"),
        "link": lambda tar: add(tar, f"a/{name}.hdf5", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        "hard link": lambda tar: add(tar, f"a/{name}.hdf5", type=tarfile.LNKTYPE, linkname="/etc/passwd"),
        "device": lambda tar: add(tar, f"a/{name}.hdf5", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
        "pipe": lambda tar: add(tar, f"a/{name}.hdf5", type=tarfile.FIFOTYPE),
        "folder": lambda tar: add(tar, f"a/{name}.hdf5", type=tarfile.DIRTYPE),
    }[kind]


@pytest.mark.parametrize("kind", ["traversal", "absolute", "link", "hard link", "device", "pipe", "folder"])
def test_hostile_members_are_refused(kind: str, server: Server, sessions: dict[str, bytes], tmp_path: Path) -> None:
    (first, *_) = sessions
    server.files = {"all.tar.gz": archive(sessions, hostile(kind, first))}
    with pytest.raises(EmgscribeError, match=r"is a link, a device or a folder|leads out of the archive"):
        fetch(wanted(sessions), tmp_path / "out", f"{server.url}/all.tar.gz")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    assert not (tmp_path / f"{first}.hdf5").exists()


def test_a_bomb_is_refused(tmp_path: Path, sessions: dict[str, bytes]) -> None:
    packed = tmp_path / "all.tar.gz"
    with gzip.open(packed, "wb", compresslevel=9) as file:
        member = tarfile.TarInfo("a/other.bin")
        member.size = 3 << 30
        file.write(member.tobuf())
        for _ in range(40):
            file.write(bytes(1 << 20))
    with pytest.raises(EmgscribeError, match="claims 3 GB in 0 MB"):
        fetch(wanted(sessions), tmp_path / "out", str(packed))


def test_a_folder_is_a_mirror_too(sessions: dict[str, bytes], tmp_path: Path) -> None:
    for name, data in sessions.items():
        (tmp_path / f"{name}.hdf5").write_bytes(data)
    paths = fetch(wanted(sessions), tmp_path / "out", str(tmp_path))
    assert {path.stem: path.read_bytes() for path in paths} == sessions
    with pytest.raises(EmgscribeError, match="does not hold 3 of the sessions"):
        fetch(wanted(sessions), tmp_path / "new", str(tmp_path / "nowhere"))


def test_too_little_disk_space_is_refused_before_the_download(
    sessions: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    class Usage:
        free = 10_000

    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(EmgscribeError, match=r"3 sessions take about 0\.0 GB"):
        fetch(wanted(sessions), tmp_path, fill(server, sessions, "mirror"))
    assert server.asked == []


def test_sessions_are_chosen_by_course_user_or_name() -> None:
    course = choose(course=True)
    assert (len(course), {one.user for one in course}) == (18, {"89335547"})
    assert all(one.bytes and one.sha256 for one in course)
    assert choose(sessions=["1622682789"]) == [one for one in course if "1622682789" in one.session]
    assert len({one.user for one in choose(users=["8"])}) == 8
    assert choose(users=["89335547"]) == course
    assert len(choose(users=["108"])) == 1135
    for wrong, message in (
        *(({}, "no session is chosen"), ({"users": ["0"]}, "no user '0'"), ({"users": ["x"]}, "no user")),
        *(({"sessions": ["2021"]}, "is part of"), ({"sessions": [""]}, "part of the names of 0")),
    ):
        with pytest.raises(EmgscribeError, match=message):
            choose(**wrong)  # type: ignore[arg-type]
    line = cost(course, course[:2], download.ARCHIVE)
    assert line.startswith("18 sessions, 2 of them here; 4.")
    assert "239 GB" in line


def test_key_logs_are_cloned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    origin = tmp_path / "origin"
    events = origin / "sub-1" / "ses-2" / "emg" / "sub-1_ses-2_task-typing_events.tsv"
    events.parent.mkdir(parents=True)
    events.write_text("onset\tduration\tsample\tvalue\tkey\tprompt_text\n1.0\t0.1\t2000\tkeystroke_a\ta\tn/a\n")
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"]):
        subprocess.run(["git", "-C", str(origin), *command], check=True)
    out = fetch_bids(tmp_path / "events", f"file://{origin}")
    assert (out / events.relative_to(origin)).read_text() == events.read_text()
    assert fetch_bids(out, f"file://{origin}") == out  # it is there
    with pytest.raises(EmgscribeError, match="not empty"):
        fetch_bids(origin.parent, f"file://{origin}")
    with pytest.raises(EmgscribeError, match="git failed"):
        fetch_bids(tmp_path / "new", f"file://{tmp_path}/nowhere")
    with pytest.raises(EmgscribeError, match="no user '9'"):
        fetch_bids(out, f"file://{origin}", users=["9"])
    assert not list(tmp_path.glob("new*"))
    assert main(["data", "get", "--labels-only", "--out", str(tmp_path / "more"), "--dry-run"]) == 0
    assert main(["data", "get", "--course", "--out", str(tmp_path / "more"), "--dry-run"]) == 0
    assert "would clone" in (shown := capsys.readouterr().out)
    assert "18 sessions, 0 of them here" in shown
    assert [line.split()[-1] for line in shown.splitlines()[1:-1]] == [one.session for one in choose(course=True)]
    assert present(choose(course=True), tmp_path) == []


def test_the_bids_copy_can_be_limited_only_by_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(download, "fetch_bids", lambda out, source, users: asked.append(users) or out)
    get = ["data", "get", "--out", str(tmp_path / "bids")]
    assert main([*get, "--bids", "--users", "8"]) == 0
    assert main([*get, "--labels-only"]) == 0
    assert asked == [list(dict.fromkeys(one.user for one in choose(users=["8"]))), []]
    assert main([*get, "--bids", "--users", "89335547", "--dry-run"]) == 0
    assert "60 MB, and 4.7 GB of EMG" in " ".join(capsys.readouterr().out.split())
    for one, other in (
        *(("--bids", "--course"), ("--bids", "--sessions=1622682789"), ("--labels-only", "--users=8")),
        *(("--labels-only", "--course"), ("--labels-only", "--bids")),
    ):
        assert main([*get, one, other]) == 2
        assert f"{one} and {other.partition('=')[0]} do not go together" in capsys.readouterr().err
    assert len(asked) == 2


@pytest.mark.skipif(shutil.which("git-annex") is None, reason="git-annex is not installed")
def test_git_annex_fetches_the_emg_of_chosen_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    origin, files = tmp_path / "origin", []
    for user in ("1", "2"):
        files.append(Path(f"sub-{user}", "ses-2", "emg", f"sub-{user}_ses-2_task-typing_emg.bdf"))
        (origin / files[-1]).parent.mkdir(parents=True)
        (origin / files[-1]).write_bytes(user.encode() * 1000)
    names = [word for name in ("name", "email") for word in ("-c", f"user.{name}=a@b")]
    for command in (["init", "-q"], ["annex", "init", "-q"], ["annex", "add", "-q", "."], ["commit", "-qm", "a"]):
        subprocess.run(["git", *names, "-C", str(origin), *command], check=True, capture_output=True)
    for name in ("user.name", "user.email"):
        subprocess.run(["git", "config", "--global", name, "a@b"], check=True)
    out = fetch_bids(tmp_path / "bids", f"file://{origin}", users=["2"])
    assert (out / files[1]).read_bytes() == b"2" * 1000
    assert not (out / files[0]).is_file() or b"/annex/objects/" in (out / files[0]).read_bytes()
    assert fetch_bids(out, f"file://{origin}", users=["1", "2"]) == out
    assert (out / files[0]).read_bytes() == b"1" * 1000

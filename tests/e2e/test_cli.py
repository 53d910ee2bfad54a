"""The command `weft` against a small server that records what it was asked and answers as told.

What is checked is the command's side of the HTTP API: requests to the byte where that matters, exit status, and what goes
to stdout and to stderr."""

import email.parser
import email.policy
import json
import os
import resource
import socket
import subprocess
import threading

import pytest

from cli_fake import TOP, WEFT, env_of, fake, on_a_terminal, weft  # noqa: F401

ACME = {"object": "tenant", "name": "acme", "id": "0198", "disabled": False, "created_at": 1763719200}


# --- tenants and keys ---


@pytest.mark.parametrize("args,method,path,body", [
    (["tenant", "create", "acme"], "POST", "/admin/v1/tenants", {"name": "acme"}),
    (["tenant", "show", "acme"], "GET", "/admin/v1/tenants/acme", None),
    (["tenant", "disable", "acme"], "PATCH", "/admin/v1/tenants/acme", {"disabled": True}),
    (["tenant", "enable", "acme"], "PATCH", "/admin/v1/tenants/acme", {"disabled": False}),
])
def test_a_tenant_command_is_one_admin_request(fake, args, method, path, body):
    fake.answers[method, path] = (200, ACME)
    got = weft(fake, *args)
    assert (got.returncode, got.stderr) == (0, "")
    assert "acme" in got.stdout and "2025-11-21 10:00" in got.stdout
    [asked] = fake.asked
    assert asked.headers["Authorization"] == "Bearer wfa_admin"
    assert (asked.json if body else asked.body or None) == body


def test_a_list_follows_its_cursor_to_the_end(fake):
    def page(asked):
        at = int(asked.query.get("after", "t-0").split("-")[1])
        assert asked.query["limit"] == "100"
        names = [f"t-{i}" for i in range(at + 1, min(at + 4, 9))]
        return 200, {"object": "list", "data": [dict(ACME, name=n) for n in names], "last_id": names[-1], "has_more": at + 4 < 9}

    fake.answers["GET", "/admin/v1/tenants"] = page
    got = weft(fake, "tenant", "list")
    assert got.returncode == 0
    lines = got.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["NAME"] + [f"t-{i}" for i in range(1, 9)]
    assert len(fake.asked) == 3
    raw = weft(fake, "tenant", "list", "--json")
    assert sum(len(json.loads(line)["data"]) for line in raw.stdout.splitlines()) == 8


def test_a_server_whose_cursor_stands_still_ends_the_list(fake):
    fake.answers["GET", "/admin/v1/tenants"] = (200, {"data": [ACME], "last_id": "acme", "has_more": True})
    assert weft(fake, "tenant", "list").returncode == 0
    assert len(fake.asked) == 2


def test_a_new_key_is_alone_on_stdout(fake):
    fake.answers["POST", "/admin/v1/tenants/acme/keys"] = (201, {"id": "abc", "object": "key", "key": "wft_abc_secret_x"})
    got = weft(fake, "key", "create", "--tenant", "acme", "--name", "laptop", "--role=writer", "--role", "inference")
    assert (got.returncode, got.stdout) == (0, "wft_abc_secret_x\n")
    assert "abc" in got.stderr and "secret" not in got.stderr
    assert fake.asked[0].json == {"name": "laptop", "roles": ["writer", "inference"]}


def test_keys_are_listed_and_revoked(fake):
    key = {"id": "abc", "name": "laptop", "roles": ["writer", "inference"], "created_at": 1763719200, "revoked_at": None}
    fake.answers["GET", "/admin/v1/tenants/acme/keys"] = (200, {"data": [key], "has_more": False})
    fake.answers["DELETE", "/admin/v1/keys/abc"] = (200, {"deleted": True})
    got = weft(fake, "key", "list", "--tenant", "acme")
    assert "writer,inference" in got.stdout and got.returncode == 0
    assert weft(fake, "key", "revoke", "abc").returncode == 0
    assert fake.asked[1].method == "DELETE"


def test_names_are_encoded_into_the_path(fake):
    weft(fake, "tenant", "show", "a/../b?c=d #%41")
    assert fake.asked[0].path == "/admin/v1/tenants/a%2F..%2Fb%3Fc%3Dd%20%23%2541"


# --- adapters ---


def parts_of(asked):
    head = f"Content-Type: {asked.headers['Content-Type']}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + asked.body)
    return [(p.get_param("name", header="content-disposition"), p.get_payload(decode=True)) for p in message.iter_parts()]


VERSION = {"id": "sql", "object": "adapter", "name": "sql", "version": 1, "state": "ready", "rank": 16, "bytes": 3718136,
           "digest": "54" * 32, "modules": ["q_proj", "k_proj"]}


def test_a_pushed_adapter_arrives_as_it_is_on_disk(fake):
    fake.answers["POST", "/v1/adapters"] = (201, VERSION)
    folder = TOP / "ops/demo/sql"
    got = weft(fake, "adapter", "push", "sql", str(folder), "--description", "Fragen – zu Bestellungen")
    assert (got.returncode, got.stderr) == (0, "")
    assert "ready" in got.stdout and "3.7 MB" in got.stdout and "q_proj,k_proj" in got.stdout
    [asked] = fake.asked
    assert asked.query == {"wait": "ready"} and asked.headers["Authorization"] == "Bearer wft_tenant"
    parts = parts_of(asked)
    assert [n for n, _ in parts] == ["name", "config", "weights", "description"]
    assert parts[0][1] == b"sql"
    assert parts[1][1] == (folder / "adapter_config.json").read_bytes()
    assert parts[2][1] == (folder / "adapter_model.safetensors").read_bytes()
    assert parts[3][1].decode() == "Fragen – zu Bestellungen"
    assert asked.body.endswith(b"--\r\n")


def test_a_large_adapter_is_pushed_in_little_memory(fake, tmp_path):
    fake.answers["POST", "/v1/adapters"] = (201, VERSION)
    (tmp_path / "adapter_config.json").write_text("{}")
    with open(tmp_path / "adapter_model.safetensors", "wb") as f:
        f.truncate(300 << 20)

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (200 << 20, 200 << 20))

    got = weft(fake, "adapter", "push", "sql", str(tmp_path), preexec_fn=limit)
    assert (got.returncode, got.stderr) == (0, "")
    assert fake.asked[0].length > 300 << 20


def test_a_push_that_failed_its_checks_is_exit_status_1_with_the_reason(fake):
    fake.answers["POST", "/v1/adapters"] = (201, dict(VERSION, state="failed", reason="tensor x: element [1,1] is nan"))
    got = weft(fake, "adapter", "push", "sql", str(TOP / "ops/demo/sql"))
    assert got.returncode == 1 and "element [1,1] is nan" in got.stdout


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_folder_that_lacks_a_file_is_not_pushed(fake, tmp_path, missing):
    for name in {"adapter_config.json", "adapter_model.safetensors"} - {missing}:
        (tmp_path / name).write_text("{}")
    got = weft(fake, "adapter", "push", "sql", str(tmp_path))
    assert got.returncode == 2 and missing in got.stderr and not fake.asked


def test_a_push_without_a_key_copies_nothing(fake):
    got = weft(fake, "adapter", "push", "sql", "/nowhere", env={"WEFT_API_KEY": ""})
    assert got.returncode == 2 and "WEFT_API_KEY" in got.stderr


def test_a_push_that_is_refused_in_its_head_is_told_with_the_reason(fake):
    fake.answers["POST", "/v1/adapters"] = (413, {"error": {"message": "the weights are larger than 1 MB"}})
    got = weft(fake, "adapter", "push", "sql", str(TOP / "ops/demo/sql"))
    assert got.returncode == 1 and "larger than 1 MB (413)" in got.stderr


def test_adapters_are_listed_shown_and_removed(fake):
    fake.answers["GET", "/v1/adapters"] = (200, {"data": [VERSION, dict(VERSION, name="triage", rank=8)], "has_more": False})
    fake.answers["GET", "/v1/adapters/sql"] = (200, dict(VERSION, versions=[VERSION, dict(VERSION, version=2, state="failed", reason="no")]))
    fake.answers["DELETE", "/v1/adapters/sql"] = (200, {"deleted": True})
    fake.answers["DELETE", "/v1/adapters/sql/versions/2"] = (200, {"deleted": True})
    got = weft(fake, "adapter", "list")
    assert [line.split()[0] for line in got.stdout.splitlines()] == ["NAME", "sql", "triage"] and "545454545454\n" in got.stdout
    assert "failed" in weft(fake, "adapter", "show", "sql").stdout
    assert weft(fake, "adapter", "rm", "sql").returncode == 0
    assert weft(fake, "adapter", "rm", "sql@2").returncode == 0
    assert [a.path for a in fake.asked[2:]] == ["/v1/adapters/sql", "/v1/adapters/sql/versions/2"]


@pytest.mark.parametrize("name", ["sql@", "sql@x", "sql@1/..", "sql@-1"])
def test_a_version_that_is_no_number_removes_nothing(fake, name):
    got = weft(fake, "adapter", "rm", name)
    assert got.returncode == 2 and not fake.asked


# --- chat ---


def events(*texts, done=True):
    chunks = [{"choices": [{"delta": {"role": "assistant", "content": ""}}]}]
    chunks += [{"choices": [{"delta": {"content": t}}]} for t in texts]
    chunks += [{"choices": [{"delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": {}}]
    out = ": keep-alive\r\n\r\n" + "".join(f"data: {json.dumps(c)}\n\n" for c in chunks) + ("data: [DONE]\n\n" if done else "")
    return out.encode()


def test_a_prompt_is_answered_as_it_streams(fake):
    raw = events("Ahoy", ", ", "Wörld 🏴")
    fake.answers["POST", "/v1/chat/completions"] = (200, [raw[i:i + 7] for i in range(0, len(raw), 7)])
    got = weft(fake, "chat", "--model", "pirate", "--system", "Be brief.", "--max-tokens", "20", "--temperature", "0", "Hello")
    assert (got.returncode, got.stdout, got.stderr) == (0, "Ahoy, Wörld 🏴\n", "")
    assert fake.asked[0].json == {
        "model": "pirate", "stream": True, "max_tokens": 20, "temperature": 0.0,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]}


def test_lines_of_stdin_are_turns_of_one_conversation(fake):
    fake.answers["POST", "/v1/chat/completions"] = lambda a: (200, [events(f"answer {len(a.json['messages'])}")])
    got = weft(fake, "chat", "--model", "m", stdin="one\n\ntwo\nthree")
    assert (got.returncode, got.stdout) == (0, "answer 1\nanswer 3\nanswer 5\n")
    assert [m["content"] for m in fake.asked[2].json["messages"]] == ["one", "answer 1", "two", "answer 3", "three"]


def test_a_refused_turn_leaves_the_conversation_as_it_was(fake):
    def answer(asked):
        if asked.json["messages"][-1]["content"] == "bad":
            return 400, {"error": {"message": "too long"}}
        return 200, [events("fine")]

    fake.answers["POST", "/v1/chat/completions"] = answer
    got = weft(fake, "chat", "--model", "m", stdin="one\nbad\ntwo\n")
    assert got.returncode == 0 and got.stdout == "fine\nfine\n" and "too long (400)" in got.stderr
    assert [m["content"] for m in fake.asked[2].json["messages"]] == ["one", "fine", "two"]


@pytest.mark.parametrize("body,status,code,message", [
    ({"error": {"message": "The model `x` does not exist"}}, 404, 5, "does not exist (404)"),
    (b"<html>", 502, 8, "gave no reason (502)"),
    ([events("half", done=False)], 200, 3, "cut short"),
    ([b'data: {"error":{"message":"engine lost"}}\n\n'], 200, 1, "engine lost"),
    ([b"data: " + b"x" * (2 << 20)], 200, 1, "too long"),
    ([b"data: {not json}\n\ndata: [DONE]\n\n"], 200, 0, ""),
])
def test_answers_that_are_none_are_told_apart(fake, body, status, code, message):
    fake.answers["POST", "/v1/chat/completions"] = (status, body)
    got = weft(fake, "chat", "--model", "x", "Hello")
    assert got.returncode == code and message in got.stderr


def test_a_terminal_sees_no_control_characters_of_an_answer(fake, tmp_path):
    fake.answers["POST", "/v1/chat/completions"] = (200, [events("a\x1b]0;title\x07b\u009b31mc\td")])
    seen = on_a_terminal([WEFT, "chat", "--model", "m", "x"], env_of(fake), tmp_path)
    assert seen.replace(b"\r", b"") == b"a?]0;title?b?31mc\td\n"


# --- usage ---


def test_usage_is_a_table_with_totals_over_all_pages(fake):
    day = 1763683200

    def page(asked):
        assert asked.query["bucket_width"] == "1d" and asked.query["group_by"] == "model"
        assert int(asked.query["start_time"]) % 86400 == 0
        n = int(asked.query.get("page", "p0")[1:])
        result = {"input_tokens": 100, "input_cached_tokens": 10, "output_tokens": 7, "num_model_requests": 3, "model": "sql"}
        return 200, {"object": "page", "has_more": n < 2, "next_page": f"p{n + 1}" if n < 2 else None, "data": [
            {"object": "bucket", "start_time": day + n * 86400, "results": [result, dict(result, model="pirate")] if n else []}]}

    fake.answers["GET", "/v1/usage"] = page
    got = weft(fake, "usage", "--days", "3")
    assert got.returncode == 0
    lines = [line.split() for line in got.stdout.splitlines()]
    assert lines[0] == ["DAY", "MODEL", "REQUESTS", "INPUT", "CACHED", "OUTPUT"]
    assert lines[1] == ["2025-11-22", "sql", "3", "100", "10", "7"] and len(lines) == 6
    assert lines[-1] == ["total", "-", "12", "400", "40", "28"]
    assert len(fake.asked) == 3


# --- the rest ---


@pytest.mark.parametrize("args,message", [
    ([], ""),
    (["frobnicate"], "no command"),
    (["tenant"], "what about the tenant"),
    (["tenant", "paint", "x"], "what about the tenant"),
    (["tenant", "create"], "usage: weft tenant create NAME"),
    (["tenant", "create", "a", "b"], "an argument too many"),
    (["tenant", "list", "--frob"], "is no flag"),
    (["tenant", "list", "--model", "x"], "does not go with"),
    (["tenant", "list", "--url"], "needs a value"),
    (["tenant", "list", "--json=yes"], "takes no value"),
    (["tenant", "list", "--admin-url", "ftp://x"], "no http or https"),
    (["tenant", "list", "--admin-url", "https:///"], "an address without a host"), (["adapter", "list", "--url", "http://"], "an address without a host"),
    (["key", "list"], "--tenant NAME is missing"),
    (["chat", "hello"], "--model NAME is missing"),
    (["chat", "--model", "m", "--max-tokens", "0", "x"], "number from 1 to"),
    (["chat", "--model", "m", "--max-tokens", "1.5", "x"], "number from 1 to"),
    (["chat", "--model", "m", "--max-tokens", "nan", "x"], "number from 1 to"),
    (["chat", "--model", "m", "--temperature", "2.1", "x"], "not a number from 0 to 2"),
    (["chat", "--model", "m", "--temperature", "", "x"], "not a number from 0 to 2"),
    (["usage", "--days", "1e9"], "number from 1 to"),
    (["key", "create", "--tenant", "a"] + ["--role", "x"] * 65, "more than 64 times"),
])
def test_a_wrong_command_line_is_exit_status_2_and_no_request(fake, args, message):
    got = weft(fake, *args)
    assert got.returncode == 2 and message in got.stderr and not fake.asked


@pytest.mark.parametrize("args", [["--help"], ["help"], ["adapter", "--help"], ["adapter", "push", "--help"], ["chat", "--help"], ["usage", "--help"]])
def test_help_is_given_without_a_key_or_a_server(args, fake):
    got = weft(fake, *args, env={"WEFT_API_KEY": "", "WEFT_ADMIN_KEY": ""})
    assert got.returncode == 0 and "weft " in got.stdout and not fake.asked


def test_arguments_after_two_dashes_are_no_flags(fake):
    weft(fake, "tenant", "show", "--", "--json")
    assert fake.asked[0].path == "/admin/v1/tenants/--json"


def test_nobody_there_is_exit_status_3(fake):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{s.getsockname()[1]}"
    for args in (["adapter", "list"], ["chat", "--model", "m", "x"]):
        got = weft(fake, *args, env={"WEFT_URL": url})
        assert got.returncode == 3 and "cannot connect" in got.stderr


def test_a_connection_that_breaks_off_is_exit_status_3(fake):
    with socket.create_server(("127.0.0.1", 0)) as s:
        def cut():
            c, _ = s.accept()
            c.recv(4096)
            c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
            c.close()

        threading.Thread(target=cut, daemon=True).start()
        got = weft(fake, "adapter", "list", env={"WEFT_URL": f"http://127.0.0.1:{s.getsockname()[1]}"})
    assert got.returncode == 3


@pytest.mark.parametrize("answer,status,message", [
    ((401, {"error": {"message": "The key is not valid."}}), 4, "The key is not valid. (401)"),
    ((403, {"error": {"message": "one\ntwo\x1b[31m"}}), 4, "one two [31m (403)"),
    ((404, {"error": {"message": "none"}}), 5, "none (404)"),
    ((409, {"error": {"message": "in use"}}), 6, "in use (409)"),
    ((412, {"error": {"message": "changed"}}), 6, "changed (412)"),
    ((429, {"error": {"message": "spent"}}), 7, "spent (429)"),
    ((503, {"error": {"message": "later"}}), 8, "later (503)"),
    ((400, {"error": {"message": "no", "param": "limit", "code": "invalid_value"}}), 1, "field limit; code invalid_value; request req-1\n"),
    ((500, b""), 1, "gave no reason (500)"),
    ((302, b"elsewhere"), 1, "gave no reason (302)"),
    ((200, b"not json"), 1, "no JSON"),
    ((200, {"data": 7}), 1, "no list"),
])
def test_what_the_server_refuses_is_an_exit_status_of_its_kind_with_its_message(fake, answer, status, message):
    fake.answers["GET", "/v1/adapters"] = answer
    got = weft(fake, "adapter", "list")
    assert got.returncode == status and message in got.stderr and got.stdout == ""


def test_flags_win_over_the_environment(fake):
    fake.answers["GET", "/v1/adapters/x"] = (200, VERSION)
    got = weft(fake, "adapter", "show", "x", "--url", fake.url + "/", "--key=wft_other", "--json", env={"WEFT_URL": "http://127.0.0.1:1"})
    assert json.loads(got.stdout) == VERSION
    assert fake.asked[0].headers["Authorization"] == "Bearer wft_other"


def test_a_reader_gone_is_told_and_kills_nothing(fake):
    fake.answers["GET", "/v1/adapters/x"] = (200, dict(VERSION, description="d" * 200))
    read, write = os.pipe()
    os.close(read)
    got = subprocess.run([WEFT, "adapter", "show", "x"], stdout=write, stderr=subprocess.PIPE, text=True, env=env_of(fake), timeout=60)
    os.close(write)
    assert got.returncode == 1 and "can't write the answer" in got.stderr

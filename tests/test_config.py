"""What may be set, where it is found, and what is said when it is wrong."""

from __future__ import annotations

import json
import os
import pickle
import re
import tomllib
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from router.config import (
    NO_FLAGS,
    ConfigError,
    Flags,
    ImagesSettings,
    Loaded,
    ServerSettings,
    Settings,
    StoreSettings,
    TextSettings,
    VisionSettings,
    is_loopback,
    load_settings,
    masked,
)

TABLES: dict[str, type[BaseModel]] = {
    "server": ServerSettings,
    "text": TextSettings,
    "vision": VisionSettings,
    "images": ImagesSettings,
    "store": StoreSettings,
}
BRAIN = '[[text]]\nname = "glm-5"\nbase_url = "http://127.0.0.1:8000/v1"\n'
EYES = '[[vision]]\nname = "qwen"\nbase_url = "http://127.0.0.1:8001/v1"\n'
PAIR = BRAIN + EYES
SECRET = "sk-canary-4f1d"


class Machine:
    """A folder that holds everything the search may see: nothing of the real machine is read."""

    def __init__(self, root: Path) -> None:
        self.cwd, self.home, self.etc = root / "work", root / "home", root / "etc"
        for folder in (self.cwd, self.home, self.etc):
            folder.mkdir()

    def write(self, text: str | bytes, path: Path | None = None) -> Path:
        path = path or self.cwd / "config.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def load(self, config: Path | str | None = None, flags: Flags = NO_FLAGS, **environ: Any) -> Loaded:
        return load_settings(
            None if config is None else Path(config),
            flags=flags,
            environ=environ,
            cwd=self.cwd,
            home=self.home,
            etc=self.etc,
        )

    def settings(self, text: str, **environ: Any) -> Settings:
        self.write(text)
        return self.load(**environ).settings

    def error(self, text: str | None = None, flags: Flags = NO_FLAGS, **environ: Any) -> str:
        if text is not None:
            self.write(text)
        with pytest.raises(ConfigError) as caught:
            self.load(flags=flags, **environ)
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# --- defaults --------------------------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_contract(machine: Machine) -> None:
    got = machine.settings(PAIR)
    assert got.server.model_dump() | {"admin_key": got.server.admin_key.get_secret_value()} == {
        "host": "127.0.0.1",
        "port": 8090,
        "api_keys": (),
        "admin_key": "",
        "max_body_mib": 128,
        "heartbeat_seconds": 10,
        "heartbeat": "comment",
        "reasoning_field": "reasoning_content",
        "late_reasoning": "send",
        "drain_seconds": 30,
        "log_format": "text",
        "currency": "USD",
    }
    assert got.text[0].model_dump() | {"api_key": got.text[0].api_key.get_secret_value()} == {
        "name": "glm-5",
        "base_url": "http://127.0.0.1:8000/v1",
        "model": "glm-5",
        "api_key": "",
        "engine": "auto",
        "price_input": 0,
        "price_output": 0,
        "images": "tool",
        "vision": None,
        "thinking": "client",
        "sampling": "client",
        "max_turns": 8,
        "first_byte_seconds": 300,
        "idle_seconds": 120,
    }
    assert got.vision[0].model_dump() | {"api_key": got.vision[0].api_key.get_secret_value()} == {
        "name": "qwen",
        "base_url": "http://127.0.0.1:8001/v1",
        "model": "qwen",
        "api_key": "",
        "engine": "auto",
        "price_input": 0,
        "price_output": 0,
        "thinking": False,
        "max_tokens": 2048,
        "max_concurrency": 8,
        "timeout_seconds": 120,
        "kind": "qwen",
    }
    assert got.images.model_dump() == {
        "max_loaded": 30,
        "keep_loaded": 20,
        "max_loaded_tokens": 60000,
        "offer_tools": "with_images",
        "max_image_mib": 20,
        "max_megapixels": 50,
        "remote_urls": "off",
        "allowed_hosts": (),
        "allowed_networks": (),
    }
    assert got.store.model_dump() | {"url": got.store.url.get_secret_value()} == {
        "kind": "disk",
        "path": machine.home / ".local/share/chiasm",
        "url": "",
        "max_gib": 10,
        "retention_hours": 168,
    }


def test_settings_cannot_be_changed(machine: Machine) -> None:
    got = machine.settings(PAIR)
    with pytest.raises(ValidationError, match="frozen"):
        got.server.port = 1
    with pytest.raises(ValidationError, match="frozen"):
        got.text = ()


def test_settings_reach_a_worker_process_whole(machine: Machine) -> None:
    got = machine.settings(PAIR + f'[server]\napi_keys = ["{SECRET}"]')
    assert pickle.loads(pickle.dumps(got)) == got


def test_name_and_model_stand_in_for_each_other(machine: Machine) -> None:
    by_model = machine.settings('[[text]]\nmodel = "m"\nbase_url = "http://a/v1"\n' + EYES).text[0]
    assert (by_model.name, by_model.model) == ("m", "m")
    both = machine.settings('[[text]]\nname = "n"\nmodel = "m"\nbase_url = "http://a/v1"\n' + EYES).text[0]
    assert (both.name, both.model) == ("n", "m")


@pytest.mark.parametrize("line", ["", 'name = ""\n', 'name = ""\nmodel = ""\n'])
def test_a_single_model_without_a_name_is_asked_for_on_first_use(machine: Machine, line: str) -> None:
    got = machine.settings(f'[[text]]\nbase_url = "http://a/v1"\n{line}' + EYES).text[0]
    assert (got.name, got.model) == (None, None)


def test_several_models_need_names(machine: Machine) -> None:
    nameless = '[[text]]\nbase_url = "http://b/v1"\n'
    assert machine.error(BRAIN + nameless + EYES) == (
        "config.toml: [[text]] #2 needs a name: with several [[text]] each has one"
    )
    assert "[[vision]] #1 needs a name" in machine.error(BRAIN + nameless.replace("text", "vision") + EYES)


def test_names_are_unique_within_their_list_only(machine: Machine) -> None:
    assert machine.error(BRAIN + BRAIN + EYES) == (
        "config.toml: [[text]] #2 has the name 'glm-5', which [[text]] #1 has already"
    )
    assert len(machine.settings(PAIR + EYES.replace("qwen", "glm-5")).vision) == 2


def test_eyes_are_the_named_or_the_first(machine: Machine) -> None:
    other = BRAIN.replace("glm-5", "other") + 'vision = "second"\n'
    got = machine.settings(BRAIN + other + EYES + EYES.replace("qwen", "second"))
    assert [eyes.name for text in got.text if (eyes := got.eyes_for(text))] == ["qwen", "second"]


def test_eyes_that_do_not_exist_are_refused_with_the_nearest(machine: Machine) -> None:
    assert machine.error(BRAIN + 'vision = "qwne"\n' + EYES) == (
        "config.toml: [[text]] #1 vision names 'qwne', but no [[vision]] has that name; did you mean 'qwen'?"
    )


@pytest.mark.parametrize(("images", "needs"), [("tool", True), ("caption", True), ("native", False), ("off", False)])
def test_eyes_are_needed_only_by_brains_that_use_them(machine: Machine, images: str, needs: bool) -> None:
    text = f'{BRAIN}images = "{images}"\n'
    if needs:
        assert "there is no [[vision]]: add one or give --vision URL" in machine.error(text)
    else:
        got = machine.settings(text)
        assert got.eyes_for(got.text[0]) is None


def test_embedded_eyes_need_no_address_and_others_do(machine: Machine) -> None:
    eyes = machine.settings(BRAIN + '[[vision]]\nkind = "ocr"\n').vision[0]
    assert (eyes.name, eyes.model, eyes.base_url) == ("ocr", "ocr", "")
    assert machine.error(BRAIN + '[[vision]]\nname = "x"\n') == (
        "config.toml: [[vision]] #1 needs base_url: only kind = 'ocr' works without a server"
    )


def test_a_file_without_a_brain_says_so(machine: Machine) -> None:
    assert machine.error(EYES) == "config.toml: there is no [[text]]: add one with a base_url, or give --text URL"
    assert machine.error("text = []\n" + EYES).endswith("add one with a base_url, or give --text URL")


# --- where it is looked for ------------------------------------------------------------------------------------------


def test_files_are_looked_for_in_order_and_never_merged(machine: Machine) -> None:
    etc = machine.write(PAIR + "[server]\nport = 3", machine.etc / "chiasm/config.toml")
    assert machine.load().source == etc
    home = machine.write(PAIR + "[images]\nmax_loaded = 99", machine.home / ".config/chiasm/config.toml")
    assert machine.load().source == home
    assert machine.load().settings.server.port == 8090
    xdg = machine.write(PAIR, machine.home / "xdg/chiasm/config.toml")
    assert machine.load(XDG_CONFIG_HOME=str(machine.home / "xdg")).source == xdg
    here = machine.write(PAIR)
    assert machine.load(XDG_CONFIG_HOME=str(machine.home / "xdg")).source == here
    named = machine.write(PAIR + "[server]\nport = 7", machine.cwd / "other.toml")
    assert machine.load("other.toml").source == named
    assert machine.load(named).settings.server.port == 7


def test_a_relative_xdg_folder_is_ignored(machine: Machine) -> None:
    machine.write(PAIR, machine.cwd / "xdg/chiasm/config.toml")
    home = machine.write(PAIR, machine.home / ".config/chiasm/config.toml")
    assert machine.load(XDG_CONFIG_HOME="xdg").source == home


def test_a_named_file_that_is_missing_is_an_error_even_where_another_exists(machine: Machine) -> None:
    machine.write(PAIR)
    with pytest.raises(ConfigError, match=r"^nowhere\.toml: there is no such file$"):
        machine.load("nowhere.toml")


def test_nothing_at_all_names_both_ways_to_configure_and_where_it_looked(machine: Machine) -> None:
    message = machine.error()
    assert "--text URL and --vision URL" in message
    assert "config.example.toml" in message
    for path in ("config.toml", f"{machine.home}/.config/chiasm/config.toml", f"{machine.etc}/chiasm/config.toml"):
        assert path in message


def test_two_addresses_are_enough(machine: Machine) -> None:
    loaded = machine.load(flags=Flags(text="http://a:1/v1", vision="http://b:2/v1"))
    assert loaded.source is None
    [text], [vision] = loaded.settings.text, loaded.settings.vision
    assert (text.name, text.model, text.base_url) == (None, None, "http://a:1/v1")
    assert loaded.settings.eyes_for(text) == vision


def test_one_address_is_not_enough(machine: Machine) -> None:
    assert "give --vision URL" in machine.error(flags=Flags(text="http://a:1/v1"))
    assert "give --text URL" in machine.error(flags=Flags(vision="http://a:1/v1"))


def test_variables_alone_are_enough(machine: Machine) -> None:
    loaded = machine.load(CHIASM_TEXT='[{"name": "a", "base_url": "http://a/v1"}]', CHIASM_VISION='[{"kind": "ocr"}]')
    assert loaded.source is None
    assert loaded.settings.text[0].name == "a"


def test_a_folder_in_place_of_the_file_is_named_as_one(machine: Machine) -> None:
    (machine.cwd / "config.toml").mkdir()
    assert machine.error() == "config.toml: is a folder; name the file in it"


def test_a_file_that_may_not_be_read_is_an_error_and_not_passed_over(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.write(PAIR, machine.etc / "chiasm/config.toml")
    machine.write(PAIR)

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert machine.error() == "config.toml: cannot be read: Permission denied"


def test_a_file_that_leads_nowhere_else_than_to_itself_is_an_error(machine: Machine) -> None:
    (machine.cwd / "config.toml").symlink_to("config.toml")
    assert machine.error().startswith("config.toml: cannot be read: ")


def test_a_folder_closed_to_us_is_passed_over(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.write(PAIR, machine.etc / "chiasm/config.toml")
    real: Callable[..., os.stat_result] = Path.stat

    def stat(path: Path, **options: Any) -> os.stat_result:
        if path.is_relative_to(machine.etc / "chiasm"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    assert "nothing is configured" in machine.error()


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\xef\xbb\xbf" + PAIR.encode(), id="byte order mark"),
        pytest.param(PAIR.replace("\n", "\r\n").encode(), id="CRLF"),
        pytest.param(b"\xef\xbb\xbf" + PAIR.replace("\n", "\r\n").encode(), id="both"),
    ],
)
def test_files_from_windows_editors_are_read(machine: Machine, raw: bytes) -> None:
    machine.write(raw)
    assert machine.load().settings.text[0].name == "glm-5"


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_file_in_another_encoding_is_named_as_such(machine: Machine, encoding: str) -> None:
    machine.write((PAIR + "# é").encode(encoding))
    assert "is not UTF-8 text (at byte" in machine.error()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f'[server]\nport = \napi_keys = ["{SECRET}"]', "line 2"),
        (f'[server]\nadmin_key = "{SECRET}\n', "line 2"),
        (f"[server]\nadmin_key = {SECRET}\n", "line 2"),
        ("[server]\nport = 1\nport = 2\n", "line 3"),
        ("[server\n", "line 1"),
    ],
)
def test_bad_toml_is_named_with_its_line_and_without_its_content(machine: Machine, text: str, line: str) -> None:
    message = machine.error(text)
    assert message.startswith("config.toml: not valid TOML: ")
    assert line in message
    assert SECRET not in message


def test_toml_nested_beyond_reason_is_an_error_like_any_other(machine: Machine) -> None:
    assert machine.error("a = " + "[" * 100_000).startswith("config.toml: not valid TOML: ")
    assert machine.error(PAIR + "[server]\nport" + ".a" * 5000 + " = 1") == (
        "config.toml: [server] port must be a whole number, not a table"
    )


def test_numbers_beyond_reason_are_errors_like_any_other(machine: Machine) -> None:
    for option in ("port", "max_body_mib", "drain_seconds"):
        message = machine.error(f"{PAIR}[server]\n{option} = 0x{'f' * 9000}")
        assert message.startswith(f"config.toml: [server] {option} must be")


# --- what goes before what -------------------------------------------------------------------------------------------


def test_flags_go_before_variables_and_variables_before_the_file(machine: Machine) -> None:
    machine.write(PAIR + '[server]\nport = 1\nheartbeat_seconds = 5\n[store]\nkind = "memory"')
    assert machine.load().settings.server.port == 1
    assert machine.load(CHIASM_SERVER__PORT="2").settings.server.port == 2
    got = machine.load(flags=Flags(port=3, host="::1"), CHIASM_SERVER__PORT="2").settings
    assert (got.server.port, got.server.host) == (3, "::1")
    assert (got.server.heartbeat_seconds, got.store.kind) == (5, "memory")


@pytest.mark.parametrize("name", ["chiasm_server__port", "Chiasm_Server__Port", "CHIASM_SERVER__PORT"])
def test_variables_are_read_in_any_letter_case(machine: Machine, name: str) -> None:
    assert machine.settings(PAIR, **{name: "9000"}).server.port == 9000


def test_capitals_win_between_two_spellings(machine: Machine) -> None:
    both = {"chiasm_server__port": "1", "CHIASM_SERVER__PORT": "2"}
    assert machine.settings(PAIR, **both).server.port == 2
    assert machine.settings(PAIR, **dict(reversed(both.items()))).server.port == 2


def test_variables_set_every_kind_of_option(machine: Machine) -> None:
    got = machine.settings(
        PAIR,
        CHIASM_SERVER__API_KEYS=json.dumps([SECRET, "b"]),
        CHIASM_SERVER__HEARTBEAT="chunk",
        CHIASM_SERVER__HEARTBEAT_SECONDS="2.5",
        CHIASM_IMAGES__ALLOWED_NETWORKS='["10.1.0.0/16"]',
        CHIASM_STORE__PATH="/srv/chiasm",
        CHIASM_IMAGES='{"max_loaded": 50}',
        CHIASM_IMAGES__KEEP_LOADED="40",
        CHIASM_VISION='[{"kind": "ocr", "thinking": false}]',
    )
    assert [key.get_secret_value() for key in got.server.api_keys] == [SECRET, "b"]
    assert (got.server.heartbeat, got.server.heartbeat_seconds) == ("chunk", 2.5)
    assert [str(network) for network in got.images.allowed_networks] == ["10.1.0.0/16"]
    assert got.store.path == Path("/srv/chiasm")
    assert (got.images.max_loaded, got.images.keep_loaded) == (50, 40)
    assert [eyes.kind for eyes in got.vision] == ["ocr"]


def test_variables_that_are_no_options_are_left_alone(machine: Machine) -> None:
    others = {"CHIASM_API_KEY": "x", "CHIASM_PORT": "tcp://10.0.0.1:8090", "CHIASM_PORT_8090_TCP_ADDR": "10.0.0.1"}
    assert machine.settings(PAIR, **others).server.port == 8090


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CHIASM_SERVER__PROT", "1", "CHIASM_SERVER__PROT: [server] has no option 'prot'; did you mean 'port'?"),
        ("CHIASM_SEVER__PORT", "1", "CHIASM_SEVER__PORT: there is no table 'sever'; did you mean [server]?"),
        (
            "CHIASM_SERVER__PORT",
            "abc",
            "CHIASM_SERVER__PORT: [server] port must be a whole number, not 'abc'",
        ),
        (
            "CHIASM_SERVER__API_KEYS",
            SECRET,
            'CHIASM_SERVER__API_KEYS: must be a JSON list such as ["…", "…"]',
        ),
        ("CHIASM_TEXT", "{}", 'CHIASM_TEXT: must be a JSON list such as [{"base_url": "…"}]'),
        ("CHIASM_STORE", "[]", 'CHIASM_STORE: must be a JSON object such as {"option": "…"}'),
        (
            "CHIASM_TEXT",
            '[{"base_ur": "http://a/v1"}]',
            "CHIASM_TEXT: [[text]] #1 has no option 'base_ur'; did you mean 'base_url'? (and 1 more)",
        ),
        (
            "CHIASM_TEXT__API_KEY",
            SECRET,
            "CHIASM_TEXT__API_KEY: there may be several [[text]], so a variable can only give all of them: "
            "put a JSON list in CHIASM_TEXT, or write ${VAR} in the file",
        ),
    ],
)
def test_a_faulty_variable_is_named(machine: Machine, name: str, value: str, message: str) -> None:
    variable: dict[str, Any] = {name: value}
    assert machine.error(PAIR, **variable) == message


def test_a_faulty_flag_is_named(machine: Machine) -> None:
    assert machine.error(PAIR, flags=Flags(port=70000)) == "--port: [server] port must be at most 65535, not 70000"
    assert machine.error(PAIR, flags=Flags(text="localhost:8000")).startswith("--text: [[text]] #1 base_url must be")


def test_an_address_by_flag_replaces_the_whole_list_so_that_no_key_goes_astray(machine: Machine) -> None:
    machine.write(f'{BRAIN}api_key = "{SECRET}"\nvision = "qwen"\n{EYES}api_key = "{SECRET}"\n')
    got = machine.load(flags=Flags(text="http://a/v1", text_model="m")).settings
    assert [(text.name, text.model, text.api_key.get_secret_value()) for text in got.text] == [("m", "m", "")]
    got = machine.load(flags=Flags(vision="http://b/v1")).settings
    assert [(eyes.base_url, eyes.api_key.get_secret_value()) for eyes in got.vision] == [("http://b/v1", "")]
    assert got.eyes_for(got.text[0]) == got.vision[0]


def test_a_model_id_by_flag_alone_is_for_the_only_entry_of_its_list(machine: Machine) -> None:
    machine.write(PAIR)
    got = machine.load(flags=Flags(text_model="m", vision_model="v")).settings
    assert (got.text[0].name, got.text[0].model, got.text[0].base_url) == ("glm-5", "m", "http://127.0.0.1:8000/v1")
    assert (got.vision[0].name, got.vision[0].model) == ("qwen", "v")
    message = machine.error(BRAIN + BRAIN.replace("glm-5", "b") + EYES, flags=Flags(text_model="m"))
    assert message == "--text-model: needs --text URL, or a file with exactly one [[text]]"


# --- variables inside the file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("${A}", "one"),
        ("x-${A}-${B}-y", "x-one-two-y"),
        ("${NO:-default}", "default"),
        ("${NO:-}z", "z"),
        ("${EMPTY:-default}", "default"),
        ("${A:-default}", "one"),
        ("${NO:-http://h:1/v1?a=b}", "http://h:1/v1?a=b"),
        ("$A", "$A"),
        ("pa$$word$", "pa$$word$"),
        ("$${A}", "${A}"),
        ("$$${A}", "$${A}"),
        ("${DOLLAR}", "${A}"),
    ],
)
def test_variables_in_strings(machine: Machine, written: str, read: str) -> None:
    environ = {"A": "one", "B": "two", "EMPTY": "", "DOLLAR": "${A}"}
    text = f"[[text]]\nname = '{written}'\nbase_url = 'http://a/v1'\n" + EYES
    assert machine.settings(text, **environ).text[0].name == read


def test_variables_stand_in_lists_and_for_numbers(machine: Machine) -> None:
    got = machine.settings(PAIR + '[server]\nport = "${PORT:-8091}"\napi_keys = ["${K}", "${NO:-}"]', K=SECRET)
    assert got.server.port == 8091
    assert [key.get_secret_value() for key in got.server.api_keys] == [SECRET]


def test_a_missing_variable_is_named_with_its_place(machine: Machine) -> None:
    text = PAIR + '[[vision]]\nname = "b"\nbase_url = "http://a/v1"\napi_key = "${MY_KEY}"\n'
    assert machine.error(text) == (
        "config.toml: [[vision]] #2 api_key needs the environment variable MY_KEY, which is not set; "
        "set it, or write ${MY_KEY:-} if it may be empty"
    )
    assert "[server] api_keys #2 needs" in machine.error('[server]\napi_keys = ["a", "${NO}"]\n' + PAIR)


@pytest.mark.parametrize("written", ["${", "${A", "${A-x}", "${1}", "${}", "${A:-${B}}", "${A:x}"])
def test_a_malformed_reference_is_an_error_that_shows_no_value(machine: Machine, written: str) -> None:
    message = machine.error(f'[server]\nadmin_key = "{SECRET}{written}"\n' + PAIR, A="a", B="b")
    assert message.startswith("config.toml: [server] admin_key has a '${' that begins no ${NAME}")
    assert SECRET not in message


def test_a_variable_that_is_overridden_need_not_be_set(machine: Machine) -> None:
    machine.write(f'{BRAIN}api_key = "${{NO}}"\n{EYES}[server]\nadmin_key = "${{NO}}"')
    got = machine.load(flags=Flags(text="http://a/v1"), CHIASM_SERVER__ADMIN_KEY="k").settings
    assert got.server.admin_key.get_secret_value() == "k"


def test_variables_given_as_overrides_are_not_searched_for_variables(machine: Machine) -> None:
    got = machine.settings(PAIR, CHIASM_SERVER__ADMIN_KEY="a${B}")
    assert got.server.admin_key.get_secret_value() == "a${B}"


def test_a_secret_may_stand_in_a_file_of_its_own(machine: Machine) -> None:
    path = str(machine.write(SECRET + "\n", machine.home / "key"))
    keys = str(machine.write(json.dumps([SECRET]), machine.home / "keys"))
    got = machine.settings(
        PAIR.replace("[[vision]]", 'api_key = "${K}"\n[[vision]]'),
        K_FILE=path,
        CHIASM_SERVER__ADMIN_KEY_FILE=path,
        CHIASM_SERVER__API_KEYS_FILE=keys,
    )
    secrets = (got.text[0].api_key, got.server.admin_key, *got.server.api_keys)
    assert {secret.get_secret_value() for secret in secrets} == {SECRET}
    assert machine.settings(PAIR, CHIASM_SERVER__PORT="1", CHIASM_SERVER__PORT_FILE="/nowhere").server.port == 1


def test_the_newline_at_the_end_of_a_secret_file_is_no_part_of_it(machine: Machine) -> None:
    path = str(machine.write("a b \r\n", machine.home / "key"))
    assert machine.settings(PAIR.replace("glm-5", "${K}"), K_FILE=path).text[0].name == "a b "


def test_a_missing_secret_file_is_named_with_its_variable(machine: Machine) -> None:
    assert machine.error(PAIR, CHIASM_SERVER__ADMIN_KEY_FILE=SECRET) == (
        "the file that CHIASM_SERVER__ADMIN_KEY_FILE names: there is no such file"
    )


# --- what is refused, and in which words -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nprot = 1", "[server] has no option 'prot'; did you mean 'port'?"),
        ("[images]\nmax-loaded = 1", "[images] has no option 'max-loaded'; did you mean 'max_loaded'?"),
        ("[store]\nretention = 1", "[store] has no option 'retention'; did you mean 'retention_hours'?"),
        ("[store]\nPath = '/'", "[store] has no option 'Path'; did you mean 'path'?"),
        ("[server]\nmax_loaded = 1", "[server] has no option 'max_loaded'; it belongs under [images]"),
        ("[images]\nbase_url = 1", "[images] has no option 'base_url'; it belongs under [[text]] or [[vision]]"),
        (
            "[store]\nzzz = 1",
            "[store] has no option 'zzz'; it has kind, path, url, max_gib, retention_hours",
        ),
        ("[sever]\nport = 1", "there is no table 'sever'; did you mean [server]?"),
        ("[[texts]]\nname = 1", "there is no table 'texts'; did you mean [[text]]?"),
        ("[zzz]", "there is no table 'zzz'; there are [server], [[text]], [[vision]], [images], [store]"),
        ("[[server]]", "[[server]] must be written [server], with single brackets, because there is only one"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(machine: Machine, text: str, message: str) -> None:
    assert machine.error(PAIR + text) == f"config.toml: {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port = 1\n", "'port' stands outside every table; did you mean 'port', under [server]?"),
        ("prot = 1\n", "'prot' stands outside every table; did you mean 'port', under [server]?"),
        (
            "zzz = 1\n",
            "'zzz' stands outside every table; put options under [server], [[text]], [[vision]], [images], [store]",
        ),
    ],
)
def test_what_stands_outside_every_table_is_sent_home(machine: Machine, text: str, message: str) -> None:
    assert machine.error(text + PAIR) == f"config.toml: {message}"


def test_a_table_that_is_none_is_named(machine: Machine) -> None:
    assert machine.error("server = 1\n" + PAIR) == "config.toml: [server] must be a table, not 1"
    assert machine.error("server = 1\n" + PAIR, CHIASM_SERVER__PORT="1").startswith("config.toml: [server] must be")
    assert machine.error("text = [1]\n" + EYES) == "config.toml: [[text]] #1 must be a table, not 1"


@pytest.mark.parametrize("table", ["text", "vision"])
def test_an_entry_is_named_by_its_number(machine: Machine, table: str) -> None:
    text = PAIR + f'[[{table}]]\nname = "b"\nbase_ulr = "http://a/v1"'
    assert machine.error(text).startswith(
        f"config.toml: [[{table}]] #2 has no option 'base_ulr'; did you mean 'base_url'?"
    )


def test_a_list_in_single_brackets_is_explained(machine: Machine) -> None:
    assert machine.error(PAIR.replace("[[text]]", "[text]")) == (
        "config.toml: [text] must be written [[text]], with double brackets, because there may be several"
    )


def test_every_option_with_a_letter_too_many_finds_its_way_home(machine: Machine) -> None:
    for table, model in TABLES.items():
        for option in model.model_fields:
            head = f"[{table}]" if table in {"server", "images", "store"} else f"[[{table}]]"
            message = machine.error(f"{head}\n{option}x = 1\n" + (PAIR if head == f"[{table}]" else ""))
            assert f"has no option '{option}x'; did you mean {option!r}?" in message


def test_the_misspelt_option_comes_before_the_missing_one(machine: Machine) -> None:
    machine.write('[[text]]\nbase_ur = "http://a/v1"\nmax_turns = 1\n' + EYES)
    with pytest.raises(ConfigError) as caught:
        machine.load()
    assert str(caught.value) == (
        "config.toml: [[text]] #1 has no option 'base_ur'; did you mean 'base_url'? (and 2 more)"
    )
    assert caught.value.problems[1:] == (
        "config.toml: [[text]] #1 needs base_url",
        "config.toml: [[text]] #1 max_turns must be at least 2 (one turn to look, one left to answer), not 1",
    )


@pytest.mark.parametrize(
    ("table", "line", "message"),
    [
        ("server", 'port = "x"', "port must be a whole number, not 'x'"),
        ("server", "port = true", "port must be a number, not true"),
        ("server", "port = 80.5", "port must be a whole number, not 80.5"),
        ("server", "port = -1", "port must be at least 0, not -1"),
        ("server", "port = 65536", "port must be at most 65535, not 65536"),
        ("server", "port = [80]", "port must be a whole number, not a list"),
        ("server", "port = 1979-05-27", "port must be a whole number, not a date"),
        ("server", "host = 1", "host must be a string, not 1"),
        ("server", 'host = ""', "host must be a string that is not empty, not ''"),
        ("server", "max_body_mib = 0", "max_body_mib must be more than 0, not 0"),
        ("server", "heartbeat_seconds = -2.5", "heartbeat_seconds must be more than 0, not -2.5"),
        ("server", "heartbeat_seconds = inf", "heartbeat_seconds must be at most 1000000000, not inf"),
        ("server", "heartbeat_seconds = nan", "heartbeat_seconds must be more than 0, not nan"),
        ("server", "heartbeat = true", "heartbeat must be one of 'comment', 'chunk' or 'off', not true"),
        ("server", "drain_seconds = -1", "drain_seconds must be at least 0, not -1"),
        ("server", f'api_keys = "{SECRET}"', "api_keys must be a list, not a string"),
        ("server", "api_keys = [1]", "api_keys #1 must be a string, not a number"),
        (
            "server",
            f'admin_key = "{SECRET} b"',
            "admin_key must be ASCII letters, digits and signs, without spaces: it travels in a header",
        ),
        ("images", "max_loaded = 0", "max_loaded must be at least 1, not 0"),
        ("images", "keep_loaded = 31", "keep_loaded (31) must not exceed max_loaded (30)"),
        ("images", 'offer_tools = "never"', "offer_tools must be one of 'with_images' or 'always', not 'never'"),
        (
            "images",
            'remote_urls = "allow"',
            "remote_urls = 'allow' needs allowed_hosts: name the hosts that images may come from",
        ),
        (
            "images",
            'allowed_hosts = ["ok.org", "https://a.org/"]',
            "allowed_hosts #2 must be a host such as 'images.example.org', 'images.example.org:8080' or "
            "'*.example.org' (no scheme or path, in ASCII letters), not 'https://a.org/'",
        ),
        (
            "images",
            'allowed_networks = ["10.1.2.3/16"]',
            "allowed_networks #1 must be an address range such as '10.1.0.0/16' (all host bits zero), "
            "not '10.1.2.3/16'",
        ),
        ("store", 'path = ""', "path must be the path of a folder, not ''"),
        ("store", 'kind = "s3"', "kind must be one of 'disk', 'memory' or 'redis', not 's3'"),
        (
            "store",
            'kind = "redis"',
            "kind = 'redis' needs a url that begins with redis://, rediss:// or unix://",
        ),
        ("store", "retention_hours = 0", "retention_hours must be more than 0, not 0"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(machine: Machine, table: str, line: str, message: str) -> None:
    assert machine.error(f"{PAIR}[{table}]\n{line}\n") == f"config.toml: [{table}] {message}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("max_turns = 1", "max_turns must be at least 2 (one turn to look, one left to answer), not 1"),
        ("first_byte_seconds = 0", "first_byte_seconds must be more than 0, not 0"),
        ('thinking = "maybe"', "thinking must be one of 'client', 'on' or 'off', not 'maybe'"),
        ('images = "yes"', "images must be one of 'tool', 'caption', 'native' or 'off', not 'yes'"),
        (f'api_key = {{ key = "{SECRET}" }}', "api_key must be a string, not a table"),
    ],
)
def test_a_wrong_value_of_a_brain_is_named(machine: Machine, line: str, message: str) -> None:
    assert machine.error(f"{BRAIN}{line}\n{EYES}") == f"config.toml: [[text]] #1 {message}"


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "ftp://a/v1", "http://", "http:///v1", "http://a:x/v1", "http://[::1/v1", "http://a b/v1", ""],
)
def test_what_is_no_address_is_refused(machine: Machine, url: str) -> None:
    assert machine.error(f'[[text]]\nbase_url = "{url}"\n{EYES}') == (
        "config.toml: [[text]] #1 base_url must be an http or https address such as 'http://127.0.0.1:8000/v1', "
        f"not {url!r}"
    )


def test_an_address_must_not_carry_a_password(machine: Machine) -> None:
    message = machine.error(f'[[text]]\nbase_url = "https://me:{SECRET}@a.org/v1"\n{EYES}')
    assert "put it in api_key" in message
    assert SECRET not in message


@pytest.mark.parametrize("url", ["http://a/v1?key=1", "http://a/v1#x"])
def test_an_address_must_be_one_that_paths_can_be_added_to(machine: Machine, url: str) -> None:
    assert "must not hold '?' or '#'" in machine.error(f'[[text]]\nbase_url = "{url}"\n{EYES}')


def test_addresses_are_kept_without_a_slash_at_the_end(machine: Machine) -> None:
    got = machine.settings('[[text]]\nbase_url = "https://a.org:1/v1//"\n' + EYES)
    assert got.text[0].base_url == "https://a.org:1/v1"


@pytest.mark.parametrize(("path", "noted"), [("/v1", False), ("/api/paas/v4", False), ("", True), ("/v1/chat", True)])
def test_an_unusual_address_is_worth_a_note_but_no_error(machine: Machine, path: str, noted: bool) -> None:
    machine.write(f'[[text]]\nbase_url = "http://a{path}"\n{EYES}')
    notes = machine.load().notes
    assert len(notes) == noted
    assert all(note.startswith("[[text]] #1 base_url") and f"http://a{path}/chat/completions" in note for note in notes)


def test_numbers_and_switches_are_taken_from_strings_because_variables_are_strings(machine: Machine) -> None:
    got = machine.settings(PAIR + 'thinking = "${T}"\nmax_tokens = "${N}"\n', T="true", N="7")
    assert (got.vision[0].thinking, got.vision[0].max_tokens) == (True, 7)


def test_hosts_are_kept_in_one_form(machine: Machine) -> None:
    got = machine.settings(
        PAIR
        + '[images]\nallowed_hosts = ["Images.Example.org.", "[::1]", "10.0.0.1", "*.CDN.org", "[::1]:080", "a:81"]'
    )
    assert got.images.allowed_hosts == ("images.example.org", "::1", "10.0.0.1", "*.cdn.org", "[::1]:80", "a:81")


@pytest.mark.parametrize(
    "host",
    ["", "*", "*.", "a.*", "*a.org", "a.org/", "a:0", "a:99999", "b\u00fc.de", "127.1", "0x7f.1", "*.10.0.0.1", "u@a"],
)
def test_what_is_no_host_is_refused(machine: Machine, host: str) -> None:
    assert "allowed_hosts #1 must be a host such as" in machine.error(PAIR + f'[images]\nallowed_hosts = ["{host}"]')


def test_a_relative_or_home_path_of_the_store_is_made_absolute(machine: Machine) -> None:
    assert machine.settings(PAIR + '[store]\npath = "~/x"').store.path == machine.home / "x"
    assert machine.settings(PAIR + '[store]\npath = "x"').store.path == machine.cwd / "x"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_loopback_needs_no_keys(machine: Machine, host: str) -> None:
    assert is_loopback(host)
    assert machine.settings(f'{PAIR}[server]\nhost = "{host}"').server.host == host.strip("[]")


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.2", "example.org", "localhost.example.org", "127.0.0.1.nip"]
)
def test_other_hosts_are_refused_without_keys(machine: Machine, host: str) -> None:
    assert not is_loopback(host)
    expected = (
        f"[server] host {host!r} can be reached from other machines, but api_keys is empty: set api_keys "
        "(or the variable CHIASM_SERVER__API_KEYS='[\"…\"]'), or listen on 127.0.0.1"
    )
    assert machine.error(f'{PAIR}[server]\nhost = "{host}"') == f"config.toml: {expected}"
    assert machine.error(f'{PAIR}[server]\nhost = "{host}"\napi_keys = [""]') == f"config.toml: {expected}"
    assert machine.error(PAIR, flags=Flags(host=host)) == f"config.toml: {expected}"
    assert machine.settings(f'{PAIR}[server]\nhost = "{host}"\napi_keys = ["k"]').server.host == host
    assert machine.load(flags=Flags(host=host), CHIASM_SERVER__API_KEYS='["k"]').settings.server.host == host


# --- secrets ---------------------------------------------------------------------------------------------------------

EVERY_SECRET = f"""
[server]
api_keys = ["{SECRET}1", "", "{SECRET}2"]
admin_key = "{SECRET}3"
[[text]]
base_url = "http://a/v1"
api_key = "${{KEY}}"
[[vision]]
name = "qwen"
base_url = "http://a/v1"
api_key = " {SECRET}5 "
[store]
url = "redis://:{SECRET}6@127.0.0.1/0"
"""


def test_no_secret_shows_in_any_form_of_the_settings(machine: Machine) -> None:
    machine.write(EVERY_SECRET)
    loaded = machine.load(KEY=SECRET + "4")
    got = loaded.settings
    assert got.text[0].api_key.get_secret_value() == SECRET + "4"
    assert got.vision[0].api_key.get_secret_value() == SECRET + "5"
    for shown in (repr(loaded), str(loaded), repr(got), str(got), masked(got), got.model_dump_json(), str(got.store)):
        assert SECRET not in shown


def test_masked_secrets_show_whether_they_are_set(machine: Machine) -> None:
    full = tomllib.loads(masked(machine.settings(EVERY_SECRET, KEY="k")))
    assert full["server"]["api_keys"] == ["****", "****"]
    assert full["server"]["admin_key"] == full["text"][0]["api_key"] == full["store"]["url"] == "****"
    empty = tomllib.loads(masked(machine.settings(PAIR)))
    assert empty["server"]["api_keys"] == []
    assert empty["server"]["admin_key"] == empty["text"][0]["api_key"] == empty["store"]["url"] == ""


def test_the_masked_configuration_is_the_configuration(machine: Machine) -> None:
    text = PAIR + '[images]\nallowed_hosts = ["a.org"]\nallowed_networks = ["10.0.0.0/8", "fd00::/8"]\nmax_gib = 1\n'
    got = machine.settings(text.replace("max_gib = 1", "max_image_mib = 0.25"))
    assert machine.settings(masked(got)) == got


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_name_survives_being_printed(name: str) -> None:
    got = Settings.model_validate({"text": [{"name": name, "base_url": "http://a/v1"}], "vision": [{"kind": "ocr"}]})
    assert tomllib.loads(masked(got))["text"][0]["name"] == name


def _faults() -> list[str]:
    """Each secret's value in every place where something can be wrong with it or beside it."""
    return [
        f'[server]\nadmin_key = "{SECRET}\\n{SECRET}"',
        f'[server]\napi_keys = ["{SECRET}é"]',
        f'[server]\napi_keys = "{SECRET}"',
        f'[server]\napi_keys = {{ a = "{SECRET}" }}',
        f'[server]\nadmin_keys = "{SECRET}"',
        f'[server]\nadmin_key = ["{SECRET}"]',
        f'[sever]\nadmin_key = "{SECRET}"',
        f'[server]\nadmin_key = "{SECRET}"\nport = "x"',
        f'[store]\nkind = "redis"\nurl = "http://:{SECRET}@h"',
        f'[server]\nport = "{SECRET}{SECRET}"',
        '[store]\nkind = "${KEY}"',
        '[server]\nport = "${KEY}"',
        f'[server]\nadmin_key = "{SECRET}${{NO}}"',
        f'[server]\nhost = {{ a = "{SECRET}" }}',
        f'[server]\nhost = ["{SECRET}"]',
    ]


@pytest.mark.parametrize("fault", _faults())
def test_no_secret_shows_in_any_error(machine: Machine, fault: str) -> None:
    machine.write(PAIR + fault)
    with pytest.raises(ConfigError) as caught:
        machine.load(KEY=SECRET)
    error: BaseException | None = caught.value
    assert SECRET not in "\n".join(caught.value.problems)
    assert SECRET not in repr(error)
    assert SECRET not in "".join(traceback.format_exception(error, limit=0))
    assert caught.value.__context__ is None


def test_what_a_variable_gave_is_shown_as_the_reference_to_it(machine: Machine) -> None:
    assert machine.error(PAIR + '[server]\nport = "${KEY}"', KEY=SECRET) == (
        "config.toml: [server] port must be a whole number, not '${KEY}'"
    )


@pytest.mark.parametrize("model", TABLES.values())
def test_a_bare_validation_error_hides_what_it_was_given(model: type[BaseModel]) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate({"unheard_of": SECRET, "base_url": "http://a/v1"})
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)


# --- anything at all -------------------------------------------------------------------------------------------------

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("http://a/v1"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
_options = sorted({option for model in TABLES.values() for option in model.model_fields})
_tables = st.dictionaries(st.sampled_from(_options) | st.text(max_size=5), _values, max_size=4)
_files: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.sampled_from(sorted(TABLES)), _values | _tables | st.lists(_tables, max_size=3), max_size=5
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=_files, overrides=st.dictionaries(st.sampled_from(_options), st.text(max_size=5), max_size=2))
def test_whatever_is_configured_is_either_loaded_or_refused_in_lines(
    tmp_path: Path, content: dict[str, Any], overrides: Mapping[str, str]
) -> None:
    path = tmp_path / "any.toml"
    path.touch()
    environ = {f"CHIASM_{table}__{option}": text for option, text in overrides.items() for table in ("SERVER", "store")}
    problems: tuple[str, ...] = ()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("router.config.load.parse", lambda text, name: content)
        try:
            loaded = load_settings(path, environ=environ, cwd=tmp_path, home=tmp_path)
        except ConfigError as error:
            problems = error.problems
        else:
            assert tomllib.loads(masked(loaded.settings))
    assert all(problem and "\n" not in problem for problem in problems)


# --- the example -----------------------------------------------------------------------------------------------------

EXAMPLE = Path(__file__).parent.parent / "config.example.toml"


def _with_defaults_uncommented() -> str:
    return re.sub(r"^#(?=[a-z_]+ = )", "", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_the_example_works_as_it_stands(machine: Machine) -> None:
    loaded = machine.load(EXAMPLE)
    [text], [vision] = loaded.settings.text, loaded.settings.vision
    assert (text.base_url, vision.base_url) == ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8001/v1")
    assert loaded.settings.eyes_for(text) == vision
    assert loaded.notes == ()


def test_the_example_holds_every_option_and_no_other() -> None:
    example = tomllib.loads(_with_defaults_uncommented())
    for table, value in example.items():
        [entry] = value if isinstance(value, list) else [value]
        assert list(entry) == list(TABLES[table].model_fields)
    assert set(example) == set(Settings.model_fields)


def test_the_example_shows_the_defaults(machine: Machine) -> None:
    shown = machine.load(machine.write(_with_defaults_uncommented())).settings
    bare = '[[text]]\nbase_url = "http://127.0.0.1:8000/v1"\n[[vision]]\nbase_url = "http://127.0.0.1:8001/v1"\n'
    assert shown == machine.settings(bare)


def test_every_option_of_the_example_has_a_line_on_when_to_change_it() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    options = [number for number, line in enumerate(lines) if re.match(r"#?[a-z_]+ = ", line)]
    assert len(options) == sum(len(model.model_fields) for model in TABLES.values())
    assert [lines[number] for number in options if not lines[number - 1].startswith("# ")] == []


@pytest.mark.parametrize("mark", ["?key=", "?a=b&token=", "#"])
def test_a_key_behind_an_address_is_not_shown(machine: Machine, mark: str) -> None:
    problem = machine.error(f'[[text]]\nname = "m"\nbase_url = "https://host/v1{mark}{SECRET}"\n' + EYES)
    assert SECRET not in problem
    assert "https://host/v1" in problem
    assert "must not hold '?' or '#'" in problem


@pytest.mark.parametrize(
    ("url", "host", "port", "itself"),
    [
        ("http://127.0.0.1:8090/v1", "127.0.0.1", 8090, True),
        ("http://localhost:8090/v1", "127.0.0.1", 8090, True),
        ("http://[::1]:8090/v1", "::", 8090, True),
        ("http://127.0.0.1:8090/v1", "0.0.0.0", 8090, True),
        ("http://gpu:80/v1", "gpu", 80, True),
        ("http://gpu/v1", "gpu", 80, True),
        ("https://gpu/v1", "gpu", 80, False),
        ("http://127.0.0.1:8000/v1", "127.0.0.1", 8090, False),
        ("http://127.0.0.2:8090/v1", "127.0.0.1", 8090, False),
        ("http://gpu:8090/v1", "0.0.0.0", 8090, False),
        ("http://127.0.0.1:8090/v1", "192.168.1.5", 8090, False),
    ],
)
def test_a_server_that_is_chiasm_itself_is_refused(url: str, host: str, port: int, itself: bool) -> None:
    server = {"host": host, "port": port, "api_keys": ["k" * 16]}
    words = []
    for table in ("text", "vision"):
        other = "vision" if table == "text" else "text"
        tables = {"server": server, table: [{"base_url": url}], other: [{"base_url": "http://elsewhere:1/v1"}]}
        try:
            Settings.model_validate(tables)
        except ValidationError as error:
            words.append(str(error))
    assert len(words) == (2 if itself else 0)
    assert all("is where Chiasm itself will listen" in one for one in words)

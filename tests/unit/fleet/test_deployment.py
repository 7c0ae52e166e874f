"""The settings of each kind of process, and the `.env` that counts."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

from app.environment import declared, options, read
from app.errors import UserError
from app.fleet import deployment
from app.fleet.deployment import KINDS, SuperLinkSettings, SuperNodeSettings, UpSettings, dotenv
from app.fleet.site.allowed_apps import THE_OWN, AllowedApps

# What a command is given as it is.
WITHOUT_A_NAME = {("compare", "runs"), ("predict", "images")}


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_every_setting_says_what_it_means_in_one_line(kind: deployment.ProcessKind) -> None:
    for name, of in declared(kind.settings).items():
        assert of.meaning.endswith(".") and "\n" not in of.meaning, name
        assert of.variable or options(name, of) or (kind.name, name) in WITHOUT_A_NAME


def test_one_variable_is_read_in_one_form() -> None:
    forms = defaultdict(set)
    for kind in KINDS:
        for of in declared(kind.settings).values():
            if of.variable:
                forms[of.variable].add(of.form.name)
    assert {name: names for name, names in forms.items() if len(names) > 1} == {}


def test_plaintext_is_asked_for_by_name() -> None:
    for wrong in ({}, {"certificates": "x", "state": "y", "insecure": True}):
        with pytest.raises(UserError, match="give either --certificates"):
            read(SuperLinkSettings, wrong, environment={})
    with pytest.raises(UserError, match=r"needs --state \(BOUQUET_STATE\)"):
        read(SuperLinkSettings, environment={"BOUQUET_CERTIFICATES": "x"})
    with pytest.raises(UserError, match="give either --ca"):
        read(SuperNodeSettings, environment={})
    with pytest.raises(UserError, match="no key: give --key"):
        read(SuperNodeSettings, environment={"BOUQUET_CA": "ca.crt"})


def test_a_list_of_apps_is_checked_when_it_is_read() -> None:
    hashes = "A" * 64 + ", " + "b" * 64
    environment = {"BOUQUET_ALLOWED_APPS": hashes}
    assert read(UpSettings, environment=environment).allowed_apps == AllowedApps({"a" * 64, "b" * 64})
    with pytest.raises(UserError, match="BOUQUET_ALLOWED_APPS holds 'abc'"):
        read(UpSettings, environment={"BOUQUET_ALLOWED_APPS": "abc"})
    assert read(UpSettings, environment={"BOUQUET_ALLOWED_APPS": ""}).allowed_apps == THE_OWN


@pytest.mark.parametrize("where", ["environment", "dotenv"])
def test_the_former_name_of_a_rule_is_refused_with_its_present_one(where: str) -> None:
    given: dict[str, Mapping[str, str]] = {"environment": {}, "dotenv": {}} | {
        where: {"ALLOWED_APPS": "0" * 64}
    }
    with pytest.raises(UserError, match="ALLOWED_APPS is called BOUQUET_ALLOWED_APPS now"):
        read(UpSettings, **given)


def test_clients_that_share_a_folder_share_the_cores() -> None:
    def sharing(**environment: str) -> int:
        return read(SuperNodeSettings, {"insecure": True}, environment=environment).sharing

    assert sharing(NUM_CLIENTS="10") == 1
    assert sharing(NUM_CLIENTS="10", BOUQUET_LEASES="/leases") == 10
    assert sharing(NUM_CLIENTS="10", BOUQUET_LEASES="/leases", BOUQUET_LOCAL_CLIENTS="4") == 4


def test_dotenv_is_that_of_bouquets_checkout_and_of_no_other_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text(
        'NUM_CLIENTS=4\nROUNDS=2  # quick\nCONFIG="batch-size=64 seed=1"\nDATASET=\n'
    )
    monkeypatch.chdir(tmp_path)
    assert dotenv() == {}, "an app's own file"
    monkeypatch.setattr(deployment, "PACKAGE", tmp_path)
    found = read(UpSettings, environment={}, dotenv=dotenv())
    assert (found.num_clients, found.rounds, found.config) == (4, 2, "batch-size=64 seed=1")
    (tmp_path / ".env").write_bytes(b"NUM_CLIENTS=\xff\n")
    with pytest.raises(UserError, match=r"\.env cannot be read"):
        dotenv()
    (tmp_path / ".env").write_text("ROUNDS=2\n")
    assert read(UpSettings, {"num_clients": "3"}, environment={"ROUNDS": "1"}, dotenv=dotenv()).rounds == 1

"""By hand: the records and the table of the attacks. System, slow: one small round of each attack that has no test yet.

Cut links are in test_outages.py, a killed worker under `trainers.launch` and two jobs on a folder in test_restarts.py.
"""

import dataclasses
import json
import os
import pathlib
import random
import socket

import pytest

from dqgan_tf.telemetry import json_lines
from tests.weather import attacks, test_outages

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUTCOME = attacks.Outcome("worker 0", True, "ended", [4, None], 9.4, 18, detail="ERROR: x")


@pytest.fixture
def one_attack(monkeypatch):
    """An attack of three rounds that notes what it was given."""
    calls = []

    def attack(number, rng, folder):
        assert folder.is_dir()
        calls.append((number, rng.random()))
        return dataclasses.replace(OUTCOME, case=f"round {number}")

    monkeypatch.setattr(attacks, "ATTACKS", {"one": (attack, 3, "an attack")})
    return calls


def test_rounds_that_are_recorded_are_not_repeated(tmp_path, one_attack):
    path = tmp_path / "attacks.jsonl"
    assert [line[:7] for line in attacks.rounds(path, ["one"], 0, most=2)] == ["one 0: ", "one 1: "]
    assert len(list(attacks.rounds(path, ["one"], 0))) == 1
    assert [number for number, _ in one_attack] == [0, 1, 2]
    assert len(list(attacks.rounds(path, ["one"], 1))) == 3, "another seed has other moments"
    moments = [moment for _, moment in one_attack]
    assert len(set(moments)) == 6
    entries = json_lines.read(path)
    assert [entry["step"] for entry in entries] == [0, 1, 2, 0, 1, 2]
    assert entries[0]["case"] == "round 0" and entries[0]["codes"] == [4, None]
    assert entries[3]["provenance"]["seeds"] == [1]


def test_a_seed_makes_the_moments(tmp_path, one_attack):
    for name in ("a", "b"):
        list(attacks.rounds(tmp_path / name, ["one"], 5))
    assert one_attack[:3] == one_attack[3:]


def test_table():
    outcomes = [
        OUTCOME,
        dataclasses.replace(OUTCOME, seconds=17.6),
        dataclasses.replace(OUTCOME, passed=False, result="survived", codes=[None, None], seconds=19, limit=38),
    ]
    outcomes += [dataclasses.replace(OUTCOME, phase=phase) for phase in ("training", "end", "training")]
    kills = [dataclasses.replace(OUTCOME, result="survived", exact=exact, kills=10) for exact in (True, False)]
    entries = [{"attack": "freeze", **dataclasses.asdict(outcome)} for outcome in outcomes]
    entries += [{"attack": "kills", **dataclasses.asdict(outcome)} for outcome in kills]
    header, _, freeze, killed = attacks.table(entries).splitlines()
    assert header == "| attack | rounds | result | longest, s, of the limit | exact | as promised |"
    words = attacks.ATTACKS["freeze"][2]
    words += ": 2 in training, 1 at the end"
    assert freeze == f"| {words} | 6 | 5 ended, 1 survived, codes 4 | 18 of 18 |  | 5 of 6 |"
    assert killed.endswith("| 2 survived, codes 4 | 9 of 18 | 1 of 2 | 2 of 2 |")


def test_the_table_of_the_documents_is_that_of_the_results():
    text = (ROOT / "docs" / "operations.md").read_text()
    shown = text.split("<!-- results:weather -->")[1].split("<!-- /results:weather -->")[0].strip()
    assert shown == attacks.table(json_lines.read(ROOT / "results" / "weather" / "attacks.jsonl"))


def test_the_last_line_of_a_log_is_its_error(tmp_path):
    log = tmp_path / "log"
    log.write_text("step 1\nERROR: Worker 0 lost another worker.\nE0000 what TensorFlow prints beside it\n\n")
    assert attacks.last_line(log) == "ERROR: Worker 0 lost another worker."
    log.write_text("")
    assert attacks.last_line(log) == ""


def test_the_phase_of_a_run_is_that_of_its_files(tmp_path):
    seen = [attacks.phase(tmp_path, 30)]
    for step in (10, 20, 30):
        with json_lines.JsonLinesWriter(tmp_path / "metrics.jsonl", resume_step=None) as writer:
            writer.write(step, {})
        seen.append(attacks.phase(tmp_path, 30))
    assert seen == ["start", "training", "training", "end"]


def test_the_listeners_of_a_process_are_found():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port, inode = server.getsockname()[1], os.fstat(server.fileno()).st_ino
        assert (port, str(inode)) in attacks.listeners(os.getpid())
    assert (port, str(inode)) not in attacks.listeners(os.getpid())


def make(attack, number, folder):
    outcome = attack(number, random.Random(number), folder)
    assert outcome.passed, json.dumps(dataclasses.asdict(outcome), indent=2)
    return outcome


@pytest.mark.slow
@pytest.mark.parametrize(("number", "phase"), [(0, "training"), (48, "start"), (4, "end")])
def test_a_frozen_worker_ends_all_in_time(tmp_path, number, phase):
    # 48 freezes 2 s after the start, where no machine has taken a step; 4.4 s hit the training on a fast one
    assert make(attacks.freeze, number, tmp_path).phase == phase


@pytest.mark.slow
def test_a_pause_is_survived(tmp_path):
    make(attacks.pause, 0, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1], ids=["bursts", "niceness"])
def test_a_starved_worker_is_slow_and_not_dead(tmp_path, number):
    make(attacks.starve, number, tmp_path)


@pytest.mark.slow
def test_strangers_during_the_start_are_survived(tmp_path):
    make(attacks.strangers, 0, tmp_path)


@pytest.mark.slow
@test_outages.needs_namespaces
@pytest.mark.parametrize("number", range(4), ids=["exchange-0", "exchange-1", "goodbye-0", "goodbye-1"])
def test_a_link_that_is_cut_at_the_end_ends_both_in_time(tmp_path, number):
    make(attacks.links_end, number, tmp_path)


@pytest.mark.slow
@test_outages.needs_namespaces
def test_a_cut_of_8_s_is_survived_with_a_longer_limit(tmp_path):
    make(attacks.links_8_s, 2, tmp_path)


@pytest.mark.slow
def test_a_stale_lock_does_no_harm(tmp_path):
    make(attacks.stale_lock, 0, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(attacks.MIXED)), ids=attacks.MIXED)
def test_a_file_of_an_older_checkpoint_is_refused_by_name(tmp_path, number):
    make(attacks.mixed, number, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(attacks.CLUSTERS)), ids=attacks.CLUSTERS)
def test_a_cluster_that_cannot_work_is_refused(tmp_path, number):
    make(attacks.clusters, number, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)  # four starts; took 350 s beside ten other processes on two cores
@pytest.mark.parametrize("number", [1, 4], ids=["rules and all_gather", "local steps and two_step"])
def test_a_run_that_is_killed_twice_is_exact(tmp_path, monkeypatch, number):
    monkeypatch.setattr(attacks, "KILLS", 2)
    outcome = make(attacks.kills, number, tmp_path)
    assert outcome.exact and outcome.kills == 2

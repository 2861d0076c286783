"""What every server that loads several versions shows beside the agent, as processes: one suite, run for each of them.

A module gives it a `pair` fixture and a class of its own: `class TestContract(Contract)`.
"""

import shutil
import socket
from typing import Any, ClassVar

from tests.e2e.agent.pair import MODEL, Beside


class Contract:
    broken_words: str  # of the server, about a version that `put_broken` made
    edit: ClassVar[dict[str, Any]]  # a setting whose change has everything tried again

    def test_versions_are_added_and_removed_under_load_without_a_failed_request(self, pair: Beside) -> None:
        for version in (1, 2, 3):
            pair.put(version)
        pair.want(2, 1)
        pair.boot()
        pair.until(lambda: pair.states() == {1: "Available", 2: "Available"})
        assert (pair.multiply(1), pair.multiply(2), pair.multiply()) == (1.0, 2.0, 2.0)
        before = pair.identity(2)
        with pair.asked_all_the_time() as constant:
            pair.want(3, 2)
            pair.until(lambda: pair.states() == {2: "Available", 3: "Available"})
            constant.after_answers()
        constant.nothing_failed(2.0, 3.0)
        assert pair.multiply() == 3.0
        assert pair.identity(2) == before
        assert not (pair.models / "repository" / MODEL / "1").exists()
        assert (pair.serves(1), pair.serves(2)) == (False, True)

    def test_in_its_turn_a_pod_leaves_before_it_loads_and_open_connections_are_answered(self, pair: Beside) -> None:
        pair.put(1)
        pair.put(2)
        pair.want(1)
        pair.boot()
        with pair.asked_all_the_time() as constant:
            turn = {"pods": [socket.gethostname()], "served": 2, "load": [1, 2], "drainSeconds": 2, "held": True}
            pair.want(1, turn=turn)
            pair.until(lambda: pair.probe("/readyz") == 503)
            assert not pair.serves(2), "it drains before it loads"
            pair.until(lambda: pair.status()["signatures"].keys() >= {"2"})
            assert pair.probe("/readyz") == 503, "it is held"
            pair.want(1, turn={**turn, "held": False})
            pair.until(lambda: pair.probe("/readyz") == 200)
            constant.failures[:] = [said for said in constant.failures if "isn't ready" not in said]
            constant.after_answers()
        constant.nothing_failed(1.0, 2.0)

    def test_a_broken_version_beside_a_good_one_is_left_out(self, pair: Beside) -> None:
        pair.put_broken(1)
        pair.put(2)
        pair.want(2, 1)
        pair.boot()
        pair.until(lambda: pair.states() == {1: "Failed", 2: "Available"})
        [first, _] = pair.status()["versions"]
        assert first["reason"] == "LoadFailed"
        assert self.broken_words in first["message"]
        assert "\nAt:" not in first["message"], "no stack"
        assert pair.status()["error"] is None
        assert pair.multiply() == 2.0

    def test_a_first_version_that_is_broken_is_said_and_its_correction_served(self, pair: Beside) -> None:
        pair.put_broken(1)
        pair.want(1)
        pair.start_agent()
        pair.until(lambda: pair.probe("/startz") == 200)
        pair.start_server()
        pair.until(lambda: pair.states() == {1: "Failed"})
        assert self.broken_words in pair.message(1)
        assert pair.probe("/readyz") == 503
        assert pair.is_running("server")
        pair.put(1)
        pair.want(1, **self.edit)
        pair.until(lambda: pair.probe("/readyz") == 200)
        assert pair.multiply() == 1.0

    def test_a_broken_new_served_version_leaves_the_old_one_answering(self, pair: Beside) -> None:
        pair.put(2)
        pair.put_broken(3)
        pair.want(2)
        pair.boot()
        with pair.asked_all_the_time() as constant:
            pair.want(3)
            pair.until(lambda: pair.states() == {2: "Unloading", 3: "Failed"})
            constant.after_answers()
        constant.nothing_failed(2.0)
        assert pair.status()["error"]["reason"] == "LoadFailed"
        assert self.broken_words in pair.message(3)
        pair.kill("server")
        pair.until(lambda: pair.probe("/readyz") == 503)
        pair.start_server()
        pair.until(lambda: pair.probe("/readyz") == 200)
        assert pair.multiply() == 2.0
        pair.put(3)
        pair.want(3, **self.edit)
        pair.until(lambda: pair.states() == {3: "Available"})
        assert pair.multiply() == 3.0

    def test_a_killed_server_and_a_killed_agent_come_back_as_they_were(self, pair: Beside) -> None:
        pair.put(1)
        pair.put(2)
        pair.want(2, 1)
        pair.boot()
        pair.until(lambda: pair.states() == {1: "Available", 2: "Available"})
        # a server that dies in the middle of a load is another story: what it was loading is left out then
        pair.until(lambda: '"load ended", "versions": [1, 2]' in (pair.folder / "agent.log").read_text())
        pair.kill("server")
        pair.until(lambda: pair.probe("/readyz") == 503, seconds=3)
        pair.start_server()
        pair.until(lambda: pair.states() == {1: "Available", 2: "Available"} and pair.probe("/readyz") == 200)
        assert (pair.multiply(), pair.multiply(1)) == (2.0, 1.0)
        before = pair.identity(1), pair.identity(2)
        pair.kill("agent")
        shutil.rmtree(pair.source)
        pair.start_agent()
        pair.until(lambda: pair.probe("/readyz") == 200)
        pair.until(lambda: pair.states() == {1: "Available", 2: "Available"})
        assert (pair.identity(1), pair.identity(2)) == before
        assert pair.multiply(1) == 1.0

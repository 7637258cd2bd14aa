"""Experts in processes of their own: what the pool sees of them, and that nothing of them is left over.

The environment is a real one, without packages of its own: its interpreter finds them where this one does.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import venv
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from mova_core.cards.card import ExpertCard
from mova_core.cards.environments import environment_folder, interpreter, write_note
from mova_core.errors import ConfigError, ExpertLoadError, ExpertRunError
from mova_core.experts.isolation.channel import Channel
from mova_core.experts.isolation.messages import REQUESTS, Load, TensorHeader
from mova_core.experts.isolation.patience import Patience
from mova_core.experts.isolation.proxy import IsolatedExpert
from mova_core.experts.isolation.shared import adopt, share
from mova_core.experts.loading import load_expert
from mova_core.experts.pool import ExpertPool
from mova_core.routing.route import Route

MakeCard = Callable[..., ExpertCard]

TOYS = """
import os, signal, sys, time
import torch
from mova_core.errors import ExpertLoadError, InputError
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.protocol import VisionExpert

GRID = (2, 3)

class Colours(VisionExpert):
    '''Averages each cell of its grid and projects the colour.'''

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = torch.nn.Parameter(torch.randn(4, 3, generator=generator))

    @classmethod
    def from_pretrained(cls, source, *, dtype, device):
        return cls().to(device, dtype)

    @classmethod
    def from_config(cls, **tiny):
        return cls()

    def forward(self, stream):
        cells = torch.nn.functional.adaptive_avg_pool2d(stream, GRID).flatten(2).mT
        return ExpertFeatures(cells @ self.weight.T, GRID)

class Prepares(Colours):
    def preprocess(self, images):
        return torch.stack([torch.full((3, 12, 18), image.getpixel((0, 0))[0] / 255) for image in images])

class Process(Colours):
    '''Says in which process it runs.'''

    def forward(self, stream):
        pid = torch.tensor(float(os.getpid()), dtype=torch.float64)
        return ExpertFeatures(pid.expand(len(stream), 6, 4), GRID)

class Moody(Colours):
    '''Does what the first pixel says.'''

    def forward(self, stream):
        mood = round((stream[0, 0, 0, 0].item() + 1) * 127.5)
        if mood == 1:
            raise RuntimeError("out of paint")
        if mood == 2:
            raise InputError("too dark", value="night", expected="day", hint="Wait.")
        if mood == 3:
            return "nothing"
        if mood == 4:
            print("the last words", flush=True)
            os._exit(3)
        if mood == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        if mood == 6:
            time.sleep(600)
        if mood == 7:
            sys.exit("enough")
        return super().forward(stream)

class Bad(Colours):
    @classmethod
    def from_pretrained(cls, source, *, dtype, device):
        raise ExpertLoadError("the weights are bad", value=source or "none", hint="Fetch them.")

class Ends(Colours):
    @classmethod
    def from_pretrained(cls, source, *, dtype, device):
        print("no device", file=sys.stderr)
        os._exit(1)

class Sleeps(Colours):
    @classmethod
    def from_pretrained(cls, source, *, dtype, device):
        time.sleep(600)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the toys, which looks for all else where this interpreter does."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    shared = [path for path in sys.path if Path(path).name == "site-packages"]
    (site / "shared.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in shared))
    (site / "isolated_toys.py").write_text(TOYS)
    return folder


@pytest.fixture(scope="module")
def place(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    """Gives the expert of a card that environment, or what else is there in its place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOVA_CACHE", str(tmp_path_factory.mktemp("cache")))

        def put(card: ExpertCard, there: Path = environment) -> Path:
            folder = environment_folder(card)
            folder.parent.mkdir(exist_ok=True)
            folder.unlink(missing_ok=True)
            folder.symlink_to(there)
            write_note(card, version="", requirements=[], shared=[])
            return folder

        yield put


@pytest.fixture(scope="module")
def toy(make_card: MakeCard, place: Callable[..., Path]) -> MakeCard:
    """The card of a toy, which has its environment."""

    def make(name: str, **changes: Any) -> ExpertCard:
        card = make_card(name.lower(), factory=f"isolated_toys:{name}", isolation="process", **changes)
        place(card)
        return card

    return make


@pytest.fixture(scope="module")
def shared_pool(toy: MakeCard) -> ExpertPool:
    """A pool whose experts are loaded once for several tests."""
    return ExpertPool([toy("Colours"), toy("Prepares"), toy("Process"), toy("Moody")])


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The toys as a module of this process."""
    import types

    module = types.ModuleType("isolated_toys")
    exec(TOYS, module.__dict__)
    monkeypatch.setitem(sys.modules, "isolated_toys", module)
    return module


def shade(value: int) -> Image.Image:
    return Image.new("RGB", (18, 12), (value, value, value))


def start(card: ExpertCard, **options: Any) -> IsolatedExpert:
    return IsolatedExpert.start(card, "", dtype=torch.float32, device=torch.device("cpu"), **options)


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def ends(pid: int, seconds: float = 20) -> bool:
    """Whether a process that is no child of this one ends soon."""
    deadline = time.monotonic() + seconds
    while runs(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not runs(pid)


def segments() -> int:
    """Pieces of shared memory that this process has mapped."""
    return sum("memfd:mova" in line for line in Path("/proc/self/maps").read_text().splitlines())


def descriptors() -> int:
    """Files that this process has open, those of experts that nobody holds any more not counted."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


class TestFeatures:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_they_are_those_of_the_expert_in_this_process(
        self, toy: MakeCard, here: Any, pictures: list[Image.Image], dtype: torch.dtype
    ) -> None:
        apart = ExpertPool([toy("Colours")], dtype=dtype)
        together = ExpertPool([toy("Colours")], dtype=dtype, loader=lambda card: here.Colours().bind(card))
        found, wanted = (pool.encode_all(pictures, "colours") for pool in (apart, together))
        assert found.tokens.dtype == dtype and found.grid == wanted.grid
        assert torch.equal(found.tokens, wanted.tokens)
        assert apart.loaded_bytes == together.loaded_bytes == 12 * dtype.itemsize

    def test_a_class_with_a_preprocess_of_its_own_prepares_in_its_process(
        self, shared_pool: ExpertPool, here: Any, pictures: list[Image.Image]
    ) -> None:
        there, own = shared_pool.expert("prepares"), here.Prepares()
        assert torch.equal(there.preprocess(pictures), own.preprocess(pictures))
        routes = [Route(("colours", "prepares"))] * 2
        encoded = shared_pool.encode([shade(10), shade(200)], routes)
        for id in ("colours", "prepares"):
            alone = shared_pool.encode_all([shade(10), shade(200)], id)
            assert torch.equal(encoded[id].features.tokens, alone.tokens)
        assert not torch.equal(*(encoded[id].features.tokens for id in ("colours", "prepares")))

    def test_each_picture_meets_only_its_own_experts(self, shared_pool: ExpertPool) -> None:
        routes = [Route(("colours",)), Route(()), Route(("process", "colours")), Route(("process",))]
        encoded = shared_pool.encode([shade(value) for value in (40, 50, 60, 70)], routes)
        assert encoded["colours"].rows == (0, 2) and encoded["process"].rows == (2, 3)

    def test_they_come_from_a_process_of_its_own(self, shared_pool: ExpertPool) -> None:
        expert: Any = shared_pool.expert("process")
        (said,) = expert(torch.zeros(1, 3, 12, 18)).tokens.unique().tolist()
        assert said == expert.pid != os.getpid()

    def test_threads_get_the_answers_to_their_own_requests(self, shared_pool: ExpertPool) -> None:
        expert = shared_pool.expert("colours")
        streams = [torch.full((1, 3, 12, 18), value / 10) for value in range(20)]
        wanted = [expert(stream).tokens for stream in streams]
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda stream: expert(stream).tokens, streams))
        assert all(map(torch.equal, found, wanted))

    def test_they_are_a_view_that_outlives_the_process(self, toy: MakeCard) -> None:
        before = segments()
        expert = start(toy("Colours"))
        tokens = expert(torch.ones(2, 3, 12, 18)).tokens
        wanted = tokens.clone()
        assert segments() == before + 1
        expert.close()
        assert torch.equal(tokens, wanted)
        del tokens
        assert segments() == before


class TestFailures:
    @pytest.mark.parametrize(
        ("mood", "said"),
        [
            (1, "expert 'moody' failed in its process; got RuntimeError: out of paint"),
            (2, "expert 'moody' failed in its process: too dark; got night; expected day. Wait."),
            (3, "expert 'moody' does not keep its card's promise; got str; expected ExpertFeatures"),
            (7, "expert 'moody' failed in its process; got SystemExit: enough"),
        ],
    )
    def test_what_its_code_raises_is_raised_here(self, shared_pool: ExpertPool, mood: int, said: str) -> None:
        expert: Any = shared_pool.expert("moody")
        before = expert.pid
        with pytest.raises(ExpertRunError) as caught:
            shared_pool.encode_all([shade(mood)], "moody")
        assert str(caught.value).startswith(said)
        assert "isolated_toys.py" in caught.value.__notes__[0] or mood == 3
        assert shared_pool.encode_all([shade(90)], "moody").tokens.shape == (1, 6, 4)
        assert expert.pid == before

    @pytest.mark.parametrize(
        ("mood", "said"),
        [
            (4, "the process of expert 'moody' ended with exit code 3; got its output: the last words"),
            (
                5,
                "the process of expert 'moody' was ended by SIGKILL. The machine may have run out of memory.",
            ),
        ],
    )
    def test_a_crash_is_noticed_at_once_and_mended_by_the_next_request(
        self, shared_pool: ExpertPool, mood: int, said: str
    ) -> None:
        expert: Any = shared_pool.expert("moody")
        before, began = expert.pid, time.monotonic()
        with pytest.raises(ExpertRunError) as caught:
            shared_pool.encode_all([shade(mood)], "moody")
        assert time.monotonic() - began < 30  # the patience is 600 s
        assert str(caught.value).startswith(said)
        assert not runs(before)
        assert shared_pool.encode_all([shade(90)], "moody").tokens.shape == (1, 6, 4)
        assert expert.pid != before

    def test_one_that_never_answers_is_ended(self, toy: MakeCard) -> None:
        expert = start(toy("Moody"), patience=Patience(start=120, answer=20))
        expert._worker._patience = Patience(answer=0.5)  # it has loaded, which takes longer
        pid = expert.pid
        with pytest.raises(
            ExpertRunError, match=r"did not answer within 0.5 s and was ended.*MOVA_WORKER_TIMEOUT"
        ):
            expert(expert.preprocess([shade(6)]))
        assert not runs(pid)

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("Bad", "'bad' could not be loaded: the weights are bad; got none. Fetch them."),
            (
                "Ends",
                "'ends' could not be loaded: the process of expert 'ends' ended with exit code 1; got its ",
            ),
            ("Absent", "'absent' could not be loaded: expert absent: isolated_toys has no class Absent"),
        ],
    )
    def test_what_speaks_against_loading_it_is_said(self, toy: MakeCard, name: str, said: str) -> None:
        before = descriptors()
        with pytest.raises(ExpertLoadError) as caught:
            ExpertPool([toy(name)]).expert(name.lower())
        assert said in str(caught.value)
        del caught
        assert descriptors() == before

    def test_what_its_code_lacks_belongs_into_its_environment(
        self, make_card: MakeCard, place: Callable[..., Path]
    ) -> None:
        card = make_card("lacking", factory="mova_not_there:Expert", isolation="process")
        place(card)
        with pytest.raises(
            ExpertLoadError, match=r"`mova experts isolate lacking NAME==VERSION`.*mova_not_there"
        ):
            start(card)

    def test_a_pool_that_may_skip_goes_on_without_it(self, toy: MakeCard, shared_pool: ExpertPool) -> None:
        pool = ExpertPool([toy("Bad")], on_expert_error="skip")
        encoded = pool.encode([shade(1)], [Route(("bad",))])
        assert "the weights are bad" in encoded.skipped["bad"]

    @pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", "nan"])
    def test_a_patience_that_is_none_is_named(
        self, toy: MakeCard, monkeypatch: pytest.MonkeyPatch, text: str
    ) -> None:
        monkeypatch.setenv("MOVA_WORKER_TIMEOUT", text)
        with pytest.raises(ConfigError, match=f"MOVA_WORKER_TIMEOUT says no time; got {text}"):
            start(toy("Colours"))

    def test_the_patience_may_be_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MOVA_WORKER_TIMEOUT", "900")
        assert Patience.from_environment() == Patience(900, 900)


class TestEnvironment:
    """Interpreters that are none, or say what no worker says."""

    @pytest.fixture
    def fake(
        self, make_card: MakeCard, place: Callable[..., Path], tmp_path: Path
    ) -> Callable[[str], ExpertCard]:
        def make(script: str) -> ExpertCard:
            python = interpreter(tmp_path)
            python.parent.mkdir()
            python.write_text(f"#!{sys.executable}\nimport os, socket, sys, time\n{script}")
            python.chmod(0o755)
            card = make_card("fake", isolation="process", title=script or "empty")
            place(card, tmp_path)
            return card

        return make

    SAYS = "s = socket.socket(fileno=int(sys.argv[-1])); s.sendall(bytes({}))"

    @pytest.mark.parametrize(
        ("script", "said"),
        [
            ("print('boom'); sys.exit(9)", "ended with exit code 9; got its output: boom"),
            (
                "sys.exit('No module named mova_core')",
                "exit code 1; got its output: No module named mova_core",
            ),
            ("time.sleep(600)", "did not start within 1 s"),
            ("if os.fork(): os._exit(4)\ntime.sleep(5)", "ended with exit code 4"),
            (SAYS.format("[0, 0, 0, 2]") + "; s.sendall(b'{}'); time.sleep(600)", "broke the protocol"),
            (SAYS.format("[255] * 9") + "; time.sleep(600)", "broke the protocol"),
            (SAYS.format("[0, 0, 0, 9, 0]"), "ended with exit code 0"),
            (
                'b = b\'{"kind": "hello", "protocol": 99, "mood": "good"}\'\n'
                + SAYS.format("[0, 0, 0, len(b)]")
                + "; s.sendall(b); time.sleep(600)",
                "a mova-core of another protocol; got protocol 99; expected protocol 1",
            ),
        ],
    )
    def test_one_that_is_no_worker_is_named_with_the_way_out(
        self, fake: Callable[[str], ExpertCard], script: str, said: str
    ) -> None:
        before = descriptors()
        with pytest.raises(ExpertLoadError) as caught:
            start(fake(script), patience=Patience(start=1, answer=1) if "600" in script else Patience(20, 20))
        assert said in str(caught.value)
        assert "mova experts isolate fake" in str(caught.value) or "MOVA_WORKER_TIMEOUT" in str(caught.value)
        del caught
        if "fork" not in script:
            assert descriptors() == before

    def test_one_that_cannot_be_run_is_named(self, fake: Callable[[str], ExpertCard]) -> None:
        card = fake("")
        interpreter(environment_folder(card)).chmod(0o644)
        with pytest.raises(
            ExpertLoadError, match=r"cannot be started; got .*Permission denied.*isolate fake"
        ):
            start(card)

    def test_one_that_is_not_there_is_named_with_the_command(self, make_card: MakeCard) -> None:
        card = make_card("nowhere", isolation="process")
        with pytest.raises(
            ExpertLoadError, match=r"which is not there; got .*`mova experts isolate nowhere`"
        ):
            load_expert(card, device=torch.device("cpu"), dtype=torch.float32)


def test_a_model_has_its_base_in_its_own_process(
    site: Any, card_toml: Callable[..., str], place: Callable[..., Path]
) -> None:
    from mova_core.cards.resolve import find_expert
    from mova_core.model.build import load_base

    apart = ('role = "expert"', 'role = "base"\nisolation = "process"')
    site.install(
        "eyes",
        groups={"mova.experts": {"eye": "eyes:e.toml"}},
        files={"eyes/e.toml": card_toml("eye", apart)},
    )
    card = find_expert("eye").card
    assert card is not None
    place(card)
    write_note(card, version="1.0", requirements=[], shared=[])
    with pytest.raises(ExpertLoadError, match="base encoder runs in the model's own process.*card of eye"):
        load_base("eye", dtype=torch.float32, device=torch.device("cpu"))


class TestLifetime:
    def test_eviction_ends_the_process(self, toy: MakeCard) -> None:
        pool = ExpertPool([toy("Colours"), toy("Process")], memory_budget=60)
        first: Any = pool.expert("colours")
        pid = first.pid
        del first
        assert runs(pid) and pool.loaded_bytes == 48
        second: Any = pool.expert("process")
        assert pool.loaded == ("process",)
        assert not runs(pid)
        pid = second.pid
        del second
        pool.unload("process")
        assert not runs(pid)

    def test_nothing_is_left_when_the_pool_has_gone(self, toy: MakeCard) -> None:
        before = descriptors(), segments()
        pool = ExpertPool([toy("Process")], dtype=torch.float64)
        pid = int(pool.encode_all([shade(1)], "process").tokens[0, 0, 0])
        assert runs(pid)
        del pool
        gc.collect()  # a pool and its shelf refer to each other
        assert not runs(pid)
        assert (descriptors(), segments()) == before

    def test_a_fork_does_not_end_it(self, shared_pool: ExpertPool) -> None:
        expert: Any = shared_pool.expert("process")
        if not (child := os.fork()):
            try:
                expert.close()
            finally:
                os._exit(0 if expert._worker.ended else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        before = expert.pid
        assert expert(torch.zeros(1, 3, 12, 18)).tokens.shape == (1, 6, 4) and expert.pid == before

    @pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), signal.SIGKILL)"])
    def test_it_ends_with_its_parent(self, toy: MakeCard, end: str) -> None:
        card = toy("Moody")
        script = f"""
            import os, signal, sys, threading, time, torch
            from PIL import Image
            from mova_core.cards.card import ExpertCard
            from mova_core.experts.isolation.proxy import IsolatedExpert
            card = ExpertCard.model_validate_json(sys.argv[1])
            cpu = torch.device("cpu")
            expert = IsolatedExpert.start(card, "", dtype=torch.float32, device=cpu)
            print(expert.pid, flush=True)
            stream = expert.preprocess([Image.new("RGB", (18, 12), (6, 6, 6))])
            threading.Thread(target=expert, args=(stream,), daemon=True).start()
            time.sleep(0.3)
            {end}
        """
        command = [sys.executable, "-c", textwrap.dedent(script), card.model_dump_json()]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120)
        assert done.returncode == (-signal.SIGKILL if "KILL" in end else 0)
        assert ends(int(done.stdout))


class TestSegments:
    shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
    dtypes = st.sampled_from(
        [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]
    )

    @given(shape=shapes, dtype=dtypes, flipped=st.booleans())
    def test_a_tensor_arrives_as_it_was(
        self, shape: tuple[int, ...], dtype: torch.dtype, flipped: bool
    ) -> None:
        tensor: Tensor = torch.randn(shape).mul(100).to(dtype)
        tensor = tensor.permute(list(reversed(range(tensor.dim())))) if flipped else tensor
        header, segment = share(tensor)
        found = adopt(header, segment)
        assert found.dtype == dtype and found.shape == tensor.shape and torch.equal(found, tensor)

    def test_memory_that_is_smaller_than_announced_is_refused(self) -> None:
        before = descriptors()
        _, segment = share(torch.ones(3))
        with pytest.raises(ValueError, match="16 bytes was announced, and 12 came"):
            adopt(TensorHeader(dtype="float32", shape=(4,)), segment)
        assert descriptors() == before

    def test_a_dtype_that_is_not_passed_is_named(self) -> None:
        with pytest.raises(TypeError, match="complex64"):
            share(torch.ones(1, dtype=torch.complex64))


class TestChannel:
    @given(words=st.text(max_size=200), carries=st.booleans())
    def test_messages_arrive_whole_and_in_order(self, words: str, carries: bool) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            there, here = Channel(ours, REQUESTS), Channel(theirs, REQUESTS)
            message = Load(card={"words": words}, source=words, dtype="float32", device="cpu", threads=1)
            segment = os.open(os.devnull, os.O_RDONLY) if carries else None
            for _ in range(2):
                there.send(message, segment)
            for _ in range(2):
                found, came = here.receive(seconds=5)
                assert found == message and (came is not None) == carries
                if came is not None:
                    os.close(came)
            if segment is not None:
                os.close(segment)

    @pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"kind": "load"}', b'{"kind": "hello"}', b"\xff"])
    def test_what_is_no_message_is_refused(self, body: bytes) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.sendall(len(body).to_bytes(4, "big") + body)
            with pytest.raises(ValueError):
                Channel(theirs, REQUESTS).receive(seconds=5)

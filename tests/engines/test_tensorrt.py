"""The TensorRT engine on a GPU that isn't there. What a real one answers, and how fast, only
tests/gpu can tell."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import threading
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from fake_device import FakeDevice
from hypothesis import given
from hypothesis import strategies as st

from electra_qa.build_engine.graph_file import write_graph
from electra_qa.bundle import Bundle, seal_bundle, write_bundle
from electra_qa.client import AsyncClient
from electra_qa.engines import Engine, EngineError, EngineSettings, load_engine
from electra_qa.engines.checked_graph import checked_graph
from electra_qa.server.lifecycle import running
from electra_qa.server.settings import ServerSettings
from electra_qa.spans import MASKED, DecodedWindows
from electra_qa.tokenization import Tokenizer
from electra_qa.windows import WindowBatch, WindowSettings, make_windows

from .conftest import Start, importer

Copied = Callable[[Bundle], Bundle]

both_libraries = pytest.mark.parametrize("cuda_library", ["pycuda", "cuda-python"])

CONTEXT = (
    "The Normans were the people who in the 10th and 11th centuries gave their name to Normandy, "
    "a region in France. They were descended from Norse raiders and pirates from Denmark, Iceland "
    "and Norway who, under their leader Rollo, agreed to swear fealty to King Charles III. "
)
QUESTIONS = ("In what country is Normandy located?", "Who was the Norse leader?", "Why?")


def batch_of(windows: int, length: int, seed: int = 0) -> WindowBatch:
    """Windows of random tokens, of random lengths up to `length`."""
    rng = np.random.default_rng(seed)
    input_ids = np.zeros((windows, length), np.int32)
    bounds = np.zeros((windows, 5), np.int32)
    for row in range(windows):
        end = int(rng.integers(length // 2, length - 1))
        first, stop = 6, int(rng.integers(10, end + 1))
        input_ids[row, : end + 1] = rng.integers(1000, 20000, end + 1)
        bounds[row] = (first, end, first, stop, int(rng.integers(1, 30)))
    return WindowBatch(input_ids, bounds)


def real_windows(bundle: Bundle, question: str, settings: WindowSettings) -> WindowBatch:
    tokenizer = Tokenizer(
        bundle.tokenizer_path.read_text(encoding="utf-8"), bundle.manifest.special_tokens
    )
    windows = make_windows(
        tokenizer.question(question),
        tokenizer.context(CONTEXT * 3).ids,
        settings=settings,
        cls_id=tokenizer.cls_id,
        sep_id=tokenizer.sep_id,
    )
    length = settings.max_seq_length
    return WindowBatch.pad(windows, [30] * len(windows), length=length, pad_id=tokenizer.pad_id)


def assert_same(actual: DecodedWindows, expected: DecodedWindows) -> None:
    found = expected.span_logits[..., 0] > MASKED / 2
    scores = [decoded.span_logits.sum(axis=2) for decoded in (actual, expected)]
    np.testing.assert_allclose(scores[0][found], scores[1][found], atol=1e-4)
    for name in ("null_logits", "log_partition", "logits"):
        np.testing.assert_allclose(getattr(actual, name), getattr(expected, name), atol=1e-4)
    # Two engines may order spans differently whose scores differ by rounding only.
    gaps = np.diff(scores[1], axis=1, append=-np.inf)
    clear = (np.abs(gaps) > 1e-4) & (np.roll(np.abs(gaps), 1, axis=1) > 1e-4) & found
    assert clear[:, 0].any()
    np.testing.assert_array_equal(actual.spans[clear], expected.spans[clear])
    assert actual.spans.shape == expected.spans.shape


def assert_identical(actual: DecodedWindows, expected: DecodedWindows) -> None:
    for field in dataclasses.fields(expected):
        np.testing.assert_array_equal(getattr(actual, field.name), getattr(expected, field.name))


@both_libraries
def test_the_default_model_answers_as_on_a_cpu(
    start: Start, short_bundle: Bundle, copied: Copied, reference: Engine
) -> None:
    engine = start(copied(short_bundle), max_batch_tokens=512)
    for question in QUESTIONS:
        batch = real_windows(short_bundle, question, WindowSettings(128, 48, 16))
        assert_same(engine.run(batch), reference.run(batch))


@both_libraries
def test_every_bucket(
    start: Start, tiny_bundle: Bundle, copied: Copied, tiny_reference: Engine
) -> None:
    engine = start(copied(tiny_bundle), max_batch_tokens=1024)
    assert engine.buckets == (64, 128, 192, 256, 320, 384, 512)
    for length in engine.buckets:
        batch = batch_of(2, length, seed=length)
        expected = tiny_reference.run(batch)
        for _ in range(2 * engine.slots):
            assert_same(engine.run(batch), expected)


@both_libraries
def test_every_shape_of_every_slot_is_run_before_the_first_batch(
    start: Start, gpu: FakeDevice, tiny_bundle: Bundle, copied: Copied
) -> None:
    """A batch then makes, captures and enqueues nothing, whichever slot it comes to."""
    engine = start(copied(tiny_bundle), max_batch_tokens=512)
    shapes = {64: (1, 2, 4, 8), 128: (1, 2, 4), 192: (1, 2), 256: (1, 2)}
    shapes |= dict.fromkeys((320, 384, 512), (1,))
    count = sum(len(windows) for windows in shapes.values()) * engine.slots
    assert gpu.count("captured") == count
    assert gpu.count("graph launch") == count
    contexts, before = gpu.live["execution contexts"], len(gpu.events)
    assert contexts == count
    for length, sizes in shapes.items():
        for windows in range(1, sizes[-1] + 1):
            for _ in range(engine.slots):
                engine.run(batch_of(windows, length))
    assert set(gpu.events[before:]) == {"graph launch"}
    assert gpu.live["execution contexts"] == contexts


@both_libraries
def test_a_batch_lets_go_of_pythons_lock_once(
    start: Start, gpu: FakeDevice, tiny_bundle: Bundle, copied: Copied
) -> None:
    """While it waits for the GPU. It hops to no thread, and its wait does not spin: `gpu` sees to
    that."""
    engine = start(copied(tiny_bundle), max_batch_tokens=128)
    gpu.events.clear()
    gpu.threads.clear()
    for _ in range(engine.slots):
        engine.run(batch_of(1, 64))
    assert gpu.events == ["graph launch"] * engine.slots  # nothing that lets go
    assert gpu.threads == {threading.current_thread()}
    launcher = engine._closing.peek()[2][2].launcher
    python_api = 4  # FUNCFLAG_PYTHONAPI, of ctypes.PYFUNCTYPE
    held = {
        name: bool(getattr(launcher, name).function._flags_ & python_api)
        for name in ("_push", "_pop", "_launch", "_record", "_synchronize")
    }
    assert held.pop("_synchronize") is False
    assert all(held.values())


def test_outputs_and_inputs_are_copied_in_one_copy_each(
    start: Start, gpu: FakeDevice, tiny_bundle: Bundle, copied: Copied
) -> None:
    gpu.faults.capture = True
    engine = start(copied(tiny_bundle), max_batch_tokens=128)
    gpu.events.clear()
    engine.run(batch_of(1, 64))
    copies = [event for event in gpu.events if event.startswith("copy")]
    assert copies == ["copy to the GPU", "copy to the host"]


def test_batches_of_any_size_are_padded_and_cut(
    start: Start, tiny_bundle: Bundle, copied: Copied, tiny_reference: Engine
) -> None:
    engine = start(copied(tiny_bundle), max_batch_tokens=640)
    for windows in range(1, 11):  # 10 is the most, and no power of two
        batch = batch_of(windows, 64, seed=windows)
        decoded = engine.run(batch)
        assert len(decoded.spans) == windows
        assert_same(decoded, tiny_reference.run(batch))
    with pytest.raises(EngineError, match="1 to 10"):
        engine.run(batch_of(11, 64))


def test_a_window_over_the_budget_runs_alone(
    start: Start, tiny_bundle: Bundle, copied: Copied, tiny_reference: Engine
) -> None:
    engine = start(copied(tiny_bundle), max_batch_tokens=100)
    batch = batch_of(1, 384)
    assert_same(engine.run(batch), tiny_reference.run(batch))
    with pytest.raises(EngineError, match="max_batch_tokens is 100"):
        engine.run(batch_of(2, 384))


def test_lengths_between_buckets_are_padded(
    start: Start, tiny_bundle: Bundle, copied: Copied, tiny_reference: Engine
) -> None:
    engine = start(copied(tiny_bundle), max_batch_tokens=384)
    batch = batch_of(3, 80)
    assert_same(engine.run(batch), tiny_reference.run(batch))
    with pytest.raises(EngineError, match="longer than the engine's 512"):
        engine.run(batch_of(1, 513))


@both_libraries
def test_many_threads_keep_their_own_results(
    start: Start, gpu: FakeDevice, tiny_bundle: Bundle, copied: Copied
) -> None:
    engine = start(copied(tiny_bundle), max_batch_tokens=640)
    batches = [batch_of(n, length, seed=n) for n in (1, 2, 3, 5) for length in (64, 128)]
    alone = [engine.run(batch) for batch in batches]
    with ThreadPoolExecutor(engine.slots + 3) as pool:
        together = list(pool.map(engine.run, batches * 6))
    for index, decoded in enumerate(together):
        assert_identical(decoded, alone[index % len(batches)])
    assert gpu.count("graph launch") > 0


def test_results_stay_when_the_next_batch_comes(
    start: Start, tiny_bundle: Bundle, copied: Copied
) -> None:
    engine = start(copied(tiny_bundle))
    batch = batch_of(2, 64, seed=1)
    first = engine.run(batch)
    kept = dataclasses.replace(first, spans=first.spans.copy(), null_logits=first.null_logits + 0)
    for seed in range(2, 6):
        engine.run(batch_of(2, 64, seed=seed))
    assert_identical(first, kept)


def test_a_second_start_loads_what_the_first_one_built(
    start: Start, gpu: FakeDevice, tiny_bundle: Bundle, copied: Copied, tiny_reference: Engine
) -> None:
    bundle = copied(tiny_bundle)
    start(bundle).close()
    files = sorted(path.name for path in (bundle.path / "tensorrt").iterdir())
    assert [name.rpartition(".")[2] for name in files] == ["json", "plan", "timing"]
    assert all(name.startswith("nvidia-fake-4090.sm89.trt11.4.0.106.") for name in files)
    engine = start(bundle)
    assert gpu.count("build") == 1
    batch = batch_of(2, 64)
    assert_same(engine.run(batch), tiny_reference.run(batch))


def test_another_version_gpu_or_setting_is_built_anew(
    start: Start, gpu: FakeDevice, tiny_bundle: Bundle, copied: Copied
) -> None:
    bundle = copied(tiny_bundle)
    start(bundle).close()
    gpu.tensorrt_version = "11.5.0.1"
    start(bundle).close()
    assert gpu.count("build") == 2
    gpu.name = "NVIDIA Fake 5090"
    start(bundle).close()
    assert gpu.count("build") == 3
    start(bundle, max_batch_tokens=384).close()
    assert gpu.count("build") == 4
    start(bundle).close()
    assert gpu.count("build") == 4


def test_another_graph_is_built_anew(
    start: Start, gpu: FakeDevice, tiny_bundle: Bundle, copied: Copied
) -> None:
    bundle = copied(tiny_bundle)
    start(bundle).close()
    model = onnx.load(bundle.graph_path)
    model.doc_string = "another"
    files = {
        bundle.graph_path.name: model.SerializeToString(),
        "tokenizer.json": bundle.tokenizer_path.read_bytes(),
    }
    start(write_bundle(bundle.path, bundle.manifest, files)).close()
    assert gpu.count("build") == 2


def test_weights_in_a_file_of_their_own(
    start: Start,
    gpu: FakeDevice,
    tiny_bundle: Bundle,
    copied: Copied,
    weights_outside: Callable[[], None],
) -> None:
    """They are found beside the graph, and other ones are built anew."""
    bundle = copied(tiny_bundle)
    model, batch = onnx.load(bundle.graph_path), batch_of(2, 64)
    expected = start(bundle).run(batch)
    weights_outside()
    graph, data = (bundle.path / name for name in ("model.fp32.onnx", "model.fp32.onnx.data"))
    write_graph(ir.from_proto(model), graph)
    moved = seal_bundle(bundle.path, bundle.manifest, [graph.name, data.name, "tokenizer.json"])
    assert graph.stat().st_size < data.stat().st_size
    assert gpu.count("build") == 1
    got = start(moved).run(batch)
    for field in dataclasses.fields(got):
        np.testing.assert_array_equal(getattr(got, field.name), getattr(expected, field.name))
    start(moved).close()
    assert gpu.count("build") == 2
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    start(seal_bundle(bundle.path, bundle.manifest, moved.manifest.files)).close()
    assert gpu.count("build") == 3


@pytest.mark.parametrize("suffix", ["plan", "json"])
def test_a_damaged_plan_is_built_anew(
    start: Start,
    gpu: FakeDevice,
    tiny_bundle: Bundle,
    copied: Copied,
    suffix: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bundle = copied(tiny_bundle)
    start(bundle).close()
    (path,) = (bundle.path / "tensorrt").glob(f"*.{suffix}")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    start(bundle).close()
    assert gpu.count("build") == 2
    assert "built anew" in caplog.text
    start(bundle).close()
    assert gpu.count("build") == 2


def test_a_plan_that_tensorrt_refuses_is_built_anew(
    start: Start, gpu: FakeDevice, tiny_bundle: Bundle, copied: Copied
) -> None:
    """One that is whole, and made for versions from another one on, but not for this one."""
    bundle = copied(tiny_bundle)
    start(bundle, version_compatible=True).close()
    (path,) = (bundle.path / "tensorrt").glob("*.plan")
    (about,) = (bundle.path / "tensorrt").glob("*.json")
    broken = b"of TensorRT 12"
    path.write_bytes(broken)
    content = json.loads(about.read_text())
    content["sha256"] = hashlib.sha256(broken).hexdigest()
    about.write_text(json.dumps(content))
    start(bundle, version_compatible=True).close()
    assert gpu.count("build") == 2


def test_compatible_plans_are_moved(
    start: Start, gpu: FakeDevice, tiny_bundle: Bundle, copied: Copied
) -> None:
    bundle = copied(tiny_bundle)
    start(bundle, hardware_compatible=True, version_compatible=True).close()
    gpu.name, gpu.compute_capability = "NVIDIA Fake H100", (9, 0)
    gpu.tensorrt_version = "11.5.0.1"
    engine = start(bundle, hardware_compatible=True, version_compatible=True)
    assert gpu.count("build") == 1
    assert "NVIDIA Fake H100" in engine.device


def test_timings_are_kept_for_the_next_build(
    start: Start, gpu: FakeDevice, tiny_bundle: Bundle, copied: Copied
) -> None:
    bundle = copied(tiny_bundle)
    start(bundle).close()
    start(bundle, max_batch_tokens=512).close()
    assert (gpu.count("times"), gpu.count("reuses timing")) == (1, 1)
    (path,) = (bundle.path / "tensorrt").glob("*.timing")
    path.write_bytes(b"damaged")
    start(bundle, max_batch_tokens=128).close()
    assert gpu.count("times") == 2


def test_a_bundle_that_can_not_be_written_has_its_plan_in_the_users_cache(
    start: Start, gpu: FakeDevice, tiny_bundle: Bundle, copied: Copied, tmp_path: Path
) -> None:
    bundle = copied(tiny_bundle)
    (bundle.path / "tensorrt").write_text("a file, where a folder would be")
    start(bundle).close()
    assert list((tmp_path / "user-cache").rglob("*.plan"))
    start(bundle).close()
    assert gpu.count("build") == 1


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_no_bundle_is_built_with_tf32(
    start: Start, gpu: FakeDevice, tiny_bundle: Bundle, copied: Copied, precision: str
) -> None:
    bundle = copied(tiny_bundle)
    renamed = f"model.{precision}.onnx"
    files = {renamed: bundle.graph_path.read_bytes(), "tokenizer.json": b""}
    manifest = dataclasses.replace(bundle.manifest, precision=precision)
    start(write_bundle(bundle.path, manifest, files))
    assert [event for event in gpu.events if event.startswith("tf32")] == ["tf32 False"]


def test_a_batch_stays_on_one_stream_unless_asked(
    start: Start, gpu: FakeDevice, tiny_bundle: Bundle, copied: Copied
) -> None:
    """And what was asked belongs to the plan."""
    bundle = copied(tiny_bundle)
    start(bundle).close()
    start(bundle, auxiliary_streams=None).close()
    start(bundle, auxiliary_streams=2, optimization_level=5).close()
    start(bundle).close()
    assert gpu.count("build") == 3
    found = [event for event in gpu.events if event.startswith(("auxiliary", "optimization"))]
    assert found == [
        *("auxiliary streams 0", "optimization level 3"),
        *("auxiliary streams -1", "optimization level 3"),
        *("auxiliary streams 2", "optimization level 5"),
    ]


def test_as_many_slots_as_streams_were_asked_for(
    start: Start, gpu: FakeDevice, tiny_bundle: Bundle, copied: Copied
) -> None:
    engine = start(copied(tiny_bundle), max_batch_tokens=64, streams=3)
    assert engine.slots == 3
    assert gpu.live["execution contexts"] == 3 * len(engine.buckets)


def test_a_batch_gets_a_shape_that_its_profile_has(
    fresh: Callable[[], None],  # noqa: ARG001
) -> None:
    from electra_qa.engines.tensorrt.profiles import Profiles

    @given(st.integers(64, 512), st.integers(1, 20_000), st.data())
    def holds(limit: int, tokens: int, data: st.DataObject) -> None:
        profiles = Profiles.up_to(limit, tokens)
        length = data.draw(st.sampled_from(profiles.lengths))
        most = profiles.max_windows(length)
        windows = data.draw(st.integers(1, most))
        shape = profiles.fit(windows, length)
        assert shape in profiles.shapes()
        assert shape.length == length
        assert windows <= shape.windows < min(2 * windows, windows + 8)
        profile = profiles.all[shape.profile]
        assert profile.length == length
        assert profile.fewest <= shape.windows <= profile.most
        assert profile.fewest <= profile.tuned <= profile.most
        assert profile.most <= 8 or shape.windows > 8
        # None overlaps, and none is missing.
        of_length = [one for one in profiles.all if one.length == length]
        counts = [n for one in of_length for n in range(one.fewest, one.most + 1)]
        assert counts == list(range(1, most + 1))

    holds()


def test_a_refused_graph_is_told_by_its_node(
    start: Start, tiny_bundle: Bundle, copied: Copied
) -> None:
    bundle = copied(tiny_bundle)
    model = onnx.load(bundle.graph_path)
    model.graph.node.append(onnx.helper.make_node("NonZero", ["bounds"], ["x"], name="some/node"))
    files = {bundle.graph_path.name: model.SerializeToString(), "tokenizer.json": b""}
    with pytest.raises(EngineError, match=r"does not take the graph: .*'some/node', NonZero"):
        start(write_bundle(bundle.path, bundle.manifest, files))


@pytest.mark.parametrize("length", [64, -64])
def test_a_refused_profile_is_told(
    fresh: Callable[[], None],  # noqa: ARG001
    gpu: FakeDevice,
    tiny_bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    length: int,
) -> None:
    """TensorRT lets an order that is wrong pass, and refuses it later; a negative size it refuses
    at once, by an error of another kind than its documentation says."""
    from electra_qa.engines.tensorrt.build import TensorRTOptions, build_plan
    from electra_qa.engines.tensorrt.profiles import Profiles

    monkeypatch.setattr(Profiles, "max_windows", lambda *_: 0)
    graph, profiles = checked_graph(tiny_bundle), Profiles((length,), 64)
    gpu.stack.append(0)
    try:
        with pytest.raises(EngineError, match=f"refuses Profile.length={length}, .*: .+"):
            build_plan(tiny_bundle, graph, profiles, TensorRTOptions(), b"")
    finally:
        gpu.stack.clear()


def test_a_failed_build_gives_tensorrts_reason(
    start: Start, gpu: FakeDevice, tiny_bundle: Bundle, copied: Copied
) -> None:
    bundle = copied(tiny_bundle)
    gpu.faults.build_error = "Could not find any implementation for node X"
    with pytest.raises(EngineError, match=r"any implementation for node X$"):
        start(bundle)
    gpu.faults.build_error = "Error Code 2: OutOfMemory (Requested size was 12 bytes.)"
    with pytest.raises(EngineError, match=r"OutOfMemory.*lower max_batch_tokens"):
        start(bundle)
    gpu.faults.build_error = None
    start(bundle)


@both_libraries
def test_no_gpu(start: Start, gpu: FakeDevice, tiny_bundle: Bundle, copied: Copied) -> None:
    bundle = copied(tiny_bundle)
    gpu.faults.no_gpu = True
    with pytest.raises(EngineError, match=r"no GPU that works: .*(?i:no.device)"):
        start(bundle)
    gpu.faults.no_gpu, gpu.gpus = False, 0
    with pytest.raises(EngineError, match="CUDA sees none"):
        start(bundle)


def test_no_driver(start: Start, gpu: FakeDevice, tiny_bundle: Bundle, copied: Copied) -> None:
    """cuda-python loads libcuda at the first call."""
    gpu.faults.no_driver = True
    with pytest.raises(EngineError, match=r"no GPU that works: .*NVIDIA driver library"):
        start(copied(tiny_bundle))


@pytest.mark.parametrize(
    ("error", "name", "warns"),
    [
        (None, "pycuda", False),
        (ModuleNotFoundError("No module named 'pycuda'", name="pycuda"), "cuda-python", False),
        (ModuleNotFoundError("No module named 'pytools'", name="pytools"), "cuda-python", True),
        (ImportError("libcurand.so.10: cannot open shared object file"), "cuda-python", True),
    ],
)
def test_pycuda_is_taken_where_it_can_be_loaded(
    fresh: Callable[[], None],  # noqa: ARG001
    gpu: FakeDevice,
    caplog: pytest.LogCaptureFixture,
    error: ImportError | None,
    name: str,
    warns: bool,
) -> None:
    from electra_qa.engines.tensorrt.cuda import load_cuda

    def find(module: str) -> types.ModuleType:
        if module == "pycuda.driver" and error is not None:
            raise error
        return importer(gpu, "pycuda")(module)

    assert load_cuda(find).name == name
    assert ("pycuda can't be loaded" in caplog.text) is warns


def test_without_cuda_python_there_is_no_engine(
    fresh: Callable[[], None],  # noqa: ARG001
) -> None:
    """`load_engine` makes of it what to install."""
    from electra_qa.engines.tensorrt.cuda import load_cuda

    def find(module: str) -> types.ModuleType:
        raise ModuleNotFoundError(f"No module named {module!r}", name="cuda")

    with pytest.raises(ImportError, match="cuda"):
        load_cuda(find)


@both_libraries
@pytest.mark.parametrize("limit", [0, 2, 3, 5])
def test_too_little_memory_frees_what_was_had(
    start: Start, gpu: FakeDevice, tiny_bundle: Bundle, copied: Copied, limit: int
) -> None:
    gpu.faults.allocation_limit = limit
    with pytest.raises(EngineError, match="no room for the engine's buffers"):
        start(copied(tiny_bundle))


def test_a_shape_without_room_fails_the_start(
    start: Start, gpu: FakeDevice, tiny_bundle: Bundle, copied: Copied
) -> None:
    """And not the first batch of that shape, which may come days later."""
    bundle = copied(tiny_bundle)
    gpu.faults.context_error = "Error Code 1: Cuda Runtime (out of memory)"
    with pytest.raises(EngineError, match=r"out of memory.*lower max_batch_tokens"):
        start(bundle)
    gpu.faults.context_error = None
    start(bundle).run(batch_of(1, 64))


def test_a_failed_enqueue_fails_the_batch_only(
    start: Start, gpu: FakeDevice, tiny_bundle: Bundle, copied: Copied
) -> None:
    gpu.faults.capture = True  # a graph enqueues nothing
    engine = start(copied(tiny_bundle))
    gpu.faults.enqueue = True
    with pytest.raises(EngineError, match="launch failure"):
        engine.run(batch_of(1, 64))
    gpu.faults.enqueue = False
    engine.run(batch_of(1, 64))


@both_libraries
@pytest.mark.parametrize("seems_well", [False, True])
def test_after_a_fault_every_run_fails_and_none_hangs(
    start: Start, gpu: FakeDevice, tiny_bundle: Bundle, copied: Copied, seems_well: bool
) -> None:
    engine = start(copied(tiny_bundle))
    engine.run(batch_of(1, 64))
    gpu.faults.asynchronous = True
    with ThreadPoolExecutor(6) as pool:
        runs = [pool.submit(engine.run, batch_of(1, 64)) for _ in range(6)]
        for run in runs:
            with pytest.raises(EngineError, match="restart the process"):
                run.result(timeout=20)
    gpu.faults.asynchronous = False
    if seems_well:
        gpu.fault = None
    for _ in range(3):
        with pytest.raises(EngineError, match=r"restart the process.*CUDA_ERROR_ILLEGAL_ADDRESS"):
            engine.run(batch_of(1, 64))


@both_libraries
def test_a_thread_whose_context_stays_does_not_end(
    start: Start,
    gpu: FakeDevice,
    tiny_bundle: Bundle,
    copied: Copied,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """pycuda would abort the process."""
    engine = start(copied(tiny_bundle))
    import electra_qa.engines.tensorrt.cuda as module

    monkeypatch.setattr(module, "CLOSE_TIMEOUT_S", 0.2)
    gpu.faults.pop = True
    engine.close()
    threads = [thread for thread in threading.enumerate() if thread.name == "gpu"]
    assert threads
    for stack in gpu.stacks.values():  # the fixture wants them empty
        stack.clear()
    gpu.live.pop("contexts of pycuda", None)


@both_libraries
def test_without_capture_batches_are_enqueued(
    start: Start,
    gpu: FakeDevice,
    tiny_bundle: Bundle,
    copied: Copied,
    tiny_reference: Engine,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gpu.faults.capture = True
    engine = start(copied(tiny_bundle))
    batches = [batch_of(n, 64, seed=n) for n in (1, 2, 3, 2, 1, 3)]
    with caplog.at_level(logging.WARNING):
        for batch in batches:
            assert_same(engine.run(batch), tiny_reference.run(batch))
    assert caplog.text.count("no CUDA graphs") == 1
    assert gpu.count("graph launch") == 0


@both_libraries
def test_a_closed_engine_refuses(start: Start, tiny_bundle: Bundle, copied: Copied) -> None:
    engine = start(copied(tiny_bundle))
    engine.run(batch_of(1, 64))
    engine.close()
    engine.close()
    for _ in range(2):
        with pytest.raises(EngineError, match="closed"):
            engine.run(batch_of(1, 64))


@both_libraries
def test_close_waits_for_what_runs(start: Start, tiny_bundle: Bundle, copied: Copied) -> None:
    engine = start(copied(tiny_bundle), max_batch_tokens=512)
    batches = [batch_of(4, 128, seed=n) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        runs = [pool.submit(engine.run, batch) for batch in batches]
        engine.close()
        for run in runs:
            error = run.exception(timeout=20)
            assert error is None or "closed" in str(error)


@both_libraries
def test_an_engine_that_is_dropped_frees_everything(
    gpu: FakeDevice, start: Start, tiny_bundle: Bundle, copied: Copied, cuda_library: str
) -> None:
    bundle = copied(tiny_bundle)
    start(bundle, max_batch_tokens=64)
    from electra_qa.engines.tensorrt import TensorRTEngine
    from electra_qa.engines.tensorrt.cuda import load_cuda

    before = gpu.left()
    settings = EngineSettings("gpu", max_batch_tokens=64)
    cuda = load_cuda(importer(gpu, cuda_library))
    engine = TensorRTEngine(bundle, settings, cuda=cuda)
    engine.run(batch_of(1, 64))
    assert gpu.left() != before
    del engine
    assert gpu.left() == before


@both_libraries
async def test_a_server_on_it_answers_as_on_a_cpu(
    start: Start, short_bundle: Bundle, copied: Copied
) -> None:
    settings = ServerSettings(address="127.0.0.1:0", max_batch_tokens=256, warm_up_lengths="none")
    engine = start(copied(short_bundle), max_batch_tokens=settings.max_batch_tokens)
    answers = []
    for chosen in (engine, load_engine(short_bundle)):  # a server closes what it had
        async with (
            running(short_bundle, chosen, settings) as address,
            AsyncClient(address) as client,
        ):
            pairs = [(question, CONTEXT * n) for question in QUESTIONS for n in (1, 2)]
            results = [await client.answer(q, c, top_k=3) for q, c in pairs]
            answers.append([(r.text, [(a.start, a.end) for a in r.answers]) for r in results])
    assert answers[0] == answers[1]
    assert any(text for text, _ in answers[0])

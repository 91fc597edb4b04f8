import pickle

import numpy as np
import pytest
from cache_rows import OUTPUTS, filled, keys_of, row

from cache.errors import Gone, RowsMissing
from cache.identity import Output
from cache.shard import Status
from cache.store import Store
from cache.table import Table
from foundation.errors import UserError

LARGE = Output("large", (50, 100))
OUTPUTS_AND_LARGE = (*OUTPUTS, LARGE)
NAMES = [7, 0, 5, 3, 1, 10, 2, 6]  # 5 and 10 are broken, 1 and 5 have empty ragged rows
ABSENT = 4  # position of a row that is not present

INDEXES = {
    "shuffled": [6, 0, 3, 7, 5, 1, 2, 4],
    "repeated": [3, 3, 0, 3],
    "in order": list(range(8)),
    "from the end": [-1, 0, -8],
    "none": [],
    "nothing that is ok": [ABSENT, 2, 5],
}


@pytest.fixture(
    params=[[[7, 0, 5, 3, 1, 10, 2, 6]], [[10, 3], [7, 0, 6], [2, 5, 1]], [[name] for name in NAMES]],
    ids=["one shard", "some", "many"],
)
def store(request, tmp_path) -> Store:
    return filled(tmp_path, *request.param, outputs=OUTPUTS_AND_LARGE)


def table(store: Store, output: str) -> Table:
    present = np.ones(len(NAMES), bool)
    present[ABSENT] = False
    return Table(store, output, keys_of(*NAMES), present)


def expected(output: Output) -> list[np.ndarray]:
    """The row of each position, with nothing (ragged) or zeros where it is not ok."""
    found = []
    for position, name in enumerate(NAMES):
        ok = position != ABSENT and (not name or name % 5)
        full = row(output, name)
        found.append(full if ok else full[:0] if output.ragged else np.zeros_like(full))
    return found


@pytest.mark.parametrize("index", INDEXES.values(), ids=INDEXES)
@pytest.mark.parametrize("output", [OUTPUTS[0], LARGE], ids=["small rows", "large rows"])
def test_fixed_rows_by_position(store, output, index):
    found = table(store, output.name).gather(np.array(index, int))
    wanted = [expected(output)[i] for i in index]
    assert found.shape == (len(index), *output.shape) and found.dtype == output.dtype
    assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert found.flags.writeable, "a batch is the caller's own"


@pytest.mark.parametrize("index", INDEXES.values(), ids=INDEXES)
@pytest.mark.parametrize("output", OUTPUTS[1:], ids=lambda output: output.name)
def test_ragged_rows_by_position_padded_and_one_after_another(store, output, index):
    ragged = table(store, output.name)
    wanted = [expected(output)[i] for i in index]
    lengths = [len(row) for row in wanted]
    values, found = ragged.gather(np.array(index, int))
    assert values.shape == (len(index), max(lengths, default=0), *output.shape) and values.dtype == output.dtype
    assert found.tolist() == lengths
    for i, row_wanted in enumerate(wanted):
        assert np.array_equal(values[i, : lengths[i]], row_wanted) and not values[i, lengths[i] :].any()
    flat, found = ragged.ragged_flat(np.array(index, int))
    assert found.tolist() == lengths and flat.dtype == output.dtype
    assert np.array_equal(flat, np.concatenate([np.zeros((0, *output.shape)), *wanted]))


def test_rows_that_are_no_neighbours_are_not_copied_together(tmp_path):
    """The third row begins where the first, of the second's length, would end."""
    names = [0, 4, 8, 12, 16]  # four states each
    states = Table(filled(tmp_path, names), "states", keys_of(*names), np.ones(5, bool))
    for order in ([0, 4, 1], [2, 2, 3], [3, 2, 4], [4, 0, 1, 2]):
        wanted = np.concatenate([row(OUTPUTS[1], names[place]) for place in order])
        assert np.array_equal(states.ragged_flat(np.array(order))[0], wanted)


def test_verdicts_and_lengths_by_position(store):
    states = table(store, "states")
    verdicts = [Status.OK] * len(NAMES)
    verdicts[NAMES.index(5)] = verdicts[NAMES.index(10)] = Status.BROKEN
    verdicts[ABSENT] = Status.MISSING
    assert states.status.tolist() == verdicts
    assert states.ok.tolist() == [verdict == Status.OK for verdict in verdicts]
    assert states.lengths.tolist() == [len(row) for row in expected(OUTPUTS[1])]
    assert table(store, "grid").lengths.tolist() == states.ok.astype(int).tolist()
    assert (len(states), states.shape, states.dtype, states.ragged) == (len(NAMES), (5,), np.float16, True)


def test_the_same_key_may_stand_behind_many_positions(store):
    found = Table(store, "grid", keys_of(3, 7, 3), np.ones(3, bool)).gather(np.arange(3))
    assert np.array_equal(found[0], found[2]) and np.array_equal(found[1], row(OUTPUTS[0], 7))


def test_a_present_key_that_is_not_in_the_store_names_the_feature(store):
    with pytest.raises(RowsMissing, match="feature feature: 2 of 3 rows"):
        Table(store, "grid", keys_of(3, 98, 99), np.ones(3, bool))


def test_an_output_that_the_feature_has_not_is_named(store):
    with pytest.raises(UserError, match=r"'patches'.*grid, states"):
        Table(store, "patches", keys_of(3), np.ones(1, bool))


@pytest.mark.parametrize("index", [[8], [-9], [0.5], [True], [[0]]])
@pytest.mark.parametrize("output", ["grid", "large", "states"])
def test_what_is_no_position_is_refused(store, output, index):
    with pytest.raises(IndexError):
        table(store, output).gather(np.array(index))


def test_a_table_of_no_rows(tmp_path):
    empty = Table(filled(tmp_path), "states", keys_of(), np.ones(0, bool))
    assert empty.gather(np.array([], int))[0].shape == (0, 0, 5)
    assert empty.ragged_flat(np.array([], int))[0].shape == (0, 5)


def test_a_shard_that_is_gone_when_a_pickled_table_opens_it_is_named(store):
    copy = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(table(store, "grid")))))
    assert np.array_equal(copy.gather(np.arange(8)), table(store, "grid").gather(np.arange(8)))
    copy = pickle.loads(pickle.dumps(copy))
    for path in store.folder.glob("*.h5"):
        path.unlink()
    with pytest.raises(Gone, match="h5 is gone"):
        copy.gather(np.arange(8))


def test_damaged_offsets_are_found_before_they_lead_out_of_the_values(tmp_path):
    store = filled(tmp_path, [0, 1, 2])
    (path,) = store.folder.glob("*.h5")
    content = bytearray(path.read_bytes())
    offsets = np.array([0, 4, 4, 5]).tobytes()
    place = content.find(offsets)
    content[place + 8 : place + 16] = np.int64(1 << 40).tobytes()
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(UserError, match=path.name):
        Table(Store.open(store.folder), "states", keys_of(0, 1, 2), np.ones(3, bool))

// implements: decode_values
//
// Values enter the state as they are.

import chunk::{ChunkState, value};
import lane::{Lane};
import states/offset::{StateOffset};
import tile::{Value};
import work_item::{Chunk, WorkItem};

struct EnteringValues { unused: u32 }

fn entering_values(
    state: ptr<function, ChunkState>,
    item: WorkItem,
    chunk: Chunk,
    at: StateOffset,
    lane: Lane,
) -> EnteringValues {
    return EnteringValues(0u);
}

fn entering_value(values: EnteringValues, item: WorkItem, chunk: Chunk, i: u32, lane: Lane) -> Value {
    return value(item, chunk, i, lane);
}

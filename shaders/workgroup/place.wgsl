// The place of a workgroup. All of its threads have the same, and WGSL must see that they
// do, since barriers stand where the place decides.

var<workgroup> shared_place: Place;

fn workgroup_place(index: u32, head_blocks: u32, segments: u32, thread: u32) -> Place {
    var place = place_of(index, head_blocks, segments);
    if (LENGTHS_GIVEN || SLOTS_GIVEN) {
        if (thread == 0u) {
            shared_place = place_in_table(index, head_blocks);
        }
        place = workgroupUniformLoad(&shared_place);
    }
    return place;
}

// What all chunks of a place share.
fn chunk_of(place: Place) -> Chunk {
    var chunk: Chunk;
    chunk.first_head = place.g * params.group + place.head_block * params.head_tile;
    chunk.heads = min(params.head_tile, params.group - place.head_block * params.head_tile);
    chunk.g = place.g;
    chunk.value_block = place.value_block;
    chunk.feature_block = place.feature_block;
    chunk.is_new = true;
    return chunk;
}

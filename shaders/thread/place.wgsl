// The place of a thread.

override THREADS: u32;  // of a workgroup; each has a place of its own

fn thread_place(workgroup: vec3<u32>, thread: u32, head_blocks: u32, segments: u32) -> Place {
    let index = (workgroup.y * params.grid_width + workgroup.x) * THREADS + thread;
    if (LENGTHS_GIVEN || SLOTS_GIVEN) {
        return place_in_table(index, head_blocks);
    }
    return place_of(index, head_blocks, segments);
}

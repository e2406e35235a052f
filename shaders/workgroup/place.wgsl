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

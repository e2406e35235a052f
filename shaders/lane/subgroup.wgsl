// implements: lane
//
// The rows and columns of mu that a thread of a work item holds, where the LANES threads that share
// a row are neighbours in a subgroup: 2, 4 or 8 of them, which a device's smallest subgroup has
// room for. They add up by shuffles, without a barrier.
//
// No specification says which threads of a workgroup a subgroup has, though drivers have them in
// order. So each workgroup looks once, and adds up in workgroup memory where its threads are
// others.
//
// memory  floats: a part of each thread; a flag

import constants::{LANES, ROWS_VEC4, THREADS};

struct Lane {
    thread: u32,           // of the work item
    index: u32,            // among the threads that share a row
    f4: u32,               // its first features, in vec4s, within the feature block
    c4: u32,               // its first values, in vec4s, within the value block; the next are COLUMN_THREADS on
    has_neighbours: bool,  // threads that share a row are neighbours in a subgroup, in the whole workgroup
}

// Vec4s behind these begin at multiples of 16 bytes, without which Mesa reads them four bytes at a
// time.
const PARTS_LEN: u32 = (THREADS + 3u) / 4u * 4u;
var<workgroup> lane_parts: array<f32, PARTS_LEN>;
var<workgroup> lanes_are_apart: array<atomic<u32>, 4>;  // the first: subgroups have other threads

fn lane_of(thread: u32) -> Lane {
    let index = thread % LANES;
    return Lane(thread, index, index * ROWS_VEC4, thread / LANES, has_neighbours(thread));
}

fn has_neighbours(thread: u32) -> bool {
    if (thread == 0u) { atomicStore(&lanes_are_apart[0], 0u); }
    workgroupBarrier();
    // No thread has 0, which some devices read from a lane that does not run.
    var is_apart = subgroupShuffleXor(thread + 1u, 1u) != (thread ^ 1u) + 1u;
    if (LANES > 2u) { is_apart = is_apart | (subgroupShuffleXor(thread + 1u, 2u) != (thread ^ 2u) + 1u); }
    if (LANES > 4u) { is_apart = is_apart | (subgroupShuffleXor(thread + 1u, 4u) != (thread ^ 4u) + 1u); }
    if (is_apart) { atomicStore(&lanes_are_apart[0], 1u); }
    workgroupBarrier();
    return atomicLoad(&lanes_are_apart[0]) == 0u;
}

// The sum over the threads that share a row, which all of them get.
fn sum_over_lanes(part: vec4<f32>, lane: Lane) -> vec4<f32> {
    if (!lane.has_neighbours) { return sum_in_memory(part, lane); }
    var sum = part;
    sum += subgroupShuffleXor(sum, 1u);
    if (LANES > 2u) { sum += subgroupShuffleXor(sum, 2u); }
    if (LANES > 4u) { sum += subgroupShuffleXor(sum, 4u); }
    return sum;
}

fn sum_in_memory(part: vec4<f32>, lane: Lane) -> vec4<f32> {
    let first = lane.thread - lane.index;
    var sum = vec4<f32>(0.0);
    for (var i = 0u; i < 4u; i++) {
        // The parts before have been read.
        workgroupBarrier();
        lane_parts[lane.thread] = part[i];
        workgroupBarrier();
        for (var other = 0u; other < LANES; other++) { sum[i] += lane_parts[first + other]; }
    }
    return sum;
}

// From what each segment adds to the state each segment starts from:
//
//     start_0 = initial state      start_{s+1} = start_s + added_s
//
// reads   start_mu [N,G,F,V]  start_nu [N,G,F]: the initial state, or nothing
// in/out  end_mu [N,S,G,F,V]  end_nu [N,S,G,F]: added in, start out
// grid    one thread an element of N mu and N nu, folded
// memory  none

override SCAN_THREADS: u32;  // threads of a workgroup

@compute @workgroup_size(SCAN_THREADS)
fn state_scan(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let mu_len = params.kv_heads * KEY_DIM * VALUE_DIM / ELEMENT_LEN;
    let nu_len = params.kv_heads * KEY_DIM / ELEMENT_LEN;
    let i = (workgroup.y * params.grid_width + workgroup.x) * SCAN_THREADS + thread;
    let n = i / (mu_len + nu_len);
    let element = i % (mu_len + nu_len);
    if (n >= params.batch) {
        return;
    }
    let last = params.segments - 1u;

    if (element < mu_len) {
        var sum = Element();
        if (START != START_ZERO) {
            sum = start_mu[n * mu_len + element];
        }
        for (var s = 0u; s < last; s++) {
            let at = (n * params.segments + s) * mu_len + element;
            let added = end_mu[at];
            end_mu[at] = sum;
            sum += added;
        }
        end_mu[(n * params.segments + last) * mu_len + element] = sum;
    } else {
        let feature = element - mu_len;
        var sum = Element();
        if (START != START_ZERO) {
            sum = start_nu[n * nu_len + feature];
        }
        for (var s = 0u; s < last; s++) {
            let at = (n * params.segments + s) * nu_len + feature;
            let added = end_nu[at];
            end_nu[at] = sum;
            sum += added;
        }
        end_nu[(n * params.segments + last) * nu_len + feature] = sum;
    }
}
